"""``hybrid-encoder predict``: depth for images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hybrid_encoder.cli.options import Device, Weights, console, make_folder, parse_size, pick_device
from hybrid_encoder.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from hybrid_encoder.models.depth import DepthPrediction

NumberFormat = Literal["npy", "png16"]
FARTHEST = 65535 / 256  # metres in KITTI's 16-bit PNG files


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
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help="Refuse larger images before they are decoded; by default 89 million pixels."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Predict depth: for every image a coloured map (near is bright) and the numbers, at the size of the image.

    Results of earlier runs are left out of the images, and replaced; other files never are.
    """
    from rich.progress import track

    from hybrid_encoder.cli._results import check_targets, written_together
    from hybrid_encoder.data.images import read_image
    from hybrid_encoder.data.opening import MAX_PIXELS, expanded
    from hybrid_encoder.models.depth import HybridDepthModel

    working_size = None if size is None else parse_size(size)
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    output = expanded(output)
    paths, num_results = _find_readable(images, limit)
    check_targets(paths, output)
    target = pick_device(device)
    model = HybridDepthModel.from_pretrained(weights).to(target)
    if numbers == "png16" and model.config.metric and model.config.max_depth > FARTHEST:
        raise InputError(
            f"the weights give depth up to {model.config.max_depth:g} m, and a 16-bit PNG holds up to {FARTHEST:g} m; "
            "take --numbers npy."
        )
    make_folder(output)
    name = ""
    for path in track(paths, description="predicting", console=console, disable=len(paths) < 2):
        prediction = model.infer(read_image(path, limit), size=working_size or model.config.size)
        _check_finite(prediction, path)
        with written_together(output) as folder:
            name = _write(folder, path.stem, prediction, numbers)
    left_out = f"; left out, as results of earlier runs: {num_results}" if num_results else ""
    console.print(f"{len(paths)} image{'s' if len(paths) > 1 else ''} -> {output} (numbers: *_{name}){left_out}")


def _find_readable(images: list[str], max_pixels: int) -> tuple[list[Path], int]:
    """Return all image files, after looking at every one of them: a bad one must not stop the work half-way.

    Returns:
        Image files, and the number of own results that were left out.

    Raises:
        InputError: nothing found, or files that are not images.
    """
    from hybrid_encoder.cli._results import is_result, refuse_damaged
    from hybrid_encoder.data.images import find_images

    found = find_images(images)
    paths = [path for path in found if not is_result(path)]
    if not paths:
        raise InputError(f"{found[0]} is a result of an earlier run, and there are no other images; give one.")
    problems = ((path, _problem_of(path, max_pixels)) for path in paths)
    refuse_damaged([(path, problem) for path, problem in problems if problem], len(paths))
    return paths, len(found) - len(paths)


def _problem_of(path: Path, max_pixels: int) -> InputError | None:
    from hybrid_encoder.data.images import open_image

    try:
        open_image(path, max_pixels)
    except InputError as error:
        return error
    return None


def _check_finite(prediction: DepthPrediction, path: Path) -> None:
    """Raise CheckpointError where the weights give something that is no depth."""
    for values in (prediction.disparity, prediction.relative_depth, prediction.depth_m):
        num_bad = 0 if values is None else values.numel() - int(values.isfinite().sum())
        if values is not None and num_bad:
            raise CheckpointError(
                f"of {values.numel()} values that the weights give for {path}, {num_bad} are not finite; nothing was "
                "written for it: take other weights."
            )


def _write(folder: Path, stem: str, prediction: DepthPrediction, numbers: NumberFormat) -> str:
    """Write the results of one image, and return the part of a file's name that says what its numbers are."""
    import numpy as np

    from hybrid_encoder.cli._results import write_array, write_marked_png
    from hybrid_encoder.data.images import colorize

    write_marked_png(folder / f"{stem}_depth.png", colorize(prediction.disparity[0]))
    metric = prediction.depth_m is not None
    depth = prediction.depth_m if prediction.depth_m is not None else prediction.relative_depth
    assert depth is not None  # a prediction has one of the two
    if numbers == "npy":
        name = "depth_m.npy" if metric else "relative_depth.npy"
        write_array(folder / f"{stem}_{name}", depth[0].cpu().numpy())
        return name
    scaled = depth[0] * 256 if metric else prediction.disparity[0] * 65535
    name = "depth_m_x256.png" if metric else "disparity_x65535.png"
    write_marked_png(folder / f"{stem}_{name}", scaled.clamp(0, 65535).round().cpu().numpy().astype(np.uint16))
    return name
