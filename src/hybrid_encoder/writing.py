"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_UMASK = threading.Lock()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside its own, then move it into place.

    A file that stood there before is replaced in one step; whatever fails, it stays as it was. The content has reached
    the disk before the name changes, so that a machine that stops leaves one or the other.
    """
    # Names may be as long as a file system allows, and this one has to be longer.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that nobody else can read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def replace_files(written: Path, folder: Path, names: Iterable[str], durable: bool = True) -> None:
    """Move files that were written into one folder to another one of the same disk, over those of the same names.

    Args:
        written: where they are.
        folder: where they go.
        names: of the files, in the order in which they are moved.
        durable: move none before the content of all has reached the disk. What can be made again in a second does not
            have to wait for it.
    """
    names = list(names)
    for name in names:
        if durable:
            with open(written / name, "rb+") as file:
                os.fsync(file.fileno())
        os.chmod(written / name, 0o666 & ~_umask())
    for name in names:
        os.replace(written / name, folder / name)


def replace_together(written: Path, folder: Path, names: Sequence[str]) -> None:
    """Move files that are only of use together as :func:`replace_files` does; the one that a reader opens is the last.

    While they are moved, the last name stands for nothing: a reader finds all of the old files, none, or all of the new
    ones, and never some of each. Where a move fails, the old ones are put back.

    Args:
        written: a folder of this call's own, where they are.
        folder: where they go; on the same disk.
        names: of the files.
    """
    before = written / ".before"
    before.mkdir()
    held = [name for name in reversed(names) if os.path.lexists(folder / name)]
    try:
        for name in held:
            os.rename(folder / name, before / name)
        replace_files(written, folder, names)
    except BaseException:
        for name in reversed(names):
            if not os.path.lexists(written / name):  # it was moved
                (folder / name).unlink(missing_ok=True)
        for name in reversed(held):
            if os.path.lexists(before / name):
                os.replace(before / name, folder / name)
        raise


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path to write a file to, in a hidden folder beside its place; it is moved there if the block ends well."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as staging:
        yield Path(staging) / path.name
        replace_files(Path(staging), path.parent, [path.name])


@contextmanager
def written_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, beside its place; it takes that place in whole if the block ends well.

    What stood there before stays until then. It is removed, so that only a folder that may be replaced is given.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as staging:
        written, before = Path(staging) / "new", Path(staging) / "old"
        written.mkdir()
        yield written
        for file in written.rglob("*"):
            if file.is_file():
                with open(file, "rb+") as opened:
                    os.fsync(opened.fileno())
                os.chmod(file, 0o666 & ~_umask())
        replaced = os.path.lexists(folder)
        if replaced:
            os.rename(folder, before)
        try:
            os.rename(written, folder)
        except BaseException:
            if replaced:
                os.rename(before, folder)
            raise


def _umask() -> int:
    with _UMASK:  # two threads at once would leave 0
        umask = os.umask(0)
        os.umask(umask)
    return umask
