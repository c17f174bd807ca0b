"""Videos, one frame at a time: read upright as RGB, and written as files that browsers play."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybrid_encoder.config import MIN_SIZE
from hybrid_encoder.data.opening import MAX_PIXELS, is_file, is_there
from hybrid_encoder.errors import InputError
from hybrid_encoder.writing import written_whole

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

Pixels = NDArray[np.uint8]

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi"),
    *(".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".ogv"),
)
# FFmpeg's names of what those files are. Pictures are none of them, nor lists that make it open other files.
FORMATS = ("mov", "mp4", "matroska", "webm", "avi", "mpeg", "mpegts", "mpegvideo", "asf", "flv", "ogg", "h264", "hevc")
DEFAULT_RATE = Fraction(25)  # where a file says none, or one that cannot be
MAX_RATE = 1000
THREADS = min(8, os.cpu_count() or 1)  # each holds a few frames
HD = 576  # rows: what has more, and does not say which colours it is made of, is BT.709
BT709, UNSPECIFIED, LIMITED, FULL = 1, 2, 1, 2  # FFmpeg's numbers of matrices, and of ranges


def is_video(path: Path) -> bool:
    """Say whether a path is named as videos are."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def video_comment(path: Path) -> str | None:
    """Return the comment in a video file; None where there is none, or no video."""
    try:
        with _opened(path) as container:
            return container.metadata.get("comment")
    except InputError:
        return None


class VideoFrames:
    """The frames of a video file, for a ``with`` block, in which they can be gone through once.

    They are decoded while they are asked for, so that a long video takes no more memory than a short one. They come
    upright, with square pixels, and as RGB of 8 bits, whatever the file's own colours are; those of HDR are not mapped.
    What changes its size half-way is resized to that of the first frame.

    Attributes:
        size: (H, W) of every frame.
        rate: frames per second that are given, on average: of a file with a variable rate too.
        num_frames: that will be given as the file says; None where it does not.
    """

    def __init__(self, path: Path, every: int = 1, max_pixels: int = MAX_PIXELS) -> None:
        """Open nothing yet.

        Args:
            path: of a regular file.
            every: give the first of as many frames.
            max_pixels: a video with larger frames is refused before one is decoded.
        """
        if every < 1:
            raise InputError(f"every is {every}; it must be at least 1.")
        self.path, self.every, self.max_pixels = path, every, max_pixels
        self._stack = ExitStack()

    def __enter__(self) -> VideoFrames:
        """Open the file and decode its first frame.

        Raises:
            InputError: no regular file, no video of a format that is read here, one without pictures, with frames
                smaller than 32 pixels or larger than the limit, or one of which nothing can be decoded.
        """
        with ExitStack() as stack:
            container = stack.enter_context(_opened(self.path, self.max_pixels))
            stream = _pictures(self.path, container)
            self._check_size(stream.codec_context.height, stream.codec_context.width)
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = THREADS
            frames = self._decoded(container, stream)
            first = next(frames, None)
            if first is None:
                raise InputError(f"{self.path} holds no frame that can be decoded; save it again.")
            self._convert = _Conversion(first)
            self.size = self._convert(first).shape[:2]
            self._check_size(*self.size)
            self._frames: Iterator[VideoFrame] = chain([first], frames)
            rate = stream.average_rate or stream.guessed_rate or DEFAULT_RATE
            self.rate = (rate if 0 < rate <= MAX_RATE else DEFAULT_RATE) / self.every
            self.num_frames = -(-stream.frames // self.every) or None
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self._stack.close()

    def __iter__(self) -> Iterator[Pixels]:
        """Give frames, uint8, (H, W, 3).

        Raises:
            InputError: the file is damaged from here on.
        """
        return map(self._convert, islice(self._frames, None, None, self.every))

    def _decoded(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        from av.error import FFmpegError

        num_frames = 0
        try:
            for packet in container.demux(stream):
                for frame in self._frames_of(packet, bool(num_frames)):
                    yield frame
                    num_frames += 1
        except FFmpegError as error:
            raise InputError(
                f"{self.path} cannot be decoded after {num_frames} frames ({error.strerror}); cut it there, or save it "
                "again."
            ) from None

    def _frames_of(self, packet: Packet, begun: bool) -> list[VideoFrame]:
        from av.error import FFmpegError

        try:
            frames: list[VideoFrame] = packet.decode()  # type: ignore[assignment]  # of this stream
            return frames
        except FFmpegError:
            if begun:
                raise
            return []  # a recording may begin between two key frames

    def _check_size(self, height: int, width: int) -> None:
        if height * width > self.max_pixels:
            raise InputError(
                f"{self.path} has frames of {height} x {width}, {height * width:,} pixels; at most "
                f"{self.max_pixels:,} are read: make it smaller."
            )
        if 0 < min(height, width) < MIN_SIZE:
            raise InputError(
                f"{self.path} has frames of {height} x {width}; height and width must be at least {MIN_SIZE}: resize "
                "it up."
            )


@contextmanager
def _opened(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[InputContainer]:
    import av
    from av.error import FFmpegError

    if not is_file(path):
        problem = "is not a regular file; give a video" if is_there(path) else "does not exist; check the path"
        raise InputError(f"{path} {problem}.")
    options = {
        "format_whitelist": ",".join(FORMATS),
        "protocol_whitelist": "file",
        "max_pixels": str(max_pixels),  # for what is decoded already to find the file's streams
    }
    try:
        container = av.open(f"file:{path.absolute()}", options=options, metadata_errors="replace")
    except FFmpegError as error:
        raise InputError(
            f"{path} cannot be read as a video ({error.strerror}); give one of {', '.join(VIDEO_SUFFIXES)}, or save it "
            "again."
        ) from None
    with container:
        for stream in container.streams.video:
            if stream.codec_context is not None:
                stream.codec_context.options = {"max_pixels": str(max_pixels)}
        yield container


def _pictures(path: Path, container: InputContainer) -> VideoStream:
    """Return the stream of moving pictures; a cover in a file of music is none."""
    from av.stream import Disposition

    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise InputError(f"{path} holds no moving pictures; give another file.")
    if streams[0].codec_context is None:
        raise InputError(f"{path} is of a kind that this FFmpeg cannot decode; save it as H.264.")
    return streams[0]


class _Conversion:
    """From what a decoder gives to RGB, upright, with square pixels, always of one size."""

    def __init__(self, first: VideoFrame) -> None:
        from av.video.reformatter import VideoReformatter

        self.reformatter = VideoReformatter()
        aspect = first.sample_aspect_ratio if hasattr(first, "sample_aspect_ratio") else None
        wide = float(aspect) if aspect and 0.25 <= aspect <= 4 else 1.0
        self.height, self.width = first.height, max(1, round(first.width * wide))
        self.turn = _turn_of(first)

    def __call__(self, frame: VideoFrame) -> Pixels:
        from av.video.reformatter import ColorRange, Colorspace

        guess = Colorspace.ITU709 if frame.height > HD else Colorspace.ITU601
        rgb = self.reformatter.reformat(
            frame,
            self.width,
            self.height,
            "rgb24",
            src_colorspace=guess if frame.colorspace == UNSPECIFIED else None,
            src_color_range=ColorRange(frame.color_range) if frame.color_range in (LIMITED, FULL) else None,
        )
        return np.ascontiguousarray(self.turn(rgb.to_ndarray()))


def _turn_of(frame: VideoFrame) -> Any:
    """Return what turns a frame upright: one of the eight ways in which a camera can be held, or a mirror."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return lambda pixels: pixels
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].astype(float)  # x' = a x + c y, y' = b x + d y
    swapped = abs(b) + abs(c) > abs(a) + abs(d)
    right, down = (c, b) if swapped else (a, d)

    def turn(pixels: Pixels) -> Pixels:
        pixels = pixels.transpose(1, 0, 2) if swapped else pixels
        return pixels[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]

    return turn


class VideoWriter:
    """A video file, for a ``with`` block: H.264 in MP4, as browsers play it, whole or not at all.

    Frames of an odd height or width, which H.264 does not have, are continued by one row or column.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate: Fraction | float, comment: str = "") -> None:
        """Open nothing yet.

        Args:
            path: of the file; one that stands there is replaced when the new one is whole.
            size: (H, W) of the frames.
            rate: frames per second.
            comment: kept in the file, see :func:`video_comment`.
        """
        if not 0 < rate <= MAX_RATE:
            raise InputError(f"rate is {rate}; it must be above 0 and at most {MAX_RATE} frames per second.")
        self.path, self.size, self.comment = path, size, comment
        self.rate = Fraction(rate).limit_denominator(10_000)
        self._stack = ExitStack()

    def __enter__(self) -> VideoWriter:
        """Begin the file, in a hidden folder beside its place."""
        import av
        from av.video.reformatter import VideoReformatter

        with ExitStack() as stack:
            written = stack.enter_context(written_whole(self.path))
            stack.enter_context(self._told())
            self._container = av.open(
                f"file:{written.absolute()}", "w", format="mp4", options={"movflags": "+faststart"}
            )
            self._container.metadata["comment"] = self.comment
            stack.callback(self._container.close)
            stream = self._container.add_stream("libx264", rate=self.rate, options={"crf": "18", "preset": "veryfast"})
            stream.height, stream.width = (n + n % 2 for n in self.size)
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.colorspace, context.color_range = BT709, LIMITED
            context.color_primaries, context.color_trc = BT709, BT709
            context.thread_count = THREADS
            self._stream, self._reformatter, self._num_frames = stream, VideoReformatter(), 0
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
        from av.video.reformatter import ColorRange, Colorspace

        if pixels.shape != (*self.size, 3) or pixels.dtype != np.uint8:
            raise InputError(f"a frame is {pixels.shape}, {pixels.dtype}; {(*self.size, 3)}, uint8 is needed.")
        height, width = self.size
        even = (
            np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if height % 2 or width % 2
            else pixels
        )
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        yuv = self._reformatter.reformat(
            frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        yuv.pts, yuv.time_base = self._num_frames, 1 / self.rate
        with self._told():
            self._container.mux(self._stream.encode(yuv))
        self._num_frames += 1

    def __exit__(self, *error: Any) -> None:
        """Finish the file and move it into its place; after an error, remove it."""
        self._stack.__exit__(*error)

    def _finish(self, kind: object, *error: object) -> None:
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
