"""``hybrid-encoder predict``: depth for images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hybrid_encoder.cli.options import Device, Weights, console, make_folder, parse_size, pick_device
from hybrid_encoder.errors import InputError

if TYPE_CHECKING:
    from hybrid_encoder.models.depth import DepthPrediction

NumberFormat = Literal["npy", "png16"]


def predict_command(
    images: Annotated[list[str], typer.Argument(help="Image files, folders of images, or glob patterns.")],
    weights: Weights = "tiny",
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("predictions"),
    size: Annotated[
        str | None,
        typer.Option(
            help="HEIGHTxWIDTH that the model works at, e.g. 224x672; by default the size that the weights were fitted "
            "at. Results have the size of their image."
        ),
    ] = None,
    numbers: Annotated[
        NumberFormat,
        typer.Option(
            help="npy: float32 depth. png16: metres x 256 (KITTI) if the scale is known, or disparity x 65535."
        ),
    ] = "npy",
    device: Device = "auto",
) -> None:
    """Predict depth: for every image a coloured map (near is bright) and the numbers, at the size of the image."""
    from rich.progress import track

    from hybrid_encoder.data.images import colorize, read_image, write_png
    from hybrid_encoder.models.depth import HybridDepthModel

    working_size = None if size is None else parse_size(size)
    paths = _find_readable(images)
    target = pick_device(device)
    model = HybridDepthModel.from_pretrained(weights).to(target)
    make_folder(output)
    for path in track(paths, description="predicting", console=console, disable=len(paths) < 2):
        prediction = model.infer(read_image(path), size=working_size)
        write_png(output / f"{path.stem}_depth.png", colorize(prediction.disparity[0]))
        name = _write_numbers(output, path.stem, prediction, numbers)
    suffix = f" (numbers: *_{name})" if paths else ""
    console.print(f"{len(paths)} image{'s' if len(paths) > 1 else ''} -> {output}{suffix}", highlight=False)


def _find_readable(images: list[str]) -> list[Path]:
    """Return all image files, after looking at every one of them: a bad one must not stop the work half-way.

    Raises:
        InputError: nothing found, a file that is not an image, or two files whose results would have the same name.
    """
    from hybrid_encoder.data.images import find_images, open_image

    paths = find_images(images)
    stems: dict[str, Path] = {}
    for path in paths:
        open_image(path)
        if path.stem in stems:
            raise InputError(f"{stems[path.stem]} and {path} would be written to the same files; give one at a time.")
        stems[path.stem] = path
    return paths


def _write_numbers(output: Path, stem: str, prediction: DepthPrediction, numbers: NumberFormat) -> str:
    """Write the numbers of one image, and return the part of the file's name that says what they are."""
    import numpy as np

    from hybrid_encoder.data.images import write_npy, write_png

    metric = prediction.depth_m is not None
    depth = prediction.depth_m if prediction.depth_m is not None else prediction.relative_depth
    assert depth is not None  # a prediction has one of the two
    if numbers == "npy":
        name = "depth_m.npy" if metric else "relative_depth.npy"
        write_npy(output / f"{stem}_{name}", depth[0].cpu().numpy())
        return name
    scaled = depth[0] * 256 if metric else prediction.disparity[0] * 65535
    name = "depth_m_x256.png" if metric else "disparity_x65535.png"
    write_png(output / f"{stem}_{name}", scaled.clamp(0, 65535).round().cpu().numpy().astype(np.uint16))
    return name
