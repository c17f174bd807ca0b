"""The checkpoints of a run: ``checkpoints/step_<number>``, each of which is complete or absent."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from safetensors import SafetensorError

from hybrid_encoder.errors import CheckpointError, ConfigError
from hybrid_encoder.training.manifest import Manifest, read_file, read_manifest, seal, sync_folder
from hybrid_encoder.training.parallel import any_process, is_main_process
from hybrid_encoder.training.state import RunState, required_files

NUM_KEPT = 2  # the last complete checkpoint survives a crash while the next one is written


def checkpoint_step(path: Path) -> int | None:
    """Return the step that a checkpoint was saved after; None where the name is not that of a checkpoint."""
    found = re.fullmatch(r"step_([0-9]{1,18})", path.name)
    return int(found[1]) if found else None


def list_checkpoints(folder: Path) -> list[Path]:
    """Return what has the name of a checkpoint in a run, oldest first."""
    found = [(step, path) for path in (folder / "checkpoints").glob("*") if (step := checkpoint_step(path)) is not None]
    return [path for _, path in sorted(found)]


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint of a run by its name; None where there is none."""
    return next(reversed(list_checkpoints(folder)), None)


def newest_whole(folder: Path) -> Path | None:
    """Return the newest checkpoint whose files are all as they were saved, which is read for that."""
    return next((path for path in reversed(list_checkpoints(folder)) if damage_of(path) is None), None)


def damage_of(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, as a part of a sentence; None where it is whole."""
    try:
        manifest = _manifest_of(path)
        for name in manifest.files:
            read_file(path, name, manifest)
    except CheckpointError as error:
        return str(error)
    return None


def checkpoint_to_start_from(folder: Path, resume: bool | str) -> Path | None:
    """Return the checkpoint that a run continues from; None for a new run.

    Args:
        folder: of the run.
        resume: whether to continue from the newest one, or the name of one, such as ``"step_00000500"``.

    Raises:
        ConfigError: nothing of that name to resume from, or a new run in a folder that already holds one.
        CheckpointError: it is damaged; the newest whole one is named.
    """
    place, found = folder / "checkpoints", list_checkpoints(folder)
    if os.path.lexists(place) and not place.is_dir():
        raise ConfigError(f"{place} is not a folder; move it away, or choose another folder for the run.")
    if not resume:
        if found:
            raise ConfigError(f"{folder} holds a run already ({found[-1].name}); resume it, or choose another folder.")
        return None
    if not found:
        raise ConfigError(f"{folder} holds no checkpoint to resume from; leave resume out to start there.")
    chosen = found[-1] if resume is True else next((path for path in found if path.name == resume), None)
    if chosen is None:
        names = ", ".join(path.name for path in found)
        raise ConfigError(f"{folder} holds no checkpoint {resume!r}; it holds {names}.")
    if damage := damage_of(chosen):
        whole = newest_whole(folder)
        fix = "no other one is whole: begin again in another folder"
        if whole is not None:
            fix = f"the newest whole one is {whole}: resume from {whole.name} by that name (--resume-from {whole.name})"
        raise CheckpointError(f"{chosen} is damaged ({damage}); {fix}.")
    return chosen


def load_checkpoint(state: RunState, path: Path, processes: int) -> None:
    """Put a run into the state of a checkpoint; what is newer is set aside, its name ending in ``.aside``.

    Raises:
        CheckpointError: it is damaged, or of another run.
        ConfigError: another number of processes saved it.
    """
    manifest = _manifest_of(path)
    if manifest.processes != processes:
        raise ConfigError(f"{path} was saved by {manifest.processes} processes; resume with as many, not {processes}.")
    try:
        state.load(partial(read_file, path, manifest=manifest))
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be resumed from: {error}") from None
    if state.progress.step != manifest.step:
        raise CheckpointError(f"{path} is of step {state.progress.step}; take a checkpoint as it was saved.")
    if is_main_process():
        for other in list_checkpoints(path.parent.parent):
            if (checkpoint_step(other) or 0) > manifest.step:
                aside = other.with_name(f"{other.name}.aside")
                _remove(aside)
                os.replace(other, aside)
        for remains in path.parent.glob(".step_*.partial"):
            _remove(remains)
    any_process(False)  # wait


def save_checkpoint(state: RunState, folder: Path, step: int, processes: int) -> None:
    """Save the state of a run, and remove old checkpoints; every process has to call this.

    The checkpoint is written under a hidden name and renamed once all of it is on the disk.

    Raises:
        CheckpointError: it cannot be written; what was saved before stays and is named.
    """
    final = folder / "checkpoints" / f"step_{step:08d}"
    hidden = final.with_name(f".{final.name}.partial")

    def begin() -> None:
        _remove(hidden)
        hidden.mkdir(parents=True)

    def publish() -> None:
        seal(hidden, step, processes)
        _remove(final)
        os.replace(hidden, final)
        sync_folder(final.parent)

    for act, everywhere in ((begin, False), (partial(state.write, hidden), True), (publish, False)):
        failure = failure_of(act) if everywhere or is_main_process() else None
        if any_process(failure is not None):
            if is_main_process():
                shutil.rmtree(hidden, ignore_errors=True)
            raise CheckpointError(
                f"{final} cannot be saved ({failure or 'another process failed'}); the newest checkpoint is "
                f"{newest_whole(folder)}: mend this and resume."
            )
    if is_main_process():
        for old in list_checkpoints(folder)[:-NUM_KEPT]:
            away = old.with_name(f".{old.name}.partial")  # a checkpoint goes as it came, whole or not at all
            if failure_of(partial(os.replace, old, away)) is None:
                shutil.rmtree(away, ignore_errors=True)


def _manifest_of(path: Path) -> Manifest:
    manifest = read_manifest(path)
    if checkpoint_step(path) != manifest.step:
        raise CheckpointError(f"its manifest is that of step {manifest.step}")
    # As many random states as processes: no more of them are asked for than files are listed.
    needed = required_files(min(manifest.processes, len(manifest.files)))
    if missing := sorted(needed - manifest.files.keys()):
        raise CheckpointError(f"its manifest lists no {missing[0]}")
    return manifest


def failure_of(act: Callable[[], object]) -> str | None:
    """Do something with files, and return why it failed; None where it did not."""
    try:
        act()
    except OSError as error:
        return error.strerror or str(error)
    except SafetensorError as error:
        return str(error)
    return None


def _remove(path: Path) -> None:
    """Remove a file or a folder, should there be one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
