"""``hybrid-encoder evaluate``: depth against lidar."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hybrid_encoder.cli.options import Device, Weights, console, describe_weights, parse_working_size, pick_device

Crop = Literal["garg", "eigen", "none"]


def evaluate_command(
    root: Annotated[Path, typer.Argument(help="KITTI raw: the folder of the dates, or the folder of one drive.")],
    weights: Weights = "tiny",
    size: Annotated[
        str | None,
        typer.Option(
            help="HEIGHTxWIDTH that the model works at, or 'native', the images' own size; by default, as predict: the "
            "size that the weights were fitted at, or as many pixels where images have another aspect."
        ),
    ] = None,
    split: Annotated[
        Path | None,
        typer.Option(help="Text file with lines <date>/<drive> <frame> <l or r>; by default all frames with lidar."),
    ] = None,
    camera: Annotated[
        int | None, typer.Option(help="Colour camera, 2 (left, the default) or 3 (right); not with --split.")
    ] = None,
    crop: Annotated[Crop, typer.Option(help="Which part of an image counts.")] = "garg",
    max_depth: Annotated[float, typer.Option(min=0.1, help="Ignore lidar beyond this distance, in metres.")] = 80.0,
    median_scaling: Annotated[
        bool | None,
        typer.Option(
            "--median-scaling/--no-median-scaling",
            help="Scale every prediction to the median of its lidar; by default only where the scale is unknown.",
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Compare predicted depth with lidar on KITTI raw: the seven usual metrics, averaged over the frames."""
    from rich.table import Table

    from hybrid_encoder.evaluation.kitti import evaluate_kitti
    from hybrid_encoder.evaluation.kitti_frames import frames_with_lidar
    from hybrid_encoder.models.depth import HybridDepthModel

    working_size = parse_working_size(size)
    frames = frames_with_lidar(root, split, camera)
    target = pick_device(device)
    model = HybridDepthModel.from_pretrained(weights).to(target)
    console.print(describe_weights(weights, model, working_size))
    scaling = not model.config.metric if median_scaling is None else median_scaling
    metrics = evaluate_kitti(
        model,
        frames,
        median_scaling=scaling,
        size=working_size,
        crop=None if crop == "none" else crop,
        max_depth=max_depth,
        console=console,
    )
    caption = f"{'median' if scaling else 'no'} scaling, crop {crop}, up to {max_depth:g} m"
    numbers = metrics.as_dict()
    table = Table(*numbers, title=f"{len(frames)} frame{'s' if len(frames) > 1 else ''}", caption=caption)
    table.add_row(*(f"{value:.3f}" for value in numbers.values()))
    console.print(table)
    if metrics.num_below or metrics.num_above:
        console.print(
            f"{metrics.num_below + metrics.num_above} of {metrics.num_valid} predictions were clamped to the range of "
            f"depth: {metrics.num_below} below it, {metrics.num_above} above"
        )
