"""One frame of a street, and the objects that it shows."""

from __future__ import annotations

from dataclasses import dataclass, field

from hybrid_encoder.data.synthetic.drive import SyntheticFrame
from hybrid_encoder.data.synthetic.street import Array

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class StreetObject:
    """One visible object of a frame.

    Args:
        kind: one of ``OBJECT_KINDS``.
        colour: a word of ``COLOURS``; empty where none is said, as of trees.
        box: left, top, right, bottom of its visible pixels, the ends excluded.
        distance: median z-depth of its visible pixels, in metres.
        side: the third of the image that the middle of its box lies in: "left", "ahead" or "right".
        moving: it moves in the world.
        pixels: how many of them show it.
    """

    kind: str
    colour: str
    box: Box
    distance: float
    side: str
    moving: bool
    pixels: int


@dataclass(frozen=True)
class StreetFrame(SyntheticFrame):
    """One frame of a street: what :class:`hybrid_encoder.data.SyntheticFrame` has, and what is known beyond that.

    Args:
        moving: bool, (1, H, W); surfaces that move in the world.
        motion: metres that the seen point of a surface moves in the world until the next frame, along the axes of the
            world, float32, (3, H, W); 0 on what stands still.
        textureless: bool, (1, H, W); surfaces without noise or pattern: plain walls, a wet road, the open sky.
        kind: what a pixel shows, an index into ``KINDS``, uint8, (1, H, W).
        instance: 0 on the sky, on the ground, and beyond ``max_depth``, else 1 + the index of an object in ``objects``,
            int64, (1, H, W).
        objects: all that are visible.
        captions: true sentences about the frame.
        weather: "clear", "overcast", "rain" or "fog".
    """

    moving: Array = field(kw_only=True)
    motion: Array = field(kw_only=True)
    textureless: Array = field(kw_only=True)
    kind: Array = field(kw_only=True)
    instance: Array = field(kw_only=True)
    objects: tuple[StreetObject, ...] = field(kw_only=True)
    captions: tuple[str, ...] = field(kw_only=True)
    weather: str = field(kw_only=True)
