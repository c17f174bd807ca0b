"""``python -m benchmarks export``: exported files beside the model, in every runtime that is installed.

All ways see the same pictures in turn, one at a time, and every round gives a ratio to torch's eager mode in that
round. With one thread the time is the process's own on the processor, which other programs lengthen less than they do
the clock's. Disparity is compared with the model's on KITTI frames of ``../shared/data`` where they are, calibrated on
those of the other camera, and else on drawn streets. Depth is compared with the laser's of the one frame that has it,
scaled by the median: what matters is how far a column moves from the first row, since ``tiny`` is a toy. Other weights
are random; they take the time of trained ones, and their disparity says nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import measure
from hybrid_encoder import HybridDepthModel
from hybrid_encoder.data import SyntheticDrive
from hybrid_encoder.data.depth_maps import read_depth
from hybrid_encoder.deploy.aoti import save_aoti
from hybrid_encoder.deploy.export import export_onnx, export_program
from hybrid_encoder.deploy.openvino import save_openvino
from hybrid_encoder.deploy.static import calibration_pictures
from hybrid_encoder.deploy.tools import quiet_exporters
from hybrid_encoder.evaluation.metrics import depth_metrics

DATA = measure.ROOT.parent / "shared" / "data" / "kitti_mini" / "2011_09_26" / "2011_09_26_drive_0001_sync"
TRUTH = DATA / "proj_depth" / "groundtruth" / "image_02" / "0000000005.png"
Size = tuple[int, int]
Call = Callable[[Tensor], Tensor]


def pictures(model: HybridDepthModel, size: Size) -> tuple[list[Tensor], list[Tensor]]:
    """Return pictures to compare on, the one with ground truth last, and others to calibrate with."""
    found = [sorted((DATA / camera / "data").glob("*.png")) for camera in ("image_02", "image_03")]
    if all(found):
        compared, calibrated = (calibration_pictures(model, paths, size) for paths in found)
        return compared, calibrated
    drives = [SyntheticDrive(seed=seed, num_frames=6, height=size[0], width=size[1]) for seed in (0, 1)]
    compared, calibrated = ([torch.from_numpy(frame.image)[None] for frame in drive] for drive in drives)
    return compared, calibrated


def ways(
    model: HybridDepthModel, size: Size, calibration: list[Tensor], folder: Path, threads: int
) -> Iterator[tuple[str, float | None, Call]]:
    """Yield each way: its name, the MB of its files, and a call from images to disparity."""
    program = export_program(model, size)
    yield "torch, eager", None, model
    with quiet_exporters():
        yield "torch.compile of the program", None, torch.compile(program.module())
    for name, options in (
        ("ONNX, float32", {}),
        ("ONNX, --int8", {"int8": True}),
        ("ONNX, --int8-static", {"calibration": calibration}),
    ):
        path = export_onnx(model, folder / f"{len(name)}.onnx", size, **options)
        yield name, _megabytes(path), _onnx(path, threads)
    path = save_openvino(model, folder / "float.xml", size)
    yield "OpenVINO, float32", _megabytes(path), _openvino(path, "f32", threads)
    yield "OpenVINO, bfloat16", _megabytes(path), _openvino(path, "bf16", threads)
    path = save_openvino(model, folder / "int8.xml", size, calibration=calibration)
    yield "OpenVINO, --int8-static", _megabytes(path), _openvino(path, "f32", threads)
    path = save_aoti(model, folder / "aoti.pt2", size)
    with quiet_exporters():
        yield "AOTInductor", _megabytes(path), torch._inductor.aoti_load_package(str(path))


def table(weights: str, size: Size, rounds: int, threads: int) -> Table:
    """Measure one model at one size."""
    torch.manual_seed(0)
    real = weights == "tiny"
    model = HybridDepthModel.from_pretrained("tiny") if real else HybridDepthModel(weights, pretrained=False)
    model.eval().requires_grad_(False)
    measure.use_clock("processor" if threads == 1 else "wall")
    compared, calibration = pictures(model, size)
    truth = read_depth(TRUTH)[None, None] if real and TRUTH.is_file() else None
    # Not inference mode: what is compiled refuses its tensors elsewhere.
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        expected = [model(images) for images in compared]
        names, calls, sizes = [], [], []
        for name, megabytes, call in ways(model, size, calibration, Path(folder), threads):
            names.append(name)
            sizes.append("" if megabytes is None else f"{megabytes:.1f}")
            calls.append(call)
        results = [[call(images) for images in compared] for call in calls]
        times: list[list[float]] = [[] for _ in calls]
        for index in range(rounds):
            images = compared[index % len(compared)]
            for call, own in zip(calls, times, strict=True):
                own.append(measure.seconds(lambda call=call, images=images: call(images), "cpu"))  # type: ignore[misc]
    spread = max(float(one.max()) for one in expected)
    shown = Table(
        *("way", "eager's time / its time", "MB", "largest difference", "mean", "abs_rel"),
        title=f"{weights}, {size[0]} x {size[1]}, {threads} thread(s), {rounds} rounds; disparity up to {spread:.2g}",
    )
    for name, written, own, found in zip(names, sizes, times, results, strict=True):
        ratios = [eager / one for eager, one in zip(times[0], own, strict=True)]
        off = [(one - right).abs() for one, right in zip(found, expected, strict=True)]
        shown.add_row(
            name,
            f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            written,
            f"{max(float(one.max()) for one in off):.1e}",
            f"{sum(float(one.mean()) for one in off) / len(off):.1e}",
            "" if truth is None else f"{_abs_rel(model, found[-1], truth):.4f}",
        )
    return shown


def _abs_rel(model: HybridDepthModel, disparity: Tensor, truth: Tensor) -> float:
    large = torch.nn.functional.interpolate(disparity, truth.shape[-2:], mode="bilinear", align_corners=False)
    return depth_metrics(model.to_depth(large), truth, median_scaling=True, crop="garg").abs_rel


def _megabytes(path: Path) -> float:
    return sum(file.stat().st_size for file in (path, path.with_suffix(".bin")) if file.is_file()) / 1e6


def _onnx(path: Path, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _openvino(path: Path, precision: str, threads: int) -> Call:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    return lambda images: torch.from_numpy(compiled({"images": images.numpy()})["disparity"].copy())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks export", description=__doc__)
    parser.add_argument("--weights", nargs="+", default=["tiny"], help="tiny, or presets with random weights")
    parser.add_argument("--size", default="96x320", help="HEIGHTxWIDTH")
    parser.add_argument("--rounds", type=int, default=15, help="how often each way is timed, in turn")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    height, width = map(int, given.size.split("x"))
    for weights in given.weights:
        Console(width=130).print(table(weights, (height, width), given.rounds, given.threads))


if __name__ == "__main__":
    main()
