"""The files that paths, folders, globs and lists name."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hybrid_encoder.data.opening import SUFFIXES, expanded, is_file, is_folder, is_there, listed
from hybrid_encoder.errors import InputError, shortened

LIST = ".txt"
SIGNS = "*?["  # of a pattern


class Found(NamedTuple):
    """A file, and where it stood.

    Attributes:
        path: of the file.
        place: its folder, relative to the folder that was named; ``.`` for a file that was named itself.
    """

    path: Path
    place: Path


def find_files(inputs: Sequence[str], suffixes: Collection[str] = SUFFIXES, *, recursive: bool = True) -> list[Found]:
    """List the files that inputs name, in order, each once.

    Args:
        inputs: files, whatever their names; folders, of which those files are taken whose names end as said, from the
            folders inside them too; globs, where ``**`` stands for folders of any depth; and lists, text files whose
            name ends in ``.txt``, with one path a line. Hidden files and folders and broken links are left out.
        suffixes: small letters.
        recursive: look into the folders inside a folder.

    Raises:
        InputError: an input, or a line of a list, does not exist or names no file.
    """
    found: dict[tuple[str, str], Found] = {}
    folder = cache(os.path.realpath)
    for text in inputs:
        for one in _find(text, suffixes, recursive):
            found.setdefault((folder(one.path.parent), one.path.name), one)
    return list(found.values())


def find_images(inputs: Sequence[str]) -> list[Path]:
    """List the image files that paths, folders (without those inside them) and globs name, in order, each once.

    Raises:
        InputError: as :func:`find_files`.
    """
    return [path for path, _ in find_files(inputs, recursive=False)]


def _find(text: str, suffixes: Collection[str], recursive: bool) -> list[Found]:
    path = expanded(text)
    if is_there(path) and not is_folder(path):
        return _of_list(path, suffixes, recursive) if path.suffix.lower() == LIST else [Found(path, Path())]
    try:
        if is_folder(path):
            hits = list(files_below(path, suffixes) if recursive else listed(path.iterdir(), suffixes))
            if not hits:
                raise InputError(f"{path} holds no images ({', '.join(suffixes)}); name another folder.")
            return [Found(hit, hit.parent.relative_to(path)) for hit in hits]
        if any(sign in text for sign in SIGNS):
            return _glob(path, text)
    except InputError:
        raise
    except (OSError, ValueError, IndexError, NotImplementedError) as error:  # a pattern or a name that cannot be
        raise InputError(f"{text!r} cannot be looked for ({error}); check the path.") from None
    raise InputError(f"{path} does not exist; give an image, a folder or a glob.")


def _glob(path: Path, text: str) -> list[Found]:
    parts = path.parts
    fixed = 0
    while fixed < len(parts) - 1 and is_folder(Path(*parts[: fixed + 1])):  # a folder may be called "run [1]"
        fixed += 1
    base = Path(*parts[:fixed])
    hits = [hit for hit in listed(base.glob(str(Path(*parts[fixed:])))) if not _is_hidden(hit.relative_to(base))]
    if not hits:
        raise InputError(f"{text!r} matches no file; check the pattern.")
    if ".." in parts[fixed:]:  # the way back may lead out of the folder
        return _placed(Found(hit, Path()) for hit in hits)
    return [Found(hit, hit.parent.relative_to(base)) for hit in hits]


def files_below(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Yield the data in a folder and in those inside it, in order; links to folders are followed, in circles too.

    Raises:
        InputError: the files of a folder cannot be seen.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be looked into ({error.strerror}); check its permissions.")

    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        if not os.access(place, os.X_OK):  # names alone are no files
            refuse(PermissionError(errno.EACCES, os.strerror(errno.EACCES), place))
        status = os.stat(place)
        if (key := (status.st_dev, status.st_ino)) in seen:
            folders.clear()
            continue
        seen.add(key)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from listed((Path(place, name) for name in names), suffixes)


def _of_list(path: Path, suffixes: Collection[str], recursive: bool) -> list[Found]:
    """Return what the lines of a list name; files of several folders keep their places among these."""
    if not is_file(path):  # a pipe may never end
        raise InputError(f"{path} is not a regular file; give a text file with one path a line.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path} cannot be read as a list of paths ({error}); give one path a line.") from None
    found: list[Found] = []
    for number, line in enumerate(lines, 1):
        if not (text := line.strip()):
            continue
        named = expanded(text)
        if not (is_file(named) or is_folder(named)) or named.suffix.lower() == LIST:
            raise InputError(
                f"{path}, line {number}: {shortened(text, 200)} is no file or folder; give one path a line, which "
                "begins in the folder that you work in."
            )
        found += _find(text, suffixes, recursive)
    if not found:
        raise InputError(f"{path} is a list without a path; give one path a line.")
    return _placed(found)


def _placed(found: Iterable[Found]) -> list[Found]:
    found = list(found)
    folders = [os.path.abspath(one.path.parent) for one in found]
    common = os.path.commonpath(folders)
    return [Found(one.path, Path(os.path.relpath(folder, common))) for one, folder in zip(found, folders, strict=True)]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") and part != ".." for part in path.parts)


def numbered_files(
    folder: Path, suffixes: Sequence[str] = (".jpeg", ".jpg", ".png"), ending: str = ""
) -> dict[int, Path]:
    """Return the files of a folder whose name is a number and an ending, by their number, rising.

    Args:
        folder: one that does not exist has no files.
        suffixes: in small letters; of several files with one number, that with the last suffix is taken.
        ending: what follows the number, before the suffix.
    """
    files = listed(folder.iterdir(), suffixes) if is_folder(folder) else []
    files.sort(key=lambda file: suffixes.index(file.suffix.lower()))
    name = re.compile(rf"([0-9]{{1,18}}){re.escape(ending)}")
    named = ((name.fullmatch(file.stem), file) for file in files)
    return dict(sorted((int(match[1]), file) for match, file in named if match))
