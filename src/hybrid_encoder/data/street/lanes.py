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
    both = shown[:, :-1] & shown[:, 1:]
    for k, position in enumerate(roads.lines[:, 0].tolist()):
        past = s - position
        change = both & ((past[:, :-1] < 0) != (past[:, 1:] < 0))
        nearest = np.inf
        for r in np.flatnonzero(change.any(1))[::-1]:  # from the nearest row up
            columns = np.flatnonzero(change[r])
            columns = columns + (np.abs(past[r, columns + 1]) < np.abs(past[r, columns]))
            u = columns[far[r, columns].argmin()]
            if nearest == np.inf or far[r, u] > nearest:
                lanes[k, r], nearest = u, far[r, u]
    return lanes
