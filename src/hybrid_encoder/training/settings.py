"""What a run was started with: kept in ``run.json``, and compared where it is resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid_encoder.errors import ConfigError, shortened
from hybrid_encoder.training.checkpointing import newest_checkpoint
from hybrid_encoder.training.parallel import is_main_process
from hybrid_encoder.writing import write_whole

DIGEST = "items_sha256"  # what it is trained on, see hybrid_encoder.training.trained_on.items_digest
LARGEST_SETTINGS = 1 << 24  # bytes of a run.json: the frames of a large training take many


def keep_settings(folder: Path, settings: Mapping[str, Any], resume: bool, defaults: Mapping[str, Any]) -> None:
    """Write the settings of a new run to ``run.json``, or compare them with those that a resumed run began with.

    Args:
        folder: of the run.
        settings: by name.
        resume: whether the run continues.
        defaults: what a setting was in runs of earlier releases, which did not know it.

    Raises:
        ConfigError: a resumed run has other settings, or its ``run.json`` is damaged.
    """
    settings, defaults = _as_json(settings), _as_json(defaults)
    file = folder / "run.json"
    if resume and os.path.lexists(file):
        before = _read_settings(file)
        for name, value in settings.items():
            began = before.get(name, defaults.get(name))
            if name == DIGEST and began != value:
                raise ConfigError(
                    f"the recordings, or the frames chosen of them, are others than when the run in {folder} began; "
                    "give what they were, or start a new run in another folder."
                )
            if began != value:
                now, then = (shortened(str(value), 200) for value in (value, began))
                raise ConfigError(f"{name} is {now}, and the run in {folder} began with {then}; keep it.")
    elif is_main_process() and (resume or newest_checkpoint(folder) is None):
        write_whole(file, (json.dumps(settings, indent=2) + "\n").encode())


def settings_of(folder: Path) -> dict[str, Any]:
    """Return the settings that the run in a folder was started with; none where it has kept none.

    Raises:
        ConfigError: its ``run.json`` is damaged.
    """
    file = folder / "run.json"
    return _read_settings(file) if os.path.lexists(file) else {}


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as they are once they have been written and read."""
    written: dict[str, Any] = json.loads(json.dumps(dict(values), default=str))
    return written


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        if not file.is_file():
            raise ValueError("it is no file")
        with file.open("rb") as opened:
            found = json.loads(opened.read(LARGEST_SETTINGS))
        if not isinstance(found, dict):
            raise ValueError("it holds no settings")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{file} is damaged ({error}); put the right one back, or remove it to resume with the settings given now."
        ) from None
    return found
