"""Lane labels of a street whose ground is not a plane: where a row of pixels passes over a line."""

from __future__ import annotations

import numpy as np

from hybrid_encoder.data.street.world import World
from hybrid_encoder.data.synthetic.rendering import NO_LANE
from hybrid_encoder.data.synthetic.street import Array


def label_lanes(world: World, points: Array, depth: Array, visible: Array, rows: Array) -> Array:
    """Return the columns of the lane lines of the main road, int64, (L, R); ``NO_LANE`` where a line is not visible.

    The points of a line are nearer from row to row, downwards; where a curve or the roll of the camera would break
    that, the higher point is kept. There is no line on a crossing.

    Args:
        points: what the pixels show, in the world, (3, H, W).
        depth: of the pixels, (H, W).
        visible: where they show the ground, (H, W).
        rows: to label, (R,).
    """
    roads = world.roads
    lanes = np.full((len(roads.lines), len(rows)), NO_LANE, dtype=np.int64)
    z = points[2, rows]
    s = points[0, rows] - roads.centre(z)[0]
    shown, far = visible[rows], depth[rows]
    if np.isfinite(roads.crossing):
        shown = shown & (np.abs(z - roads.crossing) > roads.side_half + roads.side_walk + 4)
    positions = roads.lines[:, 0]
    between = np.searchsorted(positions, s)
    places, columns = np.nonzero(shown[:, :-1] & shown[:, 1:] & (between[:, :-1] != between[:, 1:]))
    low, high = s[places, columns], s[places, columns + 1]
    for k, position in enumerate(positions.tolist()):
        over = np.flatnonzero((low < position) != (high < position))
        column = columns[over] + (np.abs(high[over] - position) < np.abs(low[over] - position))
        last, nearest = len(rows), -np.inf
        order = np.lexsort((far[places[over], column], -places[over]))  # from the lowest row up, nearest points first
        for r, u in zip(places[over][order].tolist(), column[order].tolist(), strict=True):
            if r < last and far[r, u] > nearest:
                lanes[k, r], last, nearest = u, r, far[r, u]
    return lanes
