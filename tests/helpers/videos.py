"""Videos for tests: small ones of many kinds, and ones that no reader should follow."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
SIZE = (64, 96)
IDENTITY = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


def scenes(num_frames: int, size: tuple[int, int] = SIZE) -> list[Pixels]:
    """Frames that differ: red grows to the right, green downwards, blue with time."""
    frames = []
    for number in range(num_frames):
        frame = np.zeros((*size, 3), np.uint8)
        frame[..., 0] = np.linspace(0, 255, size[1])
        frame[..., 1] = np.linspace(0, 255, size[0])[:, None]
        frame[..., 2] = 20 + 8 * number % 200
        frames.append(frame)
    return frames


def write_video(
    path: Path,
    frames: Sequence[Pixels],
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,  # in milliseconds
    aspect: Fraction | None = None,  # of a pixel
    rate: int = 25,
    **options: str,
) -> Path:
    """Write a video straight with PyAV, without the code that is tested."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """Write a file without a picture, in the container of a video."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        for _ in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            frame.sample_rate = 44100
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def held(path: Path, matrix: Sequence[int]) -> Path:
    """Say in an MP4 file how its camera was held: x' = a x + c y and y' = b x + d y, given as a, b, c, d."""
    content = path.read_bytes()
    a, b, c, d = (value << 16 for value in matrix)
    track = content.index(b"tkhd")
    at = content.index(IDENTITY, track)
    path.write_bytes(content[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + content[at + len(IDENTITY) :])
    return path


def psnr(one: Pixels, other: Pixels) -> float:
    """The likeness of two pictures in decibels; above 35 nobody sees a difference."""
    error = np.square(one.astype(float) - other).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
