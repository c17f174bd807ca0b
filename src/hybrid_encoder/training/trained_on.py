"""What a run is trained on, as its weights say later: frames of recordings, without the folders they were in."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from hybrid_encoder.checkpoints.history import History
from hybrid_encoder.data.kitti import KittiDrive
from hybrid_encoder.data.kitti_splits import SIDES
from hybrid_encoder.data.ordered import OrderedDepth
from hybrid_encoder.data.sequences import SourceSequences
from hybrid_encoder.data.sources.rendered import RenderedSource
from hybrid_encoder.data.tusimple import SyntheticLanes, TuSimpleLanes
from hybrid_encoder.evaluation.frame_lists import MOST_FRAMES, Frame, drive_name, frame_of_path, pack_frames
from hybrid_encoder.evaluation.leaks import describe_training
from hybrid_encoder.models.base import HybridModel
from hybrid_encoder.training.bev_items import SurroundMaps
from hybrid_encoder.training.composition import parts_of

UNKNOWN = {"stage": "unknown", "known": False}


def training_record(stage: str, items: Dataset[Any]) -> dict[str, Any]:
    """Describe a training, as an entry of :mod:`hybrid_encoder.checkpoints.history`.

    Args:
        stage: its name.
        items: what it is trained on. Of a data set of another kind than this library's, and of images that are no
            files of a known recording, the record says that not all is known.
    """
    found = _frames(items)
    frames = [frame for frame in found if isinstance(frame, Frame)][:MOST_FRAMES]
    seeds = sorted({seed for part in parts_of(items) for seed in getattr(part.items, "seeds", ())})
    return {
        "stage": stage,
        "drives": pack_frames(frames),
        "offsets": sorted({offset for part in parts_of(items) for offset in getattr(part.items, "offsets", ())}),
        "known": len(frames) == len(found),
        **({"seeds": seeds} if seeds else {}),  # of rendered drives, on whose like a bird's-eye view is tested
    }


def save_trained(model: HybridModel, stage: str, items: Dataset[Any], folder: Path, notes: str) -> None:
    """Save what a stage has trained, with the record of what it was trained on, in the weights and in their card.

    Args:
        model: the trained one.
        stage: its name, as for :func:`training_record`.
        items: what it was trained on.
        folder: for the weights.
        notes: for the card: sentences on how they were made.
    """
    record = training_record(stage, items)
    model.training_history = continued(model.training_history, record)
    model.save_pretrained(folder, notes=f"{notes} Trained on {describe_training(record)}.")


def continued(history: History | None, record: dict[str, Any]) -> History:
    """Return the history of weights after one more training; one that was not known stays so."""
    return [*([UNKNOWN] if history is None else history), record]


def taught_by(history: History | None, teachers: History | None) -> History | None:
    """Return the history of weights that have followed a teacher: what it has seen, they have seen through it.

    Trainings that both have been through stand once; the history is None only where neither is known.
    """
    if history is None and teachers is None:
        return None
    known = list([UNKNOWN] if history is None else history)
    return known + [training for training in ([UNKNOWN] if teachers is None else teachers) if training not in known]


def items_digest(items: Dataset[Any]) -> str | None:
    """Return a SHA-256 that changes with the frames that are chosen, with a recording's intrinsics, or with its files.

    Files are told apart by their length, of a recording's first, middle and last frame: times change where data is
    copied to another machine. None for data of another kind than recordings.
    """
    if not isinstance(items, SourceSequences):
        return None
    digest = hashlib.sha256(json.dumps([items.offsets, items.items], default=int).encode())
    for source in items.sources:
        frames = source.frames
        files = [source.file(frames[place]) for place in (0, len(frames) // 2, -1)] if len(frames) else []
        lengths = [os.path.getsize(file) for file in (*files, source.name) if file and os.path.isfile(file)]
        numbers = None if source.K is None else [f"{value:.5g}" for value in source.K.flatten().tolist()]
        baseline = f"{source.baseline or 0:.5g}"
        known = [Path(source.name).name, source.size, list(frames), numbers, baseline, lengths]
        digest.update(json.dumps(known, default=int).encode())
    return digest.hexdigest()


def _frames(items: Dataset[Any]) -> list[Frame | None]:
    """Return the recorded frames among the items; None for what is not known."""
    found: list[Frame | None] = []
    for part in parts_of(items):
        recorded = _recorded(part.items)
        whole = len(recorded) == len(part.items)
        found += [recorded[index] for index in part.indices] if whole else recorded
    return found


def _recorded(items: Any) -> Sequence[Frame | None]:
    """Return the recorded frames of a data set that is made of no others."""
    if isinstance(items, SourceSequences):
        used = [(items.sources[item.source], item.frame) for item in items.items]
        recorded = [source.recorded(frame) for source, frame in used if not isinstance(source, RenderedSource)]
        return [Frame(*frame) if frame else None for frame in recorded]
    if isinstance(items, OrderedDepth):
        return [_source(image) for image in items.images]
    # Drives that were rendered and TuSimple's are no recordings that depth is tested on.
    rendered = getattr(items, "rendered", False) is True
    return [] if rendered or isinstance(items, SyntheticLanes | TuSimpleLanes | SurroundMaps) else [None]


def _frame(drive: KittiDrive, number: int) -> Frame:
    return Frame(drive_name(drive.folder.name), number, SIDES[drive.camera])


def _source(image: Any) -> Frame | None:
    """Return the frame of an image file, or of a reader that ``lidar_frames`` has made."""
    if isinstance(image, partial) and isinstance(drive := getattr(image.func, "__self__", None), KittiDrive):
        return _frame(drive, *image.args)
    return None if callable(image) else frame_of_path(str(image))
