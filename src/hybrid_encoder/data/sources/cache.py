"""Frames decoded once, resized to the size of a training, and read from a memory-mapped file since."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from hybrid_encoder.data.frames import resized
from hybrid_encoder.data.opening import expanded
from hybrid_encoder.data.sources.apparent_motion import THUMBNAIL, thumbnail
from hybrid_encoder.data.sources.base import Array, FrameSource
from hybrid_encoder.data.transforms import Resample, check_choice, check_size
from hybrid_encoder.errors import InputError
from hybrid_encoder.geometry.camera import resized_intrinsics
from hybrid_encoder.writing import written_folder

Progress = Callable[[str, int, int | None], None]  # name of a recording, frames that are done, frames in all if known

VERSION = 1  # of what is written; files of another one are not read
SAMPLES = 3  # frames of which the content is compared where nothing else says whether a recording has changed


class Moment(NamedTuple):
    """What is kept of one frame."""

    image: Array  # RGB in [0, 1], (3, H, W)
    right: Array | None = None  # the view of the right camera


class Reading(NamedTuple):
    """A recording as a cache takes it up.

    Attributes:
        name: of the recording.
        identity: what JSON can hold, and what changes whenever the frames do.
        moments: gives the frames in order.
        numbers: gives their numbers, once all have been read.
        num_frames: how many there will be, if that is known.
        stereo: whether there are right views.
    """

    name: str
    identity: object
    moments: Callable[[], Iterable[Moment]]
    numbers: Callable[[], Sequence[int]]
    num_frames: int | None = None
    stereo: bool = False


class CachedFrames:
    """The images of a recording in files, opened when they are first asked for; it is cheap to pickle.

    Args:
        folder: that :func:`cached_frames` has written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, Array] = {}

    def read(self, kind: str, index: int) -> Array:
        """Return a copy of an image, float32: ``"image"`` or ``"right"`` as RGB in [0, 1], ``"thumbnail"`` as it is."""
        values = self._file(kind)[index]
        if kind == "thumbnail":
            return np.array(values)
        image: Array = np.ascontiguousarray(values.transpose(2, 0, 1), np.float32) / np.float32(255)
        return image

    def numbers(self) -> list[int]:
        """Return the numbers of the frames."""
        numbers: list[int] = self._file("number").tolist()
        return numbers

    def is_whole(self) -> bool:
        """Say whether the files are there, and as long as they say."""
        try:
            lengths = {len(self._file(kind)) for kind in ("number", "image", "thumbnail")}
        except (OSError, ValueError, EOFError):
            return False
        return len(lengths) == 1

    def _file(self, kind: str) -> Array:
        if kind not in self._open:
            self._open[kind] = np.load(self.folder / f"{kind}.npy", mmap_mode="r", allow_pickle=False)
        return self._open[kind]

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_open": {}}


class CachedSource(FrameSource):
    """A recording whose images are read from a cache; depth and poses come from where they came before.

    Args:
        source: the recording; of a video, what is known of it.
        frames: its images.
        size: (H, W) of these.
    """

    def __init__(self, source: FrameSource, frames: CachedFrames, size: tuple[int, int]) -> None:
        self.source, self.cache, self.size = source, frames, size
        self.name, self.camera, self.baseline = source.name, source.camera, source.baseline
        if source.K is not None:
            self.K = resized_intrinsics(torch.as_tensor(source.K).float(), source.size, size).numpy()
        self._frames = frames.numbers()
        self._index = {frame: index for index, frame in enumerate(self._frames)}

    @property
    def frames(self) -> Sequence[int]:
        return self._frames

    def image(self, frame: int) -> Array:
        return self.cache.read("image", self._index[frame])

    def right(self, frame: int) -> Array:
        return self.cache.read("right", self._index[frame])

    def thumbnail(self, frame: int) -> Array:
        """Return a small grey copy, as :func:`~hybrid_encoder.data.sources.apparent_motion.thumbnail` makes it."""
        return self.cache.read("thumbnail", self._index[frame])

    def depth(self, frame: int) -> Array | None:
        return self.source.depth(frame)

    def world_T_cam(self, frame: int) -> Array | None:
        return self.source.world_T_cam(frame)

    def recorded(self, frame: int) -> tuple[str, int, str] | None:
        return self.source.recorded(frame)

    def file(self, frame: int) -> Path | None:
        return self.source.file(frame)

    def frame_name(self, frame: int) -> str:
        return self.source.frame_name(frame)


def as_recorded(source: FrameSource) -> FrameSource:
    """Return a recording at its own size, whether its images come from a cache or not."""
    return source.source if isinstance(source, CachedSource) else source


def cached(
    source: FrameSource,
    size: tuple[int, int],
    resample: Resample = "bilinear",
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> CachedSource:
    """Return a recording whose images are read from a cache, which is written now unless it is there.

    The images are those that a data set of this size would be given, rounded to 8 bits: they differ by half a step,
    1/510, at most. A cache is known again by the frames and by the length and the time of their files, as
    the source's ``file`` names them; where it names none, by the content of three frames.

    Args:
        source: a recording.
        size: (H, W) of the images.
        resample: of :class:`~hybrid_encoder.data.sequences.SourceSequences`.
        folder: for caches; by default :func:`cache_folder`. It may be removed while nothing is trained.
        progress: told about frames that are read for the first time.

    Raises:
        InputError: there is less space than is needed, or a frame cannot be read.
    """
    frames, stereo = list(source.frames), bool(source.baseline)

    def moments() -> Iterator[Moment]:
        return (Moment(source.image(frame), source.right(frame) if stereo else None) for frame in frames)

    reading = Reading(source.name, _identity(source, frames), moments, lambda: frames, len(frames), stereo)
    return CachedSource(source, cached_frames(reading, size, resample, folder, progress), size)


def cached_frames(
    reading: Reading,
    size: tuple[int, int],
    resample: Resample = "bilinear",
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> CachedFrames:
    """Return the images of a recording from the cache, into which they are written unless they are there.

    Several processes may ask at once: one of them writes, and the others wait for it.

    Args:
        reading: the recording, which is read where its frames are not there.
        size, resample, folder, progress: of :func:`cached`.

    Raises:
        InputError: as :func:`cached`.
    """
    from filelock import FileLock

    check_size(size)
    check_choice("resample", resample, ("bilinear", "lanczos"))
    key = json.dumps([VERSION, reading.identity, size, resample, reading.stereo]).encode()
    label = re.sub(r"\W+", "-", Path(reading.name).name)[:40]
    place = cache_folder(folder) / f"{label}-{size[0]}x{size[1]}-{hashlib.sha256(key).hexdigest()[:20]}"
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / "lock"):
        if not CachedFrames(place / "frames").is_whole():
            for left in place.glob(".writing-*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            _check_space(reading, place, size)
            with written_folder(place / "frames") as written:
                _write(written, reading, size, resample, progress)
    return CachedFrames(place / "frames")


def cache_folder(folder: str | Path | None = None) -> Path:
    """Return the folder for caches: the given one, or ``hybrid-encoder/frames`` where this system keeps caches."""
    from platformdirs import user_cache_path

    return user_cache_path("hybrid-encoder", appauthor=False) / "frames" if folder is None else expanded(folder)


def _write(
    folder: Path, reading: Reading, size: tuple[int, int], resample: Resample, progress: Progress | None
) -> None:
    with ExitStack() as stack:
        images, rights = (_Rows(folder / f"{kind}.npy", (*size, 3), np.uint8) for kind in ("image", "right"))
        thumbnails = _Rows(folder / "thumbnail.npy", THUMBNAIL, np.float16)
        for rows in (images, thumbnails, *([rights] if reading.stereo else [])):
            stack.enter_context(rows)
        for done, moment in enumerate(reading.moments(), 1):
            images.append(_pixels(moment.image, size, resample))
            thumbnails.append(thumbnail(moment.image))
            if moment.right is not None:
                rights.append(_pixels(moment.right, size, resample))
            if progress is not None:
                progress(reading.name, done, reading.num_frames)
    np.save(folder / "number.npy", np.array(reading.numbers(), np.int64))


class _Rows:
    """A ``.npy`` file that grows by rows, for a ``with`` block; its header says how many when it ends."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self.path, self.shape, self.dtype, self.length = path, shape, np.dtype(dtype), 0

    def __enter__(self) -> _Rows:
        self._file: BinaryIO = open(self.path, "wb")
        self._write_header()
        return self

    def append(self, row: Array) -> None:
        self._file.write(np.ascontiguousarray(row, self.dtype).tobytes())
        self.length += 1

    def __exit__(self, *error: object) -> None:
        with self._file:
            self._file.seek(0)
            self._write_header()  # numpy leaves room in it for a first axis of any length

    def _write_header(self) -> None:
        described = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length, *self.shape)}
        np.lib.format.write_array_header_1_0(self._file, described)


def _pixels(image: Array, size: tuple[int, int], resample: Resample) -> Array:
    pixels: Array = (resized(image, size, resample)[0] * 255).round().byte().permute(1, 2, 0).numpy()
    return pixels


def _check_space(reading: Reading, place: Path, size: tuple[int, int]) -> None:
    per_frame = (2 if reading.stereo else 1) * size[0] * size[1] * 3 + 2 * THUMBNAIL[0] * THUMBNAIL[1]
    needed, free = (reading.num_frames or 0) * per_frame, shutil.disk_usage(place).free
    if needed > free:
        raise InputError(
            f"{place} has {free:,} bytes left, but the frames of {reading.name} need {needed:,}; name another folder "
            "for the cache, or make room."
        )


def _identity(source: FrameSource, frames: Sequence[int]) -> object:
    """Return what the frames of a recording are known by, see :func:`cached`."""
    known: list[object] = [file_identity(file) for frame in frames if (file := source.file(frame)) is not None]
    if not known:
        digest = hashlib.sha256()
        for frame in sorted({frames[index * (len(frames) - 1) // (SAMPLES - 1)] for index in range(SAMPLES)}):
            digest.update(np.ascontiguousarray(source.image(frame)).tobytes())
        known = [digest.hexdigest()]
    return [type(source).__name__, source.name, source.size, list(frames), known]


def file_identity(file: Path) -> list[object]:
    """Return what a file is known by: where it is, its length and the time of its last change."""
    status = file.stat()
    return [str(file.absolute()), status.st_size, status.st_mtime_ns]
