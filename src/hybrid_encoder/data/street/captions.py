"""What a frame of a street shows, in words: true sentences from a small, closed vocabulary.

Distances are the seven phrases of ``hybrid_encoder.config.DEPTH_WORDS``, by fixed limits in metres that are evenly
spaced in log-depth: 4, 6.4, 10.2, 16.4, 26.2 and 41.9.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hybrid_encoder.config import DEPTH_WORDS
from hybrid_encoder.data.street.frame import StreetFrame, StreetObject
from hybrid_encoder.data.street.palette import COLOURS
from hybrid_encoder.errors import InputError

DEPTH_LIMITS = (4.0, 6.4, 10.24, 16.384, 26.2144, 41.94304)
"""Metres of z-depth at which the next one of ``DEPTH_WORDS`` begins: each 1.6 times the one before."""

GROUND_KINDS = ("road", "pavement", "grass", "ground")
OBJECT_KINDS = (
    "car", "van", "truck", "bus", "bicycle", "motorbike", "person", "house", "tower", "shop", "hall", "wall", "fence",
    "tree", "bush", "lamp", "traffic light", "sign", "bridge",
)  # fmt: skip
KINDS = ("sky", *GROUND_KINDS, *OBJECT_KINDS)
"""What a pixel can show; ``StreetFrame.kind`` counts them from 0."""

SIDES = {"left": "on the left", "ahead": "ahead", "right": "on the right"}
WEATHERS = {
    "clear": "a street in clear weather", "overcast": "a street under an overcast sky", "rain": "a street in rain",
    "fog": "a street in fog",
}  # fmt: skip
PATCH_SENTENCE = "This patch appears to be {}"
PLURALS = {"person": "people", "tree": "trees", "bush": "bushes", "lamp": "lamps", "house": "houses"}
WORN = {"person": "person", "bicycle": "cyclist"}  # whose colour is that of their clothes
MANY = 6  # objects of a frame that are told one by one
PART = 0.25  # of a region: what covers less is not told


def distance_word(depth: float) -> str:
    """Return the one of ``DEPTH_WORDS`` for a z-depth in metres.

    Example:
        >>> distance_word(3.9), distance_word(20.0), distance_word(80.0)
        ('very close', 'slightly distant', 'very distant')
    """
    return DEPTH_WORDS[int(np.searchsorted(DEPTH_LIMITS, depth, side="right"))]


def side_of(box: Sequence[float], width: int) -> str:
    """Return in which third of an image of this width the middle of a box lies."""
    middle = (box[0] + box[2]) / 2 / width
    return "left" if middle < 1 / 3 else "right" if middle > 2 / 3 else "ahead"


def describe(obj: StreetObject) -> str:
    """Return what and which colour an object is, such as "a red car" or "a person in red"."""
    return _article(_named(obj))


def _named(obj: StreetObject) -> str:
    if obj.kind in WORN:
        return f"{WORN[obj.kind]} in {obj.colour}"
    return f"{obj.colour} {obj.kind}".strip()


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def frame_captions(
    objects: Sequence[StreetObject], ground: dict[str, float], weather: str, pixels: int
) -> tuple[str, ...]:
    """Return true sentences about a frame.

    Args:
        objects: all that are visible.
        ground: median z-depth in metres of each kind of ground that covers a good part of the frame.
        weather: of ``WEATHERS``.
        pixels: of the frame; objects smaller than a 400th of it are not told.
    """
    large = sorted((o for o in objects if o.pixels * 400 >= pixels), key=lambda o: -o.pixels)
    told: list[str] = []
    for obj in large[:MANY]:
        end = f"{distance_word(obj.distance)} {SIDES[obj.side]}"
        told.append(f"{describe(obj)} {end}")
        if obj.moving:
            told.append(f"a moving {_named(obj)} {end}")
    for kind, plural in PLURALS.items():
        groups: dict[tuple[str, str], int] = {}
        for obj in large:
            if obj.kind == kind:
                key = distance_word(obj.distance), SIDES[obj.side]
                groups[key] = groups.get(key, 0) + 1
        told += [f"{plural} {' '.join(key)}" for key, count in groups.items() if count > 1]
    if len(large) > 1:
        one, two = large[:2]
        told.append(
            f"{describe(one)} {distance_word(one.distance)} {SIDES[one.side]} and "
            f"{describe(two)} {distance_word(two.distance)} {SIDES[two.side]}"
        )
    told += [f"the {kind}, {distance_word(depth)}" for kind, depth in ground.items()]
    return (*dict.fromkeys(told), WEATHERS[weather])


def region_captions(frame: StreetFrame, box: Sequence[int], where: bool = True) -> tuple[str, ...]:
    """Return what a region of a frame shows: its largest part first, and its two largest parts together.

    A distance is the median z-depth of those pixels of the part that lie in the region.

    Args:
        frame: as a ``StreetDrive`` renders it.
        box: left, top, right, bottom in pixels, the ends excluded.
        where: say in which third of the whole frame the region is; leave it out for crops that do not show it.

    Returns:
        One or more sentences, such as "a red car close on the left", "the road, very close", "the sky".

    Raises:
        InputError: a box without pixels, or not inside the frame.
    """
    rows, columns = _window(frame, box)
    instance, kind = frame.instance[0][rows, columns].ravel(), frame.kind[0][rows, columns].ravel()
    depth = frame.depth[0][rows, columns].ravel()
    # Objects by their number, all else by its kind, below zero.
    part = np.where(instance > 0, instance.astype(np.int64), -1 - kind.astype(np.int64))
    names, counts = np.unique(part, return_counts=True)
    parts: list[str] = []
    for k in np.argsort(-counts, kind="stable")[:2]:
        if parts and counts[k] < PART * len(part):
            break
        parts.append(_tell(frame, int(names[k]), float(np.median(depth[part == names[k]])), box, where))
    return tuple(parts) if len(parts) < 2 else (parts[0], f"{parts[0]} and {parts[1]}")


def patch_caption(frame: StreetFrame, box: Sequence[int]) -> str:
    """Return the published sentence about how far a patch is: "This patch appears to be slightly close".

    The distance is the median z-depth of the patch; the sky, which has none, counts as the largest one.

    Args:
        frame, box: as for :func:`region_captions`.

    Raises:
        InputError: a box without pixels, or not inside the frame.
    """
    rows, columns = _window(frame, box)
    return PATCH_SENTENCE.format(distance_word(float(np.median(frame.depth[0][rows, columns]))))


def _tell(frame: StreetFrame, part: int, depth: float, box: Sequence[int], where: bool) -> str:
    far = distance_word(depth)
    side = SIDES[side_of(box, frame.depth.shape[-1])]
    if part > 0:
        return f"{describe(frame.objects[part - 1])} {far}{f' {side}' if where else ''}"
    kind = KINDS[-1 - part]
    if kind == "sky":
        return "the sky"
    if kind in GROUND_KINDS:
        return f"the {kind}, {far}"
    return f"{_article(kind)} {far}"  # beyond the largest depth, where there are no objects any more


def _window(frame: StreetFrame, box: Sequence[int]) -> tuple[slice, slice]:
    left, top, right, bottom = (int(edge) for edge in box)
    height, width = frame.depth.shape[-2:]
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise InputError(f"box is {tuple(box)}; left, top, right, bottom must lie in the {height} x {width} frame.")
    return slice(top, bottom), slice(left, right)


def _vocabulary() -> tuple[str, ...]:
    sentences = [
        *DEPTH_WORDS, *SIDES.values(), *WEATHERS.values(), *COLOURS, *KINDS, *PLURALS.values(), *WORN.values(),
        PATCH_SENTENCE.replace("{}", ""), "a an and the moving",
    ]  # fmt: skip
    return tuple(sorted({word for sentence in sentences for word in sentence.split()}))


VOCABULARY = _vocabulary()
"""All words that captions are made of; a comma may follow a word."""
