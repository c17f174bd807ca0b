"""The manifest of a checkpoint: every file with its size and SHA-256, written last."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from hybrid_encoder.errors import CheckpointError

MANIFEST = "manifest.json"
FORMAT = 1
LARGEST = 1 << 20  # bytes of a manifest, far more than one has
BLOCK = 1 << 20


class Manifest(NamedTuple):
    """What the manifest of a checkpoint says.

    Attributes:
        step: that the checkpoint was saved after.
        processes: how many of them trained.
        files: size in bytes and SHA-256 by name.
    """

    step: int
    processes: int
    files: dict[str, tuple[int, str]]


def seal(folder: Path, step: int, processes: int) -> None:
    """Write the manifest of all files in a folder, once they are on the disk."""
    files = {}
    for path in sorted(folder.iterdir()):
        size, digest = 0, hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                size += len(block)
                digest.update(block)
            os.fsync(file.fileno())
        files[path.name] = {"size": size, "sha256": digest.hexdigest()}
    content = {"format": FORMAT, "step": step, "processes": processes, "files": files}
    with (folder / MANIFEST).open("w") as out:
        json.dump(content, out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_manifest(folder: Path) -> Manifest:
    """Return what the manifest of a checkpoint says.

    Raises:
        CheckpointError: what is wrong with it, as a part of a sentence.
    """
    if not folder.is_dir():
        raise CheckpointError("it is no folder")
    path = folder / MANIFEST
    if not path.is_file():
        old = (folder / "custom_checkpoint_0.pkl").is_file()
        raise CheckpointError("an earlier version saved it, as pickles" if old else f"{MANIFEST} is missing")
    try:
        with path.open("rb") as file:
            said = _checked(json.loads(file.read(LARGEST)))
    except OSError as error:
        raise CheckpointError(f"{MANIFEST} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise CheckpointError(f"{MANIFEST} is damaged") from None
    return said


def _checked(content: Any) -> Manifest:
    if content["format"] != FORMAT:
        raise CheckpointError(f"{MANIFEST} is of format {content['format']!r}, and {FORMAT} can be read")
    files = {name: (entry["size"], entry["sha256"]) for name, entry in content["files"].items()}
    numbers = [content["step"], content["processes"], *(size for size, _ in files.values())]
    if not all(type(number) is int and number >= 0 for number in numbers) or any("/" in name for name in files):
        raise ValueError
    return Manifest(content["step"], content["processes"], files)


def read_file(folder: Path, name: str, manifest: Manifest) -> bytes:
    """Return the content of a file of a checkpoint.

    Raises:
        CheckpointError: it is missing or another one than when it was saved, as a part of a sentence.
    """
    path, (size, expected) = folder / name, manifest.files[name]
    try:
        if not path.is_file():
            raise CheckpointError(f"{name} is missing")
        if path.stat().st_size != size:
            raise CheckpointError(f"{name} has {path.stat().st_size} bytes instead of {size}")
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(f"{name} is not as it was saved")
    return content
