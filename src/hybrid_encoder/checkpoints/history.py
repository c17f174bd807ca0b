"""The trainings that weights have been through, kept in the file of the weights itself, which no copy loses.

A history is a row of trainings, the first one first, each as JSON has it:

- ``stage``: what trained;
- ``drives``: its frames, by recording and side, as :func:`hybrid_encoder.evaluation.frame_lists.pack_frames` writes
  them, without the folder where they were;
- ``offsets``: of the frames that were seen beside these;
- ``seeds``: of the drives that were rendered for it;
- ``known``: whether that is all that the training has seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from hybrid_encoder.config.checking import shown
from hybrid_encoder.errors import InputError

History: TypeAlias = Sequence[Mapping[str, Any]]
KEY = "training_history"  # in the metadata of a safetensors file
LARGEST_HEADER = 100_000_000  # bytes, as safetensors has it


def history_metadata(history: History | None) -> dict[str, str]:
    """Return the entry of a safetensors file's metadata that says a history; none where there is none."""
    return {KEY: json.dumps(list(history), separators=(",", ":"))} if history else {}


def read_history(file: Path) -> History | None:
    """Read the history in a safetensors file that was checked before; None where it says none.

    What is no history is taken for none: weights are loaded whatever it says.
    """
    try:
        history = json.loads(read_note(file, KEY) or "")
    except (ValueError, TypeError, RecursionError):
        return None
    good = isinstance(history, list) and history and all(isinstance(training, dict) for training in history)
    return history if good else None


def read_note(file: Path, name: str) -> Any:
    """Return what stands under a name beside the tensors of a safetensors file; None where nothing does."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = opened.read(min(length, LARGEST_HEADER))
    try:
        return json.loads(header)["__metadata__"][name]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def rendered_seeds(training: Mapping[str, Any]) -> list[int]:
    """Return the seeds of the drives that were rendered for a training; none where it says none.

    Raises:
        InputError: no training has written it.
    """
    seeds = training.get("seeds", [])
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        raise InputError(f"the weights' training history has the seeds {shown(seeds)}; give whole numbers.")
    return seeds
