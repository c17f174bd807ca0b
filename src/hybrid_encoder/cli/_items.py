"""Recordings opened as the options say, and the frames of a training chosen among theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_encoder.cli import _training as shared
from hybrid_encoder.cli._recordings import LEARN, Recordings
from hybrid_encoder.cli.options import parse_intrinsics
from hybrid_encoder.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from hybrid_encoder.data.sequences import SourceSequences
    from hybrid_encoder.data.sources.base import FrameSource
    from hybrid_encoder.data.sources.cache import Progress
    from hybrid_encoder.training.recipes import FineRecipe

START_FOV = 60.0  # degrees: of a camera of which nothing is known, and from which learning starts
HELD_OUT = 0.05  # of every recording
MOST_LINES = 8


@dataclass(frozen=True)
class Looked:
    """What a first look at the paths has found.

    Attributes:
        unused: why options would change nothing, by the names of their parameters.
        split: what ``--split`` names: the frames to train on, and those that are held out; None without it.
    """

    unused: dict[str, str]
    split: tuple[SourceSequences, SourceSequences | None] | None = None


def look(chosen: Recordings, recipe: FineRecipe) -> Looked:
    """Look at what the paths hold, before anything that takes long.

    Raises:
        ConfigError, InputError: options or paths that cannot be used.
    """
    from hybrid_encoder.data.sources.opening import VIDEO, WITH_CAMERAS, recognise

    chosen.check()
    if chosen.split is not None:
        why = "--split reads the frames of KITTI raw as they are"
        unused = dict.fromkeys(("every", "keep_still", "cache", "drives", "world"), why)
        return Looked(unused, _split_items(chosen, recipe))
    kinds = {kind for path in chosen.data if path != shared.SYNTHETIC for kind, _ in recognise(path)}
    unused = {}
    if not recipe.neighbours:
        moving = ("step", "keep_still", "pose", "pose_pretrained")
        unused |= dict.fromkeys(moving, "--stereo only compares no frames in time")
    if shared.SYNTHETIC not in chosen.data:
        unused |= dict.fromkeys(("drives", "world"), shared.ONLY_RENDERED)
    if VIDEO not in kinds:
        unused["every"] = "there is no video among the sources"
    if kinds.isdisjoint(WITH_CAMERAS):
        unused["camera"] = "no source has several cameras"
    if not kinds:
        given = ("fov", "keep_still", "cache", *(["camera_matrix"] if recipe.intrinsics != LEARN else []))
        unused |= dict.fromkeys(given, "'synthetic' is rendered, with a camera of its own")
    return Looked(unused)


def open_items(
    looked: Looked, chosen: Recordings, recipe: FineRecipe, console: Console
) -> tuple[SourceSequences, SourceSequences | None]:
    """Open recordings, choose their frames, and say what was found.

    Args:
        looked: what :func:`look` has returned.
        chosen, recipe: as they were given to it.
        console: for what was found, and how far it is.

    Returns:
        What is trained on, and what is held out; None where nothing is.

    Raises:
        InputError: a source that cannot be used, or no frame with its neighbours.
    """
    if looked.split is not None:
        return looked.split
    from hybrid_encoder.data.sequences import SourceSequences
    from hybrid_encoder.data.sources.motion import choose_items
    from hybrid_encoder.data.sources.opening import describe

    sources: list[FrameSource] = open_recordings(
        chosen, recipe.size, console, recipe.resample, START_FOV if recipe.intrinsics == LEARN else None
    )
    real = len(sources)
    if shared.SYNTHETIC in chosen.data:
        sources += _render(chosen, recipe, console)
    for line in describe(sources[:real], MOST_LINES):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    step: Any = chosen.step if chosen.step == "motion" else int(chosen.step)
    with progress_of(console, "looking for motion") as progress:
        drop = not chosen.keep_still and real > 0
        choice = choose_items(sources, recipe.neighbours, step, drop_still=drop, progress=progress if real else None)
    for report in [report for report in choice.reports[:real] if report.still or not report.used][:MOST_LINES]:
        console.print(str(report), highlight=False, markup=False)
    items = SourceSequences(sources, recipe.size, recipe.neighbours, choice.items, **_reading(recipe))
    return _hold_out(chosen, items, console)


def open_recordings(
    chosen: Recordings,
    size: tuple[int, int],
    console: Console,
    resample: Any = "bilinear",
    start_fov: float | None = None,
) -> list[FrameSource]:
    """Open the recordings that files hold; ``synthetic`` is left out."""
    from hybrid_encoder.data.sources.opening import open_sources

    paths = [path for path in chosen.data if path != shared.SYNTHETIC]
    if not paths:
        return []
    with progress_of(console, "decoding") as progress:
        return open_sources(
            paths,
            size,
            resample,
            intrinsics=parse_intrinsics(chosen.camera_matrix),
            fov=chosen.fov,
            start_fov=start_fov,
            cameras=chosen.camera,
            every=chosen.every,
            cache_folder=chosen.cache,
            cache_images=chosen.cache is not None,
            progress=progress,
        )


def _render(chosen: Recordings, recipe: FineRecipe, console: Console) -> list[FrameSource]:
    from hybrid_encoder.data.sources.rendered import RenderedSource

    rendered = shared.render_training_drives(
        chosen.drives or 1, recipe.size, chosen.seed, console, recipe.stereo != "no", chosen.world
    )
    return [RenderedSource(drive, f"drive {number}") for number, drive in enumerate(rendered)]


def _reading(recipe: FineRecipe) -> dict[str, Any]:
    """Return how frames are read for a training."""
    return {
        "augment": True,
        "jitter": recipe.jitter,
        "resample": recipe.resample,
        "stereo": recipe.stereo != "no",
    }


def _split_items(chosen: Recordings, recipe: FineRecipe) -> tuple[SourceSequences, SourceSequences | None]:
    from hybrid_encoder.data.sequences import KittiSequences

    def items(split: Path, **changes: Any) -> KittiSequences:
        return KittiSequences(chosen.data[0], recipe.size, recipe.neighbours, split, **{**_reading(recipe), **changes})

    training, fraction = items(chosen.split or Path()), chosen.held_out_fraction()
    if chosen.validation is not None and fraction is None:
        held_out = items(Path(chosen.validation), augment=False)
        trained = set(_targets(training))
        if both := [name for name in _targets(held_out) if name in trained]:
            raise InputError(
                f"{chosen.validation} names {len(both):,} frames that {chosen.split} trains on, such as {both[0]}; "
                "validate on others."
            )
        return training, held_out
    return training.split(fraction) if fraction else (training, None)


def _targets(items: SourceSequences) -> list[str]:
    return [items.sources[item.source].frame_name(item.frame) for item in items.items]


def _hold_out(
    chosen: Recordings, items: SourceSequences, console: Console
) -> tuple[SourceSequences, SourceSequences | None]:
    fraction = chosen.held_out_fraction()
    if fraction == 0 or (fraction is None and chosen.data == [shared.SYNTHETIC]):
        return items, None
    try:
        # Rendered drives are too short to be cut.
        return items.split(HELD_OUT if fraction is None else fraction, whole=chosen.data == [shared.SYNTHETIC])
    except InputError:
        if fraction is not None:
            raise
        console.print("too short to hold frames out: nothing is validated during the training", highlight=False)
        return items, None


@contextmanager
def progress_of(console: Console, what: str) -> Iterator[Progress]:
    """Show a bar for every recording that something is done with, and take it away when that is done."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                for task in tasks.values():
                    bars.update(task, visible=False)
                tasks[name] = bars.add_task(f"{what}: {name}", total=total)
            bars.update(tasks[name], completed=done)

        yield show
