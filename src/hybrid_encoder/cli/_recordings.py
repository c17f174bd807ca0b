"""Options that say which recordings a command reads, and how the frames of a training are chosen among theirs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybrid_encoder.cli import _training as shared
from hybrid_encoder.cli.options import check_finite, parse_intrinsics
from hybrid_encoder.errors import ConfigError, InputError, shortened

if TYPE_CHECKING:
    from rich.console import Console

    from hybrid_encoder.data.sequences import SourceSequences
    from hybrid_encoder.data.sources.base import FrameSource
    from hybrid_encoder.data.sources.cache import Progress
    from hybrid_encoder.training.recipes import FineRecipe

LEARN = "learn"
START_FOV = 60.0  # degrees: of a camera of which nothing is known, and from which learning starts
HELD_OUT = 0.05  # of every recording
MOST_LINES = 8

Data = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Videos, folders of frames, data sets (KITTI raw or odometry, Cityscapes, nuScenes, TartanAir), or "
        "'synthetic'; several at once.",
    ),
]
Split = Annotated[
    Path | None,
    shared.of_data(help="Text file with lines <date>/<drive> <frame> <l or r>: the frames of KITTI raw to train on."),
]
Intrinsics = Annotated[
    str | None,
    shared.of_data(
        "--intrinsics",
        help="fx,fy,cx,cy in pixels of the recordings, a file with a 3x3 matrix, or 'learn'; by default as they say.",
    ),
]
Fov = Annotated[
    float | None,
    shared.of_data(help="Horizontal field of view in degrees, instead of intrinsics, or where learning starts."),
]
Camera = Annotated[
    list[str] | None,
    shared.of_data(help="Camera of a data set with several, by name or number, or 'all'; repeatable."),
]
Every = Annotated[int, shared.of_data(min=1, help="Of a video, keep the first of so many frames.")]
Step = Annotated[
    str, shared.of_data(help="Frames from one neighbour to the next; or 'motion': until enough has moved.")
]
KeepStill = Annotated[
    bool, shared.of_data("--keep-still", help="Keep frames in which the camera stands still (they are looked for).")
]
Cache = Annotated[
    Path | None,
    shared.of_data(help="Folder for decoded frames; with it, pictures are kept there too, and not only videos."),
]
Validation = Annotated[
    str | None,
    shared.of_data(
        help="What to validate on: a fraction of every recording, 0 for nothing, or with --split another such file.",
        show_default="the last 5 % where they are long enough",
    ),
]


@dataclass(frozen=True)
class Recordings:
    """What the options say about recordings; as ``run.json`` keeps it."""

    data: list[str]
    split: Path | None = None
    camera_matrix: str | None = None
    fov: float | None = None
    camera: list[str] | None = None
    every: int = 1
    step: str = "1"
    keep_still: bool = False
    cache: Path | None = None
    validation: str | None = None
    drives: int | None = None
    seed: int = 0

    def described(self) -> dict[str, Any]:
        """Return what repeats this choice, by the names of the command's parameters."""
        kept = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del kept["seed"]
        kept["data"] = self.data[0] if len(self.data) == 1 else self.data
        kept["drives"] = self.drives if shared.SYNTHETIC in self.data else None
        # What the recordings themselves say is the default of old and new runs alike.
        unchanged = {"every": 1, "step": "1", "keep_still": False}
        return {name: value for name, value in kept.items() if unchanged.get(name, ()) != value}

    def check(self) -> None:
        """Check what can be checked without opening a file.

        Raises:
            ConfigError, InputError: options that exclude each other, or out of their range.
        """
        check_finite("--fov", self.fov)
        if self.fov is not None and not 0 < self.fov < 180:
            raise InputError(f"--fov is {self.fov:g}; the horizontal field of view lies between 0 and 180 degrees.")
        if self.step != "motion" and not (self.step.isascii() and self.step.isdigit() and 0 < int(self.step) < 10**6):
            raise InputError(f"--step is {shortened(self.step, 40)!r}; give a number of frames, or 'motion'.")
        if self.camera_matrix is not None and self.fov is not None:
            raise ConfigError("--intrinsics and --fov exclude each other, unless these are learned; give one of them.")
        self.held_out_fraction()
        if self.split is None:
            return
        for option, given in (
            ("--intrinsics fx,fy,cx,cy", self.camera_matrix is not None),
            ("--fov", self.fov is not None),
            ("--step", self.step != "1"),
            ("--camera", self.camera is not None),
        ):
            if given:
                raise ConfigError(f"--split and {option} exclude each other; a split names the frames of KITTI raw.")
        if len(self.data) != 1 or self.data[0] == shared.SYNTHETIC:
            raise ConfigError("--split needs KITTI raw as the only source; give the folder of its dates.")

    def held_out_fraction(self) -> float | None:
        """Return the fraction that ``--validation`` says; None where it names a file, or says nothing.

        Raises:
            InputError: neither a fraction nor, with ``--split``, a file.
        """
        if self.validation is None:
            return None
        try:
            fraction = float(self.validation)
        except ValueError:
            if self.split is None:
                raise InputError(
                    f"--validation is {shortened(self.validation, 80)!r}; give a fraction such as 0.05, or 0."
                ) from None
            return None
        if not 0 <= fraction < 1:
            raise InputError(f"--validation is {self.validation}; a fraction lies between 0 and 1.")
        return fraction


def look(chosen: Recordings, recipe: FineRecipe) -> dict[str, str]:
    """Look at what the paths hold, before anything that takes long.

    Returns:
        Why options would change nothing, by the names of their parameters.

    Raises:
        ConfigError, InputError: options or paths that cannot be used.
    """
    from hybrid_encoder.data.sources.opening import VIDEO, WITH_CAMERAS, recognise

    chosen.check()
    if chosen.split is not None:
        _split_items(
            chosen, recipe, () if recipe.stereo == "only" else recipe.offsets, {"stereo": recipe.stereo != "no"}
        )
        why = "--split reads the frames of KITTI raw as they are"
        return dict.fromkeys(("every", "keep_still", "cache", "drives"), why)
    kinds = {kind for path in chosen.data if path != shared.SYNTHETIC for kind, _ in recognise(path)}
    unused: dict[str, str] = {}
    if not recipe.neighbours:
        moving = ("step", "keep_still", "pose", "pose_pretrained")
        unused |= dict.fromkeys(moving, "--stereo only compares no frames in time")
    if shared.SYNTHETIC not in chosen.data:
        unused["drives"] = "they are rendered for 'synthetic' alone"
    if VIDEO not in kinds:
        unused["every"] = "there is no video among the sources"
    if kinds.isdisjoint(WITH_CAMERAS):
        unused["camera"] = "no source has several cameras"
    if not kinds:
        given = ("fov", "keep_still", "cache", *(["camera_matrix"] if recipe.intrinsics != LEARN else []))
        unused |= dict.fromkeys(given, "'synthetic' is rendered, with a camera of its own")
    return unused


def open_items(
    chosen: Recordings, recipe: FineRecipe, console: Console
) -> tuple[SourceSequences, SourceSequences | None]:
    """Open recordings, choose their frames, and say what was found.

    Returns:
        What is trained on, and what is held out; None where nothing is.

    Raises:
        InputError: a source that cannot be used, or no frame with its neighbours.
    """
    options: dict[str, Any] = {"augment": True, "jitter": recipe.jitter, "resample": recipe.resample}
    options["stereo"] = recipe.stereo != "no"
    offsets = () if recipe.stereo == "only" else recipe.offsets
    if chosen.split is not None:
        return _split_items(chosen, recipe, offsets, options)
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
        choice = choose_items(sources, offsets, step, drop_still=drop, progress=progress if real else None)
    for report in [report for report in choice.reports[:real] if report.still or not report.used][:MOST_LINES]:
        console.print(str(report), highlight=False, markup=False)
    items = SourceSequences(sources, recipe.size, offsets, choice.items, **options)
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
        chosen.drives or 1, recipe.size, chosen.seed, console, stereo=recipe.stereo != "no"
    )
    return [RenderedSource(drive, f"drive {number}") for number, drive in enumerate(rendered)]


def _split_items(
    chosen: Recordings, recipe: FineRecipe, offsets: Sequence[int], options: dict[str, Any]
) -> tuple[SourceSequences, SourceSequences | None]:
    from hybrid_encoder.data.sequences import KittiSequences

    def items(split: Path, **changes: Any) -> KittiSequences:
        return KittiSequences(chosen.data[0], recipe.size, offsets, split, **{**options, **changes})

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
