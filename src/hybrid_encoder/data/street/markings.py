"""Paint on the roads: lane lines, zebras, lines where vehicles stop."""

from __future__ import annotations

import numpy as np

from hybrid_encoder.data.street.world import Roads
from hybrid_encoder.data.synthetic.rendering import DASH_PERIOD, stripes
from hybrid_encoder.data.synthetic.street import Array

ZEBRA, STOP = (0.5, 3.5), (0.6, 1.1)  # metres from the crossing where they begin and end
UNPAINTED = 4.0  # metres from the crossing where lane lines begin
SIDE_LINE = 0.08  # metres, half the width of the line in the middle of the crossing road
SIDE_PERIOD = 5.0  # metres from one of its dashes to the next


def paint(roads: Roads, s: Array, z: Array, wide: Array, long: Array, asphalt: Array) -> tuple[Array, Array]:
    """Return which share of pixels is painted, and how yellow that paint is, 0 or 1, (N,).

    Args:
        s: lateral positions of points on the main road, in metres, (N,).
        z: of the points, in metres, float64, (N,).
        wide, long: what a pixel spans there along x and along z, in metres, (N,).
        asphalt: which share of it is asphalt, (N,).
    """
    cover, yellow = np.zeros_like(s), np.zeros_like(s)
    dash = z / DASH_PERIOD
    dash = (dash - 64 * np.floor(dash / 64)).astype(np.float32)  # small enough for float32
    for position, half, share, tint in roads.lines.tolist():
        near = np.minimum(s + wide / 2, position + half) - np.maximum(s - wide / 2, position - half)
        some = np.flatnonzero(near > 0)
        part = near[some] / wide[some]
        if share < 1:
            part = part * stripes(dash[some], np.float32(share), long[some] / np.float32(DASH_PERIOD))
        cover[some] = np.maximum(cover[some], part)
        yellow[some] = np.maximum(yellow[some], np.float32(tint))
    if np.isfinite(roads.crossing):
        q = (z - roads.crossing).astype(np.float32)
        away = np.abs(q) - np.float32(roads.side_half + roads.side_walk)
        cover *= _beyond(away, UNPAINTED, long)
        first, last = ZEBRA if roads.zebra else STOP
        low, high = float(roads.edges[1]), float(roads.edges[2])
        lanes = (s > low) & (s < high)
        if not roads.zebra:
            lanes &= (s > 0) == (q < 0)  # those that lead to the crossing
        some = np.flatnonzero(lanes & (away > first - long) & (away < last + long))
        band = _beyond(away[some], first, long[some]) - _beyond(away[some], last, long[some])
        if roads.zebra:
            band = band * stripes(s[some], np.float32(0.5), wide[some])
        cover[some], yellow[some] = np.maximum(cover[some], band), 0
        if roads.side_line:
            off = (s < low) | (s > high)
            some = np.flatnonzero(off & (np.abs(q) < SIDE_LINE + long))
            part = _beyond(SIDE_LINE - np.abs(q[some]), 0.0, long[some])
            if roads.side_line < 1:
                width = wide[some] / np.float32(SIDE_PERIOD)
                part = part * stripes(s[some] / np.float32(SIDE_PERIOD), np.float32(roads.side_line), width)
            cover[some], yellow[some] = np.maximum(cover[some], part), 0
    return cover * asphalt, yellow


def _beyond(distance: Array, edge: float, width: Array) -> Array:
    share: Array = np.clip((distance - np.float32(edge)) / width + np.float32(0.5), 0, 1)
    return share
