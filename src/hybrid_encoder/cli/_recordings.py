"""Options that say which recordings a command reads, and which of their frames, checked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from hybrid_encoder.cli import _training as shared
from hybrid_encoder.cli.options import check_finite
from hybrid_encoder.errors import ConfigError, InputError, shortened

LEARN = "learn"

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
    world: shared.WorldName = "plain"

    def described(self) -> dict[str, Any]:
        """Return what repeats this choice, by the names of the command's parameters."""
        kept = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del kept["seed"]
        kept["data"] = self.data[0] if len(self.data) == 1 else self.data
        kept["drives"] = self.drives if shared.SYNTHETIC in self.data else None
        # What the recordings themselves say is the default of old and new runs alike.
        unchanged = {"every": 1, "step": "1", "keep_still": False, "world": "plain"}
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
