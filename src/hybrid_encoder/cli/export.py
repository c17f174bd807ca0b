"""``hybrid-encoder export``: a model as one file for other runtimes, kept only if it agrees with the model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hybrid_encoder.cli.options import check_file, console, parse_size
from hybrid_encoder.errors import ConfigError, InputError

if TYPE_CHECKING:
    from hybrid_encoder.models.depth import HybridDepthModel

FileFormat = Literal["onnx", "pt2"]
TOLERANCE = 1e-3  # of disparity, float32


def export_command(
    source: Annotated[str, typer.Argument(help="'tiny', a checkpoint folder, or a Hub id.")],
    output: Annotated[Path, typer.Argument(help="File to write; its name ends with .onnx, or .pt2 for --format pt2.")],
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the images, e.g. 192x640.")],
    dynamic_size: Annotated[
        bool,
        typer.Option("--dynamic-size", help="Accept any height and width from 64 up; --size is used for tracing."),
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Store linear layers in int8, which changes the numbers (docs/export.md).")
    ] = False,
    file_format: Annotated[
        FileFormat, typer.Option("--format", help="onnx, or pt2 for a program of torch.export.")
    ] = "onnx",
) -> None:
    """Write a model as one file for other runtimes, for any batch size, and compare the file with the model.

    hybrid-encoder export tiny tiny.onnx --size 192x640
    """
    from hybrid_encoder.deploy.export import export_onnx, save_program
    from hybrid_encoder.deploy.tools import check_packages
    from hybrid_encoder.models.depth import HybridDepthModel

    height, width = parse_size(size)
    if output.suffix != f".{file_format}":
        raise InputError(f"{output} does not end with .{file_format}, and --format is {file_format}.")
    if int8 and file_format == "pt2":
        raise ConfigError("--int8 is for --format onnx; leave one of the two out.")
    check_file(output, f"model.{file_format}")
    if file_format == "onnx":  # missing packages are named before the weights are loaded
        check_packages("onnx", "onnxscript", *(["onnxruntime"] if int8 else []))
    model = HybridDepthModel.from_pretrained(source)
    # A file that exists under the final name may be a good one: it is replaced only by one that agrees with the model.
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as folder:
        temporary = Path(folder) / f"model{output.suffix}"
        if file_format == "onnx":
            export_onnx(model, temporary, (height, width), dynamic_size=dynamic_size, int8=int8)
        else:
            save_program(model, temporary, (height, width), dynamic_size=dynamic_size)
        result = _compare(model, temporary, (height, width), dynamic_size, int8)
        temporary.replace(output)
    console.print(f"{output} ({output.stat().st_size / 1e6:.1f} MB): {result}")


def _compare(model: HybridDepthModel, path: Path, size: tuple[int, int], dynamic_size: bool, int8: bool) -> str:
    """Return in words how far the file's disparity is from the model's, both run on the same images.

    Raises:
        ConfigError: farther than :data:`TOLERANCE`, without int8.
    """
    import importlib.util

    import torch

    from hybrid_encoder.deploy.compare import onnx_difference, program_difference

    onnx = path.suffix == ".onnx"
    if onnx and importlib.util.find_spec("onnxruntime") is None:
        return "not compared with the model: the package onnxruntime is missing (pip install 'hybrid-encoder[export]')"
    compare = onnx_difference if onnx else program_difference
    # A dynamic size is tried on a second size and batch, which the graph was not traced with.
    sizes = [size, (size[0] + 33, size[1] + 19)] if dynamic_size else [size]
    differences = []
    for batch_size, (height, width) in enumerate(sizes, start=1):
        generator = torch.Generator().manual_seed(0)
        # Upsampled noise has edges and smooth parts, as images do.
        coarse = torch.rand(batch_size, 3, 6, 10, generator=generator)
        images = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        differences.append(compare(model, path, images))
    largest, mean = max(d[0] for d in differences), max(d[1] for d in differences)
    if not int8 and not largest <= TOLERANCE:
        raise ConfigError(
            f"the exported file gives disparity up to {largest:.2g} away from the model; at most {TOLERANCE:g} is "
            "allowed, so it was not kept: try a fixed size or the other --format."
        )
    return f"disparity differs from the model's by {largest:.2g} at most, {mean:.2g} on average"
