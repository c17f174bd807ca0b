"""Whether weights have seen the test images: the training's frames against those of the test, by drive and frame."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from hybrid_encoder.checkpoints.history import rendered_seeds
from hybrid_encoder.config.checking import shown
from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.frame_lists import Frame, drive_name, parse_frame, read_frame_list, unpack_frames
from hybrid_encoder.evaluation.samples import Sample

NEIGHBOURS = (-1, 1)
"""The frames that view synthesis usually sees beside its target."""
Trainings: TypeAlias = list[tuple[Iterable[Frame], Sequence[int]]]
LARGEST_RUN = 1 << 24  # bytes of a run.json


@dataclass(frozen=True)
class Leak:
    """What a training has seen of a test set.

    Both cameras of a stereo pair show the same scene at the same time, so that a frame is seen whichever of them it
    was. A drive that was trained on is no leak of a frame, but its streets are known.

    Args:
        num_test: images of the test set.
        targets: test frames that the training learned depth for.
        neighbours: further test frames that it saw beside its targets.
        drives: further test frames, not seen themselves, of drives that it saw.
        other_view: those of ``targets`` that were seen by the other camera of a stereo pair alone.
        num_unnamed: test images of which no recording is known; they cannot be compared.
        known: whether all frames of the training are known.
    """

    num_test: int
    targets: tuple[Frame, ...] = ()
    neighbours: tuple[Frame, ...] = ()
    drives: tuple[Frame, ...] = ()
    other_view: tuple[Frame, ...] = ()
    num_unnamed: int = 0
    known: bool = True

    @property
    def seen(self) -> tuple[Frame, ...]:
        """The test frames that the training has seen in any role."""
        return self.targets + self.neighbours

    def __str__(self) -> str:
        """Say it in a sentence; never that weights are clean where something is not known."""
        if self.seen:
            first = ", ".join(map(str, self.seen[:3])) + (", ..." if len(self.seen) > 3 else "")
            other = f", {len(self.other_view)} of these by the other camera" if self.other_view else ""
            return (
                f"{len(self.seen)} of {self.num_test} test frames were seen in training ({len(self.targets)} as targets"
                f"{other}, {len(self.neighbours)} beside one): {first}"
            )
        if not self.known:
            return "which frames the weights were trained on is not known"
        if self.num_unnamed == self.num_test:
            return "of no test image is known which recording it is of, so none was looked for in the training"
        unnamed = f", {self.num_unnamed} could not be compared" if self.num_unnamed else ""
        near = f", {len(self.drives)} are of drives that were" if self.drives else ""
        return f"none of {self.num_test} test frames was seen in training{near}{unnamed}"

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it, for the settings of an evaluation."""
        return {
            "known": self.known,
            "test_frames": self.num_test,
            "seen_as_target": len(self.targets),
            "by_the_other_camera": len(self.other_view),
            "seen_beside_a_target": len(self.neighbours),
            "of_seen_drives": len(self.drives),
            "not_compared": self.num_unnamed,
        }


def find_leak(
    training: Iterable[Frame], test: Sequence[Frame | None], offsets: Sequence[int] = NEIGHBOURS, known: bool = True
) -> Leak:
    """Compare a training's frames with those of a test set.

    Args:
        training: its targets.
        test: its frames, in order; None for an image of which no recording is known.
        offsets: of the frames that the training saw beside a target.
        known: whether these are all frames that it saw.
    """
    return find_leaks([(training, offsets)], test, known)


def find_leaks(trainings: Trainings, test: Sequence[Frame | None], known: bool = True) -> Leak:
    """Do the same for several trainings, one after another: the targets of each, and its offsets."""
    targets: dict[tuple[str, int], set[str]] = {}
    neighbours: set[tuple[str, int]] = set()
    for frames, offsets in trainings:
        for drive, number, side in frames:
            targets.setdefault((drive, number), set()).add(side)
            neighbours.update((drive, number + offset) for offset in offsets)
    drives = {drive for drive, _ in targets}
    named = [frame for frame in test if frame is not None]
    as_target = tuple(frame for frame in named if frame[:2] in targets)
    others = [frame for frame in named if frame[:2] not in targets]
    return Leak(
        len(test),
        as_target,
        tuple(frame for frame in others if frame[:2] in neighbours),
        tuple(frame for frame in others if frame[:2] not in neighbours and frame.drive in drives),
        tuple(frame for frame in as_target if _is_other_view(frame.side, targets[frame[:2]])),
        len(test) - len(named),
        known,
    )


def _is_other_view(side: str, seen: set[str]) -> bool:
    return bool(side) and "" not in seen and side not in seen


def find_leak_of_weights(
    history: Sequence[Mapping[str, Any]] | None, samples: Sequence[Sample], weights: str | Path | None = None
) -> Leak:
    """Compare what weights were trained on with a test set.

    Args:
        history: ``training_history`` of the model.
        samples: of the test set.
        weights: their folder. Those of a run of an earlier release say nothing themselves; its ``run.json`` names the
            list that it was trained on.

    Raises:
        InputError: a history that no training has written.
    """
    trainings, known = known_trainings(history, weights)
    return find_leaks(trainings, [frame_of(sample) for sample in samples], known)


def refuse_leak(
    history: Sequence[Mapping[str, Any]] | None,
    samples: Sequence[Sample],
    weights: str | Path | None = None,
    *,
    allow: bool = False,
) -> Leak:
    """Refuse to evaluate weights on what they were trained on.

    Args:
        history, samples, weights: as for :func:`find_leak_of_weights`.
        allow: return what was found instead.

    Raises:
        InputError: the training has seen a test frame, itself or as a neighbour of one.
    """
    leak = find_leak_of_weights(history, samples, weights)
    if leak.seen and not allow:
        raise InputError(f"{leak}; take other weights or another split, or say --allow-leak to evaluate nevertheless.")
    return leak


def frame_of(sample: Sample) -> Frame | None:
    """Return the frame that a sample is of; None where no recording is known."""
    if not sample.drive or sample.frame is None:
        return None
    named = parse_frame(sample.name)
    return Frame(drive_name(sample.drive), sample.frame, named.side if named else "")


def known_trainings(
    history: Sequence[Mapping[str, Any]] | None, weights: str | Path | None = None
) -> tuple[Trainings, bool]:
    """Return the trainings that weights have been through, for :func:`find_leaks`, and whether these are all.

    Args:
        history, weights: as for :func:`find_leak_of_weights`.

    Raises:
        InputError: a history that no training has written.
    """
    if not history:  # no command of this library trained them, or an earlier release's
        return ([] if weights is None else _earlier_run(Path(weights))), False
    found: Trainings = []
    for entry in history:
        offsets = entry.get("offsets", [])
        if not isinstance(offsets, list) or not all(type(offset) is int for offset in offsets):
            raise InputError(f"the weights' training history has the offsets {shown(offsets)}; give whole numbers.")
        found.append((unpack_frames(entry.get("drives", {})), offsets))
    return found, all(entry.get("known") is True for entry in history)


def describe_training(entry: Mapping[str, Any]) -> str:
    """Return what an entry of a history says, in words: how many frames of how many recordings, or drives rendered.

    Raises:
        InputError: no training has written it.
    """
    drives = entry.get("drives", {})
    frames = unpack_frames(drives)
    recordings = "1 recording" if len(drives) == 1 else f"{len(drives)} recordings"
    said = [f"{len(frames)} frames of {recordings}"] if frames else []
    if seeds := rendered_seeds(entry):
        said.append(f"{len(seeds)} rendered drive{'s' if len(seeds) > 1 else ''}")
    found = " and ".join(said) or "no frame of a known recording"
    return found if entry.get("known") is True else f"{found}, and others that are not known"


def _earlier_run(weights: Path) -> Trainings:
    """Return what a run of an earlier release was trained on, as far as its list of frames is still there."""
    try:
        folder = weights if weights.is_dir() else weights.parent
        with (folder.resolve().parent / "run.json").open("rb") as file:
            settings = json.loads(file.read(LARGEST_RUN))
        return [(read_frame_list(settings["split"]), settings.get("offsets") or NEIGHBOURS)]
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return []
