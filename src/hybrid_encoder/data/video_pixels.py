"""Frames as a decoder gives them, and as RGB: upright, with square pixels, and in the right colours."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av import VideoFrame

Pixels = NDArray[np.uint8]

HD = 576  # rows: what has more, and does not say by which matrix its colours were made, is BT.709
UNSPECIFIED = 2  # FFmpeg's number of such a matrix
RANGES = {1: "MPEG", 2: "JPEG"}  # of its number for 16 to 235, and for all
EXACT: Any = 0x46002  # swscale's flags: bilinear, right to the last bit, every pixel's own colour
WIDEST = 4  # of pixels that are not square


class Conversion:
    """From what a decoder gives to RGB, upright, with square pixels, always of one size."""

    def __init__(self, first: VideoFrame, aspect: Fraction | None) -> None:
        from av.video.reformatter import VideoReformatter

        wide = float(aspect) if aspect and 1 / WIDEST <= aspect <= WIDEST else 1.0
        self.size = first.height, round(first.width * wide)
        self.turn, swapped = _turn_of(first)
        self.upright_size = self.size[::-1] if swapped else self.size
        self.reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> Pixels:
        guess: Any = "ITU709" if frame.height > HD else "ITU601"
        rgb = self.reformatter.reformat(
            frame,
            width=self.size[1],
            height=self.size[0],
            format="rgb24",
            interpolation=EXACT,
            src_colorspace=guess if frame.colorspace == UNSPECIFIED else None,
            src_color_range=RANGES.get(frame.color_range),
        )
        pixels: Any = rgb.to_ndarray()
        return np.ascontiguousarray(self.turn(pixels))


def _turn_of(frame: VideoFrame) -> tuple[Callable[[Pixels], Pixels], bool]:
    """Return what turns a frame upright, and whether height and width change places.

    There are eight such turns: the four ways in which a camera can be held, and their mirror images.
    """
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return lambda pixels: pixels, False
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].astype(float)  # x' = a x + c y, y' = b x + d y
    swapped = bool(abs(b) + abs(c) > abs(a) + abs(d))
    right, down = (c, b) if swapped else (a, d)

    def turn(pixels: Pixels) -> Pixels:
        pixels = pixels.transpose(1, 0, 2) if swapped else pixels
        return pixels[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]

    return turn, swapped
