"""``hybrid-encoder fit-scale``: weights of unknown scale, written as weights in metres."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from hybrid_encoder.cli.options import (
    Device,
    Weights,
    check_finite,
    console,
    describe_weights,
    make_folder,
    parse_working_size,
    pick_device,
)
from hybrid_encoder.errors import InputError

Source = Literal["lidar", "camera-height", "stereo"]


def fit_scale_command(
    root: Annotated[Path, typer.Argument(help="KITTI raw: the folder of the dates, or the folder of one drive.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the weights in metres: a new or an empty one.")
    ],
    weights: Weights = "tiny",
    source: Annotated[
        Source, typer.Option("--from", help="What is known in metres: lidar, the camera's height, the stereo baseline.")
    ] = "lidar",
    camera_height: Annotated[
        float | None, typer.Option(help="Metres over the road, with --from camera-height; KITTI's 1.65 by default.")
    ] = None,
    split: Annotated[
        Path | None,
        typer.Option(
            help="Text file with lines <date>/<drive> <frame> <l or r>: the frames to fit on, none of which should be "
            "evaluated on; by default all."
        ),
    ] = None,
    camera: Annotated[
        int | None, typer.Option(help="Colour camera, 2 (left, the default) or 3 (right); not with --split.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="HEIGHTxWIDTH that the model works at, or 'native', the images' own size; by default, as predict: the "
            "size that the weights were fitted at, or as many pixels where images have another aspect."
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Fit the one factor from a model's depth to metres on KITTI raw, and write the weights with it.

    Where the written weights are evaluated, no scaling is needed. Evaluate them on other drives than these: a factor
    that was fitted to the same frames proves nothing.
    """
    from hybrid_encoder.evaluation.kitti_listing import Needs, kitti_frames
    from hybrid_encoder.evaluation.kitti_scale import KITTI_CAMERA_HEIGHT, fit_kitti_scale
    from hybrid_encoder.models.depth import HybridDepthModel

    check_finite("--camera-height", camera_height)
    if camera_height is not None and source != "camera-height":
        raise InputError(f"--camera-height is {camera_height:g}, and --from is {source}; give --from camera-height.")
    if camera_height is not None and camera_height <= 0:
        raise InputError(f"--camera-height is {camera_height:g}; give the metres from the road up to the camera.")
    working_size = parse_working_size(size)
    needs: dict[Source, Needs] = {"lidar": "lidar", "camera-height": "image", "stereo": "stereo"}
    frames = kitti_frames(root, split, camera, needs[source])
    _check_new(output)
    target = pick_device(device)
    model = HybridDepthModel.from_pretrained(weights).to(target)
    console.print(describe_weights(weights, model, working_size))
    make_folder(output)
    height = KITTI_CAMERA_HEIGHT if camera_height is None else camera_height
    fit = fit_kitti_scale(model, frames, source, camera_height=height, size=working_size, console=console)
    model.set_metric_scale(fit.factor)
    used = len(fit.factors)
    spread = "unknown from one frame" if fit.spread is None else f"{fit.spread:.1%}"
    known = {"lidar": "lidar", "camera-height": f"a camera {height:g} m over the road", "stereo": "the stereo baseline"}
    model.save_pretrained(
        output,
        notes=f"The weights {weights!r}, with depth multiplied by {fit.factor:.6g} to be in metres: fitted to "
        f"{known[source]} on {used} frame{'s' if used > 1 else ''} of KITTI raw, spread {spread}.",
    )
    console.print(
        f"factor {fit.factor:.4g}, spread {spread}, {used} frame{'s' if used > 1 else ''}"
        + (f"; {fit.left_out} left out, which gave no scale" if fit.left_out else "")
    )
    remains = {
        "lidar": f"depth that is scaled right for its frame is still off by {fit.error:.1%} (median)",
        "camera-height": f"depth on the road is off a plane by {fit.error:.1%} (median)",
        "stereo": f"depth leaves {fit.error:.1%} of the photometric error between the two cameras",
    }
    console.print(f"what no factor mends: {remains[source]}")
    console.print(f"{output}: weights in metres; evaluate them on other drives than those that they were fitted on")


def _check_new(folder: Path) -> None:
    """Raise InputError where a folder holds something: it would become a mixture."""
    try:
        taken = os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}); give another folder.") from None
    if taken:
        raise InputError(f"{folder} exists already and is no empty folder; name another one.")
