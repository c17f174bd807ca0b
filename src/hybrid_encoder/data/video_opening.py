"""Video files, opened in one place: a few formats, a limit on pixels, and one sentence where a file is not right."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_encoder.config import MIN_SIZE
from hybrid_encoder.data.opening import MAX_PIXELS, is_file, is_there
from hybrid_encoder.errors import InputError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# FFmpeg's names of containers. No pictures are among them, and no lists, which make it open other files.
FORMATS = ("mov", "mp4", "matroska", "webm", "avi", "mpeg", "mpegts", "mpegvideo", "asf", "flv", "ogg", "h264", "hevc")
MOST = 2**31 - 1  # pixels, as FFmpeg counts
BORDER = 2**22  # pixels by which a coded frame, made of whole blocks, may exceed the one that is shown


@contextmanager
def opened_video(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[InputContainer]:
    """Open a video file for a ``with`` block; nothing but this file is opened.

    A file is what its content says, whatever its name.

    Args:
        path: of a regular file.
        max_pixels: frames with more are not decoded.

    Raises:
        InputError: the file does not exist, is not a regular file, or not a video of these formats.
    """
    import av
    from av.error import FFmpegError

    if not is_file(path):
        # What is no regular file may never end, or never begin.
        problem = "is not a regular file; give a video" if is_there(path) else "does not exist; check the path"
        raise InputError(f"{path} {problem}.")
    limit = {"max_pixels": str(min(max_pixels + BORDER, MOST))}
    options = {
        "format_whitelist": ",".join(FORMATS),
        "protocol_whitelist": "file",
        **limit,  # for what is decoded already to find out what the file holds
    }
    try:
        container = av.open(f"file:{path.absolute()}", options=options, **_metadata_option(av.__version__))
    except FFmpegError as error:
        reason = "its format is none of those" if error.errno == errno.EINVAL else error.strerror
        raise InputError(f"{path} cannot be read as a video ({reason}); save it as .mp4.") from None
    with container:
        decoders = [stream.codec_context for stream in container.streams.video if stream.codec_context is not None]
        for decoder in decoders:
            decoder.options = limit
        try:
            yield container
        finally:
            for decoder in decoders:
                # PyAV holds the interpreter's lock while it frees a decoder and waits for its threads; a thread with an
                # error for Python's logging, which older versions of torchvision turn on, waits for that lock.
                # This ends the threads' work without the lock.
                decoder.flush_buffers()


def _metadata_option(version: str) -> dict[str, Any]:
    """Return how text that is no UTF-8 is read without an error; from PyAV 19 on that is its only way."""
    return {"metadata_errors": "replace"} if int(version.partition(".")[0]) < 19 else {}


def moving_pictures(path: Path, container: InputContainer) -> VideoStream:
    """Return the stream that a player would show.

    Raises:
        InputError: there is none (the cover in a file of music is none), or none that can be decoded.
    """
    from av.stream import Disposition

    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise InputError(f"{path} holds no moving pictures; give another file.")
    if streams[0].codec_context is None:
        raise InputError(f"{path} is coded in a way that is not known here; save it as H.264.")
    return streams[0]


def check_frame_size(path: Path, height: int, width: int, max_pixels: int) -> None:
    """Raise InputError for frames that are too large to be decoded, or too small for the models."""
    if height * width > max_pixels:
        raise InputError(
            f"{path} has frames of {height} x {width}, {height * width:,} pixels; at most {max_pixels:,} are read: "
            "make it smaller."
        )
    if min(height, width) < MIN_SIZE:
        raise InputError(
            f"{path} has frames of {height} x {width}; height and width must be at least {MIN_SIZE}: resize it up."
        )
