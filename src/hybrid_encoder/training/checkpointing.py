"""The checkpoints of a run: ``checkpoints/step_<number>``, each of which is complete or absent."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from accelerate import Accelerator

from hybrid_encoder.errors import ConfigError

NUM_KEPT = 2  # the last complete checkpoint survives a crash while the next one is written


def checkpoint_step(path: Path) -> int | None:
    """Return the step that a checkpoint folder was saved after; None where the name is not that of a checkpoint."""
    found = re.fullmatch(r"step_(\d+)", path.name)
    return int(found[1]) if found else None


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    found = [(step, path) for path in (folder / "checkpoints").glob("*") if (step := checkpoint_step(path)) is not None]
    return [path for _, path in sorted(found)]


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint of a run; None where there is none."""
    return next(reversed(list_checkpoints(folder)), None)


def checkpoint_to_start_from(folder: Path, resume: bool) -> Path | None:
    """Return the checkpoint that a run continues from; None for a new run.

    Raises:
        ConfigError: nothing to resume from, or a new run in a folder that already holds one.
    """
    newest = newest_checkpoint(folder)
    if resume and newest is None:
        raise ConfigError(f"{folder} holds no checkpoint to resume from; leave resume out to start there.")
    if newest is not None and not resume:
        raise ConfigError(f"{folder} holds a run already ({newest.name}); resume it, or choose another folder.")
    return newest


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Save what the accelerator has prepared, and remove old checkpoints; every process has to call this.

    The checkpoint is written under a hidden name and renamed once it is complete.
    """
    final = folder / "checkpoints" / f"step_{step:08d}"
    partial = final.with_name(f".{final.name}.partial")
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        for old in list_checkpoints(folder)[:-NUM_KEPT]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
