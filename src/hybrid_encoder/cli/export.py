"""``hybrid-encoder export``: a model as one file for other runtimes, kept only if it agrees with the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybrid_encoder.cli.options import check_file, console, parse_size
from hybrid_encoder.errors import ConfigError, InputError


def export_command(
    source: Annotated[str, typer.Argument(help="'tiny', a checkpoint folder, or a Hub id.")],
    output: Annotated[Path, typer.Argument(help="File to write: model.onnx, model.pt2 or model.xml.")],
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the images, e.g. 192x640.")],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            "--format",
            help="onnx (.onnx), program (.pt2, of torch.export), openvino (.xml and .bin) or aoti (.pt2, compiled for "
            "this processor). Left out, the suffix says it; .pt2 is a program.",
        ),
    ] = None,
    dynamic_size: Annotated[
        bool,
        typer.Option("--dynamic-size", help="Accept any height and width from 64 up; --size is used for tracing."),
    ] = False,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Store linear layers of ONNX in int8, which changes the numbers (docs/export.md)."),
    ] = False,
    int8_static: Annotated[
        list[str] | None,
        typer.Option(
            "--int8-static",
            metavar="PICTURES",
            help="Convolutions and linear layers of ONNX or OpenVINO in int8, with scales found on these pictures: a "
            "folder, files or globs; may be given several times.",
        ),
    ] = None,
) -> None:
    """Write a model as one file for other runtimes, for any batch size, and compare the file with the model.

    hybrid-encoder export tiny tiny.onnx --size 192x640
    """
    from hybrid_encoder.data.finding import find_images
    from hybrid_encoder.deploy.files import check_export, export_file
    from hybrid_encoder.deploy.static import calibration_pictures
    from hybrid_encoder.models.depth import HybridDepthModel

    working = parse_size(size)
    if int8 and int8_static:
        raise ConfigError("--int8 and --int8-static are two ways to quantise; leave one of them out.")
    how = "dynamic" if int8 else "static" if int8_static else None
    # Whatever can be known to fail is found before the weights are loaded.
    check_file(output, "model.onnx")
    name = check_export(output, to, how)  # type: ignore[arg-type]
    pictures = find_images(int8_static) if int8_static else []
    if int8_static and not pictures:
        raise InputError(f"--int8-static {' '.join(int8_static)} holds no picture; give some to calibrate with.")
    model = HybridDepthModel.from_pretrained(source)
    done = export_file(
        model,
        output,
        working,
        to=name,
        dynamic_size=dynamic_size,
        int8=how,  # type: ignore[arg-type]
        calibration=calibration_pictures(model, pictures, working) if pictures else None,
    )
    told = (
        f"disparity differs from the model's, whose largest is {done.disparity:.2g}, by {done.largest:.2g} at most, "
        f"{done.mean:.2g} on average, on {done.compared_on}"
    )
    console.print(f"{output} ({name}, {done.num_bytes / 1e6:.1f} MB): {told}")
