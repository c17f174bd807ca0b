"""A video file as a recording: decoded once into a cache, since frames of a video cannot be read in any order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from hybrid_encoder.data.opening import expanded
from hybrid_encoder.data.sources.base import Array, FrameSource
from hybrid_encoder.data.sources.cache import CachedSource, Moment, Progress, Reading, cached_frames, file_identity
from hybrid_encoder.data.sources.folder import numbers_in_time
from hybrid_encoder.data.transforms import Resample
from hybrid_encoder.data.video import VideoFrames


class VideoSource(CachedSource):
    """A video file, decoded into a cache unless it is there.

    Frames are numbered by the times that the file says, as :func:`~hybrid_encoder.data.sources.folder.numbers_in_time`
    does it: where a camera has left frames out, those before and after are no neighbours.

    Args:
        path: of the file.
        size: (H, W) of the images.
        K: intrinsics in pixels of the video's own frames, upright and with square pixels; None where they are unknown.
        every: keep the first of so many frames.
        resample, folder, progress: of :func:`~hybrid_encoder.data.sources.cache.cached`.

    Attributes:
        missing: how many frames fewer could be read than the file says that it has; 0 where it says none, or about as
            many.

    Raises:
        InputError: no file, no video of a format that is read here, one that is damaged, or less space than is needed.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        K: Array | None = None,
        *,
        every: int = 1,
        resample: Resample = "bilinear",
        folder: str | Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        file = expanded(path)
        with VideoFrames(file, every) as video:
            own_size, num_frames = video.size, video.num_frames
        times: list[float | None] = []

        def moments() -> Iterator[Moment]:
            times.clear()
            with VideoFrames(file, every) as video:
                for pixels in video:
                    times.append(video.time)
                    yield Moment(pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255))

        def numbers() -> Sequence[int]:
            known = [time for time in times if time is not None]
            rising = len(known) == len(times) and all(one < other for one, other in pairwise(known))
            return numbers_in_time(known) if rising else range(len(times))

        reading = Reading(str(path), [*file_identity(file), every], moments, numbers, num_frames)
        frames = cached_frames(reading, size, resample, folder, progress)
        super().__init__(_Video(str(path), own_size, K, every), frames, size)
        missing = (num_frames or 0) - len(self.frames)
        self.missing = missing if missing > max(2, len(self.frames) // 50) else 0  # headers may be a few frames off


class _Video(FrameSource):
    """What is known of a video beside its images."""

    def __init__(self, name: str, size: tuple[int, int], K: Array | None, every: int) -> None:
        self.name, self.size, self.K, self.every = name, size, K, every

    def frame_name(self, frame: int) -> str:
        return f"{self.name}, frame {frame * self.every}"


def video_size(path: str | Path) -> tuple[int, int]:
    """Return (H, W) of a video's frames, upright and with square pixels.

    Raises:
        InputError: as :class:`VideoSource`.
    """
    with VideoFrames(expanded(path)) as video:
        return video.size
