"""A folder of frames as a recording, in the order of their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from hybrid_encoder.data.finding import find_files
from hybrid_encoder.data.images import image_size, read_image
from hybrid_encoder.data.opening import SUFFIXES, expanded, is_folder, listed, opened
from hybrid_encoder.data.sources.base import Array, FrameSource
from hybrid_encoder.data.sources.calibration import check_centre, find_intrinsics, read_intrinsics
from hybrid_encoder.errors import InputError

DIGITS = re.compile("([0-9]+)")
TOLERANCE = 0.75  # of the usual distance, by which a distance may exceed it before something is missing


class FolderSource(FrameSource):
    """Frames that lie in one folder, as pictures of one size.

    They are sorted by name, numbers by their value: ``2.png`` comes before ``10.png``. Where the names differ in one
    number alone, :func:`numbers_in_time` says from it where frames are missing; otherwise all are neighbours.
    Intrinsics are read from ``intrinsics.txt``, ``.json`` or ``.npy`` in the folder, where there is such a file.

    Args:
        folder: of the frames; folders inside it are not looked into.

    Raises:
        InputError: the folder does not exist or holds no picture, two pictures have one name or one number, one cannot
            be read or has another size than the first, or the intrinsics are malformed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = expanded(folder)
        files = listed(self.folder.iterdir(), SUFFIXES) if is_folder(self.folder) else []
        if not files:
            raise InputError(f"{folder} holds no frame ({', '.join(SUFFIXES)}); give a folder of pictures.")
        self.name = str(folder)
        self._names = [file.name for file in sorted(files, key=lambda file: natural_key(file.name))]
        self._frames = _numbered([Path(name).stem for name in self._names], self.folder)
        self._index = {frame: index for index, frame in enumerate(self._frames)}
        self.size = image_size(self.folder / self._names[0])
        self._check_sizes()
        if file := find_intrinsics(self.folder):
            self.K = read_intrinsics(file)
            check_centre(self.K, self.size, self.name)

    @property
    def frames(self) -> Sequence[int]:
        return self._frames

    def file(self, frame: int) -> Path:
        """Return the file of a frame."""
        return self.folder / self._names[self._index[frame]]

    def image(self, frame: int) -> Array:
        """Return RGB in [0, 1], float32, (3, H, W).

        Raises:
            InputError: it cannot be read, or has another size than the first frame.
        """
        image: Array = read_image(self.file(frame)).numpy()
        self._check_size(self.file(frame), (image.shape[1], image.shape[2]))
        return image

    def frame_name(self, frame: int) -> str:
        return str(Path(self.name) / self._names[self._index[frame]])

    def _check_sizes(self) -> None:
        """Look at the header of every file; what two headers do not tell apart is found when it is read."""
        for name in self._names[1:]:
            file = self.folder / name
            with opened(file) as image:
                size = image.height, image.width
            self._check_size(file, size if size == self.size else image_size(file))  # it may be turned, by EXIF data

    def _check_size(self, file: Path, size: tuple[int, int]) -> None:
        if size != self.size:
            raise InputError(
                f"{file} is {size[0]} x {size[1]}, but {self._names[0]} is {self.size[0]} x {self.size[1]}; frames of "
                "one recording have one size: keep those of another size in a folder of their own."
            )


def folder_sources(folder: str | Path) -> list[FolderSource]:
    """Return the recordings in a folder: itself where it holds pictures, otherwise every folder inside that does.

    Intrinsics in the folder that was named are those of all recordings that have none of their own; these then count
    as one camera.

    Raises:
        InputError: as :class:`FolderSource`.
    """
    root = expanded(folder)
    folders: list[Path] = []
    for found in find_files([str(root)], SUFFIXES):
        if not any(parent == found.path.parent or parent in found.path.parents for parent in folders[-1:]):
            folders.append(found.path.parent)
    sources = [FolderSource(place) for place in sorted(folders, key=lambda place: natural_key(str(place)))]
    shared = find_intrinsics(root)
    for source in sources:
        if shared is not None and source.K is None:
            source.K, source.camera = read_intrinsics(shared), str(shared)
            check_centre(source.K, source.size, source.name)
    return sources


def natural_key(name: str) -> tuple[object, ...]:
    """Return what names are sorted by so that numbers in them count by their value."""
    parts = DIGITS.split(name)
    return (*((int(part), "") if part.isdigit() else (-1, part) for part in parts), name)


def numbers_in_time(times: Sequence[float]) -> list[int]:
    """Number frames by the times at which they were taken, so that neighbours differ by one, and others by more.

    The usual distance is the median. A frame is the next one where its distance is below 1.75 of these; after a longer
    one, as many numbers are left out as frames are missing.

    Args:
        times: in any unit, rising.
    """
    gaps = np.diff(np.asarray(times, np.float64))
    if not len(gaps):
        return [0] * len(times)
    steps = np.floor(gaps / np.median(gaps) + 1 - TOLERANCE)
    return [0, *np.cumsum(np.maximum(steps, 1)).astype(int).tolist()]


def _check_one_camera(parts: list[list[str]], stems: list[str], folder: Path) -> None:
    """Raise InputError where names differ in a word alone, as those of a left and a right camera do."""
    seen: dict[tuple[str, ...], str] = {}
    for row, stem in zip(parts, stems, strict=True):
        numbers = tuple(row[1::2])
        if numbers and (other := seen.setdefault(numbers, stem)) != stem:
            raise InputError(
                f"{folder} holds {other} and {stem}, frames of one number: they are of several cameras or recordings; "
                "keep each in a folder of its own."
            )


def _numbered(stems: list[str], folder: Path) -> list[int]:
    """Number frames by what their names say, see :class:`FolderSource`."""
    for one, other in pairwise(stems):
        if one == other:
            raise InputError(f"{folder} holds two pictures called {one}; keep one of them.")
    parts = [DIGITS.split(stem) for stem in stems]
    _check_one_camera(parts, stems, folder)
    columns = list(zip(*parts, strict=True)) if len({len(row) for row in parts}) == 1 else []
    varying = [column for column in columns if len(set(column)) > 1]
    if len(varying) != 1 or not varying[0][0].isdigit():
        return list(range(len(stems)))
    times = [int(number) for number in varying[0]]
    return (
        numbers_in_time([time - times[0] for time in times])
        if len(set(times)) == len(times)
        else list(range(len(stems)))
    )
