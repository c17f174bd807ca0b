"""Exported files run and compared with the model that they were made from, whatever their format."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybrid_encoder.deploy.formats import FORMATS, choose_format
from hybrid_encoder.deploy.tools import check_packages, quiet_exporters
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.models.depth import HybridDepthModel

Runner = Callable[[Tensor], Tensor]


def load_file(path: str | Path, to: str | None = None) -> Runner:
    """Return a function from images (B, 3, H, W) to disparity (B, 1, H, W) that runs an exported file on the CPU.

    Args:
        path: of the exported file.
        to: its format, a name of ``FORMATS``; None tells it from the suffix and, for ``.pt2``, from what is inside.

    Raises:
        InputError: no suffix of an exported file.
        ConfigError: no such format, or the package that runs it is missing.
    """
    path = Path(path)
    name = choose_format(path, to)
    if to is None and name == "program" and _is_aoti(path):
        name = "aoti"
    runtime, extra = FORMATS[name].runtime, FORMATS[name].extra
    check_packages(*([] if runtime is None else [runtime]), extra=extra)
    return _LOADERS[name](path)


def file_difference(
    model: HybridDepthModel, path: str | Path, images: Tensor, to: str | None = None
) -> tuple[float, float]:
    """Return the largest and the mean absolute difference of disparity between an exported file and the model.

    Args:
        model: in any mode and on any device; it is compared in evaluation mode.
        path, to: as for :func:`load_file`.
        images: RGB in [0, 1], (B, 3, H, W), of a size that the file accepts.

    Raises:
        InputError: as :func:`load_file`.
        ConfigError: as :func:`load_file`; disparity of another shape than the model's.
    """
    return difference(model, images, load_file(path, to))[:2]


def difference(model: HybridDepthModel, images: Tensor, run: Runner) -> tuple[float, float, float]:
    """Return :func:`file_difference` of a file that is loaded already, and the model's largest disparity."""
    expected = model.infer(images, "native").disparity.cpu()
    found = run(images.float().cpu())
    if found.shape != expected.shape:  # else one image's disparity would be compared with every image's
        shapes = [" x ".join(map(str, disparity.shape)) for disparity in (found, expected)]
        raise ConfigError(
            f"the exported file gives disparity of {shapes[0]} for images of which the model gives {shapes[1]}; export "
            "the model again."
        )
    apart = (found - expected).abs()
    return float(apart.max()), float(apart.mean()), float(expected.max())


def onnx_difference(model: HybridDepthModel, path: str | Path, images: Tensor) -> tuple[float, float]:
    """Return :func:`file_difference` of an ONNX file, whatever its name; it runs in onnxruntime on the CPU."""
    return difference(model, images, _load_onnx(path))[:2]


def program_difference(model: HybridDepthModel, path: str | Path, images: Tensor) -> tuple[float, float]:
    """Return :func:`file_difference` of a program of ``torch.export``, whatever its file's name."""
    return difference(model, images, _load_program(path))[:2]


def _load_onnx(path: str | Path) -> Runner:
    check_packages("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["disparity"], {"images": images.numpy()})[0])


def _load_openvino(path: str | Path) -> Runner:
    import openvino

    # Processors with bfloat16 units would compute in it.
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: torch.from_numpy(compiled({"images": images.numpy()})["disparity"].copy())


def _load_program(path: str | Path) -> Runner:
    with quiet_exporters():
        return _quietly(torch.export.load(path).module())


def _load_aoti(path: str | Path) -> Runner:
    with quiet_exporters():
        return _quietly(torch._inductor.aoti_load_package(str(path)))


def _quietly(run: Callable[..., Any]) -> Runner:
    @torch.no_grad()
    def quiet(images: Tensor) -> Tensor:
        with quiet_exporters():
            disparity: Tensor = run(images)
        return disparity

    return quiet


_LOADERS: dict[str, Callable[[Path], Runner]] = {
    "onnx": _load_onnx,
    "program": _load_program,
    "openvino": _load_openvino,
    "aoti": _load_aoti,
}


def _is_aoti(path: Path) -> bool:
    """Return whether a ``.pt2`` file is a package of AOTInductor, and not a program of ``torch.export``."""
    with zipfile.ZipFile(path) as archive:
        return any("aotinductor" in name.split("/") for name in archive.namelist())
