"""``hybrid-encoder track``: the path of the camera through a recording, as a file and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hybrid_encoder.cli import _tracking as shared
from hybrid_encoder.cli.options import Device, check_file, check_finite, console
from hybrid_encoder.errors import InputError


def track_command(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="A video, a folder of frames, a recording of a data set, or 'synthetic'.")
    ],
    weights: shared.Weights,
    output: Annotated[Path, typer.Option(help="The text file to write, a pose in every line.")] = Path(
        "trajectory.txt"
    ),
    format: Annotated[
        Literal["kitti", "tum"],
        typer.Option(help="kitti: 12 numbers, camera to world. tum: time, position and quaternion."),
    ] = "kitti",
    picture: Annotated[Path | None, typer.Option(help="Draw the path from above into this PNG file.")] = None,
    fps: Annotated[
        float | None,
        typer.Option(help="Frames per second, for the times of tum; by default a time is a frame's number."),
    ] = None,
    recording: shared.Recording = None,
    camera: shared.Camera = None,
    refine: shared.Refine = 0,
    depth: shared.Depth = None,
    camera_matrix: shared.CameraMatrix = None,
    fov: shared.Fov = None,
    size: shared.Size = None,
    cache: shared.Cache = None,
    frames: shared.NumFrames = 100,
    turning: shared.Turning = 0.0,
    seed: shared.Seed = 0,
    device: Device = "auto",
) -> None:
    """Write the path of the camera: its poses as the pose network of a training predicts them from frame to frame.

    Video of one camera has no unit, and neither has the path, unless the network was trained with a right view.

    hybrid-encoder track drive.mp4 --weights runs/fine --output path.txt --picture path.png
    """
    from hybrid_encoder.data.images import write_png
    from hybrid_encoder.data.poses import write_trajectory
    from hybrid_encoder.evaluation.pose import travelled
    from hybrid_encoder.evaluation.pose_pictures import draw_paths
    from hybrid_encoder.evaluation.tracking import scaled_to, true_path

    shared.refuse_unused(context, [source])
    check_finite("--fps", fps)
    if fps is not None and fps <= 0:
        raise InputError(f"--fps is {fps:g}; give a number above 0.")
    check_file(output, "trajectory.txt")
    if picture is not None:
        check_file(picture, "path.png")
    tracker = shared.make_tracker(weights, depth, size, refine, device)
    if source == shared.SYNTHETIC:
        found = shared.render_drives(tracker, 1, frames, seed, turning)
    else:
        choice = shared.Choice(recording, camera, camera_matrix, fov, cache)
        found = shared.open_recordings([source], tracker, choice)
    if len(found) > 1:
        names = ", ".join([shared.short_name(one) for one in found[:5]] + ["..."] * (len(found) > 5))
        raise InputError(
            f"{source} holds {len(found)} recordings ({names}); name one of them with --recording and --camera."
        )
    chosen = found[0]
    poses = shared.track(tracker, chosen)
    numbers = list(chosen.frames)
    write_trajectory(output, poses, format, [(number - numbers[0]) / fps if fps else number for number in numbers])
    length = travelled(poses)[-1]
    console.print(f"{len(poses)} frames, a path of length {length:.4g} in {tracker.unit} -> {output}")
    if picture is None:
        return
    truth = true_path(chosen)
    paths = {"predicted": poses}
    unit = "m" if tracker.network.config.metric else ""
    if len(truth.frames) > 1 and truth.frames[0] == numbers[0]:
        known = poses[[numbers.index(frame) for frame in truth.frames]]
        scale = scaled_to(known, truth.poses, tracker.network.config.metric)[1]
        poses[:, :3, 3] *= scale
        paths, unit = {f"predicted, times {scale:.3g}": poses, "truth": truth.poses}, "m"
    write_png(picture, draw_paths(paths, shared.short_name(chosen), unit))
    console.print(f"its picture -> {picture}")
