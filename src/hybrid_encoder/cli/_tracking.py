"""What ``track`` and ``evaluate-pose`` have in common: the recordings, and what tracks the camera through them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from hybrid_encoder.cli import options
from hybrid_encoder.cli._training import SYNTHETIC as SYNTHETIC
from hybrid_encoder.cli.options import console, parse_size, pick_device
from hybrid_encoder.errors import InputError

if TYPE_CHECKING:
    from hybrid_encoder.data.sources.base import Array, FrameSource
    from hybrid_encoder.evaluation.tracking import Tracker

FIRST_SEED = 1_500_000_000  # of rendered drives: no training renders one of these
MAX_DRIVES, NUM_SEEDS = 1_000, 100_000

Weights = Annotated[str, typer.Option(help="A run of train-fine, or its pose.safetensors.")]
Depth = Annotated[
    str | None,
    typer.Option(help="Depth model of the same training, where it is needed; by default that of the run."),
]
Size = Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of the images, instead of the training's.")]
Refine = Annotated[
    int,
    typer.Option(min=0, max=100, help="Gauss-Newton steps that align the images with the help of depth; 0 for none."),
]
Recording = Annotated[
    list[str] | None,
    typer.Option(help="Use only recordings with this in their name, such as 09 or drive_0001; repeatable."),
]
Camera = Annotated[
    list[str] | None,
    typer.Option(help="Camera of a data set with several, by name or number; repeatable."),
]
CameraMatrix = Annotated[
    str | None,
    typer.Option("--intrinsics", help="fx,fy,cx,cy or a file with a 3x3 matrix; for --refine where they are unknown."),
]
Fov = Annotated[float | None, typer.Option(help="Horizontal field of view in degrees, instead of --intrinsics.")]
Cache = Annotated[Path | None, typer.Option(help="Folder for the decoded frames of videos.")]
Drives = Annotated[int, typer.Option(min=1, max=MAX_DRIVES, help="Number of drives to render for 'synthetic'.")]
NumFrames = Annotated[int, typer.Option("--frames", min=2, max=10_000, help="Length of a drive of 'synthetic'.")]
Turning = Annotated[
    float, typer.Option(min=0, max=10, help="Degrees per frame by which the drives of 'synthetic' turn at most.")
]
Seed = Annotated[int, typer.Option(min=0, max=NUM_SEEDS - 1, help="Which drives of 'synthetic'.")]


class Choice(NamedTuple):
    """What the options say of recordings in files; rendered drives have no use for any of it."""

    recording: list[str] | None
    camera: list[str] | None
    camera_matrix: str | None
    fov: float | None
    cache: Path | None = None


def make_tracker(
    weights: str, depth: str | None = None, size: str | None = None, refine: int = 0, device: str = "auto"
) -> Tracker:
    """Return what predicts the camera's motion, loaded and on its device.

    Args:
        weights, depth, size, refine, device: as the options have them.

    Raises:
        CheckpointError: weights that are not there, or of something else.
        InputError: another size or device, or no depth model where one is needed.
    """
    from hybrid_encoder.evaluation.tracking import Tracker
    from hybrid_encoder.models.depth import HybridDepthModel
    from hybrid_encoder.models.pose_network import ClassTokenPoseHead, load_motion

    chosen = None if size is None else parse_size(size)
    place = pick_device(device)
    network = load_motion(weights).to(place)
    model = None
    if refine or isinstance(network, ClassTokenPoseHead):
        beside = depth or _depth_beside(weights)
        model = None if beside is None else HybridDepthModel.from_pretrained(beside).to(place)
    return Tracker(network, model, chosen, refine)


def _depth_beside(weights: str) -> str | None:
    """Return the folder of the depth model that was trained with a pose network; None where there is none."""
    from hybrid_encoder.checkpoints.files import CONFIG
    from hybrid_encoder.models.pose_files import FINAL, find_pose

    folder = find_pose(weights).parent
    return next((str(place) for place in (folder, folder / FINAL) if (place / CONFIG).is_file()), None)


def open_recordings(
    sources: Sequence[str],
    tracker: Tracker,
    choice: Choice,
) -> list[FrameSource]:
    """Open recordings in files; ``synthetic`` is left out.

    Args:
        sources: their paths.
        tracker: what looks at them.
        choice: what the options say of them.

    Raises:
        InputError: a source that cannot be used, or none with that name.
    """
    from hybrid_encoder.cli import _items, _recordings

    asked = _recordings.Recordings(
        [source for source in sources if source != SYNTHETIC],
        camera_matrix=choice.camera_matrix,
        fov=choice.fov,
        camera=choice.camera,
        cache=choice.cache,
    )
    asked.check()
    found = _items.open_recordings(asked, tracker.size, console, tracker.network.config.resample)
    if not choice.recording:
        return found
    chosen = [source for source in found if any(text in short_name(source) for text in choice.recording)]
    if not chosen and found:
        names = ", ".join(short_name(source) for source in found[:5])
        raise InputError(f"no recording has {' or '.join(choice.recording)} in its name; there are {names}.")
    return chosen


def render_drives(tracker: Tracker, count: int, num_frames: int, seed: int, turning: float) -> list[FrameSource]:
    """Return rendered drives that no training has seen, each of whose frames is rendered when it is read."""
    from hybrid_encoder.data.sources.rendered import RenderedSource
    from hybrid_encoder.data.synthetic.drive import SyntheticDrive

    first = FIRST_SEED + MAX_DRIVES * seed
    return [
        RenderedSource(SyntheticDrive(number, num_frames, *tracker.size, turning=turning), f"drive {number}")
        for number in range(first, first + count)
    ]


def refuse_unused(context: typer.Context, sources: Sequence[str]) -> None:
    """Raise ConfigError for options of rendered drives where none is rendered, and of recordings where none is read."""
    unused: dict[str, str] = {}
    if SYNTHETIC not in sources:
        unused |= dict.fromkeys(("drives", "frames", "turning", "seed"), "they are of the drives of 'synthetic'")
    if set(sources) == {SYNTHETIC}:
        unused |= dict.fromkeys(Choice._fields, "'synthetic' is rendered, with a camera of its own")
    options.refuse_unused(context, unused)


def short_name(source: FrameSource) -> str:
    """Return the last part of a recording's name, without the folders that it stands in."""
    return re.split(r"[/\\]", source.name)[-1]


def track(tracker: Tracker, source: FrameSource, frames: Sequence[int] | None = None) -> Array:
    """Track the camera through a recording, and show how far it is.

    Args:
        tracker, source: what predicts, and what it looks at.
        frames: of which poses are wanted, in order of time; all by default. Those between them are looked at, too.

    Returns:
        World_T_cam of these frames, (N, 4, 4); the first one's camera is the world.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    wanted = list(source.frames if frames is None else frames)
    there = [frame for frame in source.frames if wanted and wanted[0] <= frame <= wanted[-1]]
    _tell_gaps(source, there)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(f"tracking {short_name(source)}", total=max(0, len(there) - 1))
        poses = tracker.track(source, there, lambda done: bars.advance(task, done))
    number = {frame: index for index, frame in enumerate(there)}
    return poses[[number[frame] for frame in wanted]]


def _tell_gaps(source: FrameSource, frames: Sequence[int]) -> None:
    """Say where frames are missing: a motion over several frames is not what a network has learned."""
    gaps = [(one, other) for one, other in pairwise(frames) if other != one + 1]
    if gaps:
        (one, other), count = gaps[0], sum(other - one - 1 for one, other in gaps)
        text = (
            f"{short_name(source)}: {count:,} frame{'s are' if count > 1 else ' is'} missing in {len(gaps):,} "
            f"place{'s' if len(gaps) > 1 else ''}, the first after {source.frame_name(one)}; the motion from there to "
            f"{source.frame_name(other)} is longer than what the network has learned, and its path likely too short."
        )
        console.print(text, highlight=False, markup=False)
