"""A run's folder, held by one run at a time."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hybrid_encoder.errors import ConfigError
from hybrid_encoder.training.parallel import any_process, is_main_process

LOCK = ".lock"

_held = threading.local()  # the folders that this thread holds


@contextmanager
def hold_run(folder: Path) -> Iterator[None]:
    """Hold the folder of a run while the block runs; a thread may hold it more than once.

    The main process takes a lock of the operating system, which ends with the process however that ends, and the other
    processes of the run learn whether it could. :func:`hybrid_encoder.training.parallel.process_state` comes before.

    Raises:
        ConfigError: another run holds the folder, or files cannot be made in it.
    """
    folders: set[Path] = _held.__dict__.setdefault("folders", set())
    place = folder.absolute()
    if place in folders:
        yield
        return
    lock, refusal = _acquire(place) if is_main_process() else (None, None)
    if any_process(refusal is not None):
        raise ConfigError(refusal or f"the main process cannot use {folder} for its run; see what it says.")
    folders.add(place)
    try:
        yield
    finally:
        folders.discard(place)
        if lock is not None:
            lock.release()


def _acquire(folder: Path) -> tuple[FileLock | None, str | None]:
    """Return the lock of a folder, made if it is not there, or why it cannot be had."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        return None, f"another run is using {folder}; wait for its end, or choose another folder."
    except NotImplementedError:  # some network file systems have no locks
        warnings.warn(f"{folder} cannot be locked; see to it that no second run uses it.", stacklevel=4)
        return None, None
    except OSError as error:
        return None, f"{folder} cannot hold a run ({error.strerror}); choose another folder."
    return lock, None
