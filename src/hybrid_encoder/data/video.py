"""Videos, one frame at a time: read upright as RGB, and written as files that browsers play."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybrid_encoder.data.opening import MAX_PIXELS
from hybrid_encoder.data.video_opening import check_frame_size, moving_pictures, opened_video
from hybrid_encoder.data.video_pixels import EXACT, Conversion
from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.writing import written_whole

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

Pixels = NDArray[np.uint8]

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi"),
    *(".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".ogv"),
)
DEFAULT_RATE = Fraction(25)  # where a file says none, or one that cannot be
MAX_RATE = 1000
SLOWEST = Fraction(1, 10_000)  # frames per second that a file can tell
BT709, LIMITED = 1, 1  # FFmpeg's numbers of the matrix, primaries and curve of colours, and of values from 16 to 235
VIDEO_COLORS: Any = {"dst_colorspace": "ITU709", "dst_color_range": "MPEG"}  # the same, by swscale's names
THREADS = min(8, os.cpu_count() or 1)  # each holds a few frames


def is_video(path: Path) -> bool:
    """Say whether a path is named as videos are."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def video_comment(path: Path) -> str | None:
    """Return the comment in a video file; None where there is none, or no video."""
    try:
        with opened_video(path) as container:
            return container.metadata.get("comment")
    except InputError:
        return None


class VideoFrames:
    """The frames of a video file, for a ``with`` block in which they are gone through once.

    They are decoded while they are asked for, so that a long video takes no more memory than a short one. They come
    upright, with square pixels, and as RGB of 8 bits, whatever the file's own colours are; those of HDR are not
    mapped. A size that changes half-way is brought to that of the first frame.

    Attributes:
        size: (H, W) of every frame.
        rate: frames per second that are given. Where the file's own rate varies, it is the average: a video written
            with it is as long as the file.
        num_frames: how many will be given, as the file says; None where it does not.
        time: of the frame that was given last, in seconds; None where the file does not say.
    """

    def __init__(self, path: str | Path, every: int = 1, max_pixels: int = MAX_PIXELS) -> None:
        """Open nothing yet.

        Args:
            path: of a regular file.
            every: give the first of so many frames.
            max_pixels: a video with larger frames is refused before one is decoded.

        Raises:
            InputError: ``every`` below 1.
        """
        if every < 1:
            raise InputError(f"every is {every}; it must be at least 1.")
        self.path, self.every, self.max_pixels = Path(path), every, max_pixels

    def __enter__(self) -> VideoFrames:
        """Open the file and decode its first frame.

        Raises:
            InputError: no regular file, no video of a format that is read here, one without pictures, with frames
                smaller than 32 pixels or larger than the limit, or one of which nothing can be decoded.
        """
        with ExitStack() as stack:
            container = stack.enter_context(opened_video(self.path, self.max_pixels))
            stream = moving_pictures(self.path, container)
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = THREADS
            decoded = self._decode(container, stream)
            first = next(decoded, None)
            if first is None:
                height, width = stream.codec_context.height, stream.codec_context.width
                if height * width:  # it may be its size for which it was refused
                    check_frame_size(self.path, height, width, self.max_pixels)
                raise InputError(f"{self.path} holds no frame that can be decoded; save it again.")
            self._convert = Conversion(first, stream.sample_aspect_ratio)
            check_frame_size(self.path, *self._convert.size, self.max_pixels)
            self.size = self._convert.upright_size
            # Let go of when the file is closed: a forked process that inherits a decoder would wait for its threads.
            stack.callback(decoded.close)
            self._frames: Iterator[VideoFrame] = chain([first], decoded)
            rate = stream.average_rate or stream.guessed_rate or DEFAULT_RATE
            self.rate = (rate if 0 < rate <= MAX_RATE else DEFAULT_RATE) / self.every
            self.num_frames = -(-stream.frames // self.every) if stream.frames > 0 else None
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self._stack.close()
        self._frames = iter(())
        del self._convert

    def __iter__(self) -> Iterator[Pixels]:
        """Give the frames, uint8, (H, W, 3).

        Raises:
            InputError: the file is damaged from here on.
        """
        for frame in islice(self._frames, None, None, min(self.every, sys.maxsize)):
            self.time = frame.time
            yield self._convert(frame)

    def _decode(self, container: InputContainer, stream: VideoStream) -> Generator[VideoFrame, None, None]:
        from av.error import FFmpegError

        num_frames = 0
        try:
            for packet in container.demux(stream):
                for frame in _decode_packet(packet, begun=num_frames > 0):
                    yield frame
                    num_frames += 1
        except FFmpegError as error:
            raise InputError(
                f"{self.path} cannot be decoded after {num_frames} frames ({error.strerror}); cut it there, or save "
                "it again."
            ) from None


def _decode_packet(packet: Any, begun: bool) -> list[VideoFrame]:
    from av.error import FFmpegError

    try:
        frames: list[VideoFrame] = packet.decode()
    except FFmpegError:
        if begun:
            raise
        return []  # a recording may begin between two key frames
    return frames


class VideoWriter:
    """A video file, for a ``with`` block: H.264 in MP4, as browsers play it, whole or not at all.

    The colours are nearly those given (a quarter of them in place, as video has it: constant rate factor 18). H.264 of
    this kind has no odd height or width: there the last row or column is repeated.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], rate: Fraction | float, comment: str = "") -> None:
        """Open nothing yet.

        Args:
            path: of the file; one that stands there is replaced when the new one is whole.
            size: (H, W) of the frames.
            rate: frames per second.
            comment: kept in the file, see :func:`video_comment`.

        Raises:
            InputError: a rate that is not between 0 and 1000.
        """
        if not 0 < rate <= MAX_RATE:
            raise InputError(f"rate is {rate}; it must be above 0 and at most {MAX_RATE} frames per second.")
        self.path, self.size, self.comment = Path(path), size, comment
        self.rate = max(Fraction(rate).limit_denominator(10_000), SLOWEST)

    def __enter__(self) -> VideoWriter:
        """Begin the file, in a hidden folder beside its place.

        Raises:
            OSError: nothing can be written there.
            ConfigError: PyAV was built without an encoder for H.264.
        """
        import av
        from av.video.reformatter import VideoReformatter

        with ExitStack() as stack:
            written = stack.enter_context(written_whole(self.path))
            stack.enter_context(self._told())
            container = av.open(f"file:{written.absolute()}", "w", format="mp4", options={"movflags": "+faststart"})
            stack.callback(container.close)
            container.metadata["comment"] = self.comment
            try:
                stream = container.add_stream("libx264", rate=self.rate, options={"crf": "18", "preset": "veryfast"})
            except ValueError:
                raise ConfigError("this PyAV cannot write H.264; pip install --force-reinstall av.") from None
            stream.height, stream.width = (n + n % 2 for n in self.size)
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = LIMITED
            context.thread_count = THREADS
            self._container, self._stream, self._num_frames = container, stream, 0
            self._reformatter = VideoReformatter()
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def write(self, pixels: Pixels) -> None:
        """Append a frame, uint8, (H, W, 3).

        Raises:
            InputError: of another size.
            OSError: it cannot be written.
        """
        from av import VideoFrame

        if pixels.shape != (*self.size, 3) or pixels.dtype != np.uint8:
            raise InputError(f"a frame is {pixels.shape}, {pixels.dtype}; {(*self.size, 3)}, uint8 is needed.")
        height, width = self.size
        if height % 2 or width % 2:
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = self._reformatter.reformat(
            VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24"),
            format="yuv420p",
            interpolation=EXACT,
            **VIDEO_COLORS,
        )
        frame.pts, frame.time_base = self._num_frames, 1 / self.rate
        with self._told():
            self._container.mux(self._stream.encode(frame))
        self._num_frames += 1

    def __exit__(self, *error: Any) -> None:
        """Finish the file and move it into its place; after an error, remove it.

        Raises:
            InputError: no frame was written.
            OSError: the file cannot be finished.
        """
        self._stack.__exit__(*error)

    def _finish(self, kind: object, *error: object) -> None:
        if kind is None and not self._num_frames:
            raise InputError(f"{self.path} would hold no frame; nothing was written.")
        if kind is None:
            self._container.mux(self._stream.encode(None))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Raise what FFmpeg says as an OSError about the file."""
        from av.error import FFmpegError

        try:
            yield
        except FFmpegError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None
