"""``hybrid-encoder export``: what is typed, checked and told.

Heavy libraries are imported by the command, not here, so that help appears at once.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid_encoder.cli.options import parse_size
from hybrid_encoder.errors import ConfigError, InputError

if TYPE_CHECKING:
    from hybrid_encoder.models.depth import HybridDepthModel

TOLERANCE = 1e-3  # of disparity, float32
ENDINGS = {"onnx": ".onnx", "pt2": ".pt2"}


class Formats(str, Enum):
    """What the file is read with."""

    onnx = "onnx"
    pt2 = "pt2"


def export(
    source: Annotated[str, typer.Argument(help="'tiny', a checkpoint folder, or a Hub id.")],
    output: Annotated[Path, typer.Argument(help="The file; it ends with .onnx, or with .pt2 for --format pt2.")],
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the images, e.g. 192x640.")],
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="Leave height and width open, from 64 up; --size is traced with.")
    ] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Linear layers in int8; the numbers move (docs/export.md).")] = (
        False
    ),
    format: Annotated[Formats, typer.Option(help="onnx, or pt2 (torch.export).")] = Formats.onnx,
) -> None:
    """Write a model as one file for other runtimes, for any batch, and compare it with the model.

    hybrid-encoder export tiny tiny.onnx --size 192x640
    """
    from hybrid_encoder.deploy.export import check_packages, export_onnx, save_program
    from hybrid_encoder.models.depth import HybridDepthModel

    height, width = parse_size(size)
    if output.suffix != ENDINGS[format.value]:
        raise InputError(f"{output} does not end with {ENDINGS[format.value]}, and --format is {format.value}.")
    if int8 and format is Formats.pt2:
        raise ConfigError("--int8 is for --format onnx; leave one of the two out.")
    if format is Formats.onnx:
        check_packages("onnx", "onnxscript", *(["onnxruntime"] if int8 else []))  # before the weights are loaded
    model = HybridDepthModel.from_pretrained(source)
    # Under another name until it is compared: a file that stood there before may be a good one.
    unproven = output.with_name(f".{output.stem}.unproven{output.suffix}")
    try:
        if format is Formats.onnx:
            export_onnx(model, unproven, (height, width), dynamic_size=dynamic_size, int8=int8)
        else:
            save_program(model, unproven, (height, width), dynamic_size=dynamic_size)
        told = _verify(model, unproven, (height, width), dynamic_size, int8)
        unproven.replace(output)
    finally:
        unproven.unlink(missing_ok=True)
    megabytes = output.stat().st_size / 1e6
    typer.echo(f"{output} ({megabytes:.1f} MB): {told}")


def _verify(model: HybridDepthModel, path: Path, size: tuple[int, int], dynamic_size: bool, int8: bool) -> str:
    """What the file's own runtime gives beside the model, in words; an error where they disagree."""
    import importlib.util

    import torch

    from hybrid_encoder.deploy.export import onnx_difference, program_difference

    onnx = path.suffix == ENDINGS["onnx"]
    if onnx and importlib.util.find_spec("onnxruntime") is None:
        return "not compared with the model: the package onnxruntime is missing (pip install 'hybrid-encoder[export]')"
    compare = onnx_difference if onnx else program_difference
    # With the size open, also one that the graph was not traced with.
    sizes = [size, (size[0] + 33, size[1] + 19)] if dynamic_size else [size]
    differences = []
    for batch, (height, width) in enumerate(sizes, start=1):
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(batch, 3, 6, 10, generator=generator)
        images = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")  # edges and plain parts
        differences.append(compare(model, path, images))
    largest, mean = max(d[0] for d in differences), max(d[1] for d in differences)
    if not int8 and not largest <= TOLERANCE:
        raise ConfigError(
            f"the exported file gives disparity up to {largest:.2g} away from the model; at most {TOLERANCE:g} is "
            "allowed, so it was not kept: try a fixed size or the other --format."
        )
    return f"disparity differs from the model's by {largest:.2g} at most, {mean:.2g} on average"
