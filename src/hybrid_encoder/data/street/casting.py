"""Rays against solids: all pairs of a solid and a pixel that its outline may cover, in one pass over flat arrays.

Only operations that IEEE 754 rounds correctly are used, so that a seed gives the same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hybrid_encoder.data.street.shapes import Column
from hybrid_encoder.data.synthetic.rendering import NEAR
from hybrid_encoder.data.synthetic.street import Array

CHUNK = 24_000  # pairs at once: their arrays stay in a processor's cache
SMALL = 0.9  # pixels; what looks smaller is left out
# The edges of a block, as pairs of its corners; corner k is at the high end of axis j where bit j of k is set.
EDGES = np.array([(k, k | bit) for bit in (1, 2, 4) for k in range(8) if not k & bit])


@dataclass(frozen=True)
class Solids:
    """All solids at one moment, in the world.

    Args:
        middle: of each, (N, 3).
        cos, sin: of its heading, (N,).
        rows: as in :class:`hybrid_encoder.data.street.shapes.Column`, (N, ...).
    """

    middle: Array
    cos: Array
    sin: Array
    rows: Array

    def corners(self) -> Array:
        """Return the corners of the block around each, in the world, (8, N, 3)."""
        half, taper = self.rows[:, Column.HALF], self.rows[:, Column.TAPER]
        found = np.empty((8, len(half), 3))
        for k in range(8):
            x, up, z = (half[:, j] if k >> j & 1 else -half[:, j] for j in range(3))
            # Where a block tapers, its lower side is the widest one.
            x = x + np.copysign(taper[:, 0] * half[:, 1], x) * (-1 if k & 2 else 1)
            z = z + np.copysign(taper[:, 1] * half[:, 1], z) * (-1 if k & 2 else 1)
            found[k, :, 0] = self.middle[:, 0] + self.cos * x + self.sin * z
            found[k, :, 1] = self.middle[:, 1] - up
            found[k, :, 2] = self.middle[:, 2] - self.sin * x + self.cos * z
        return found


def place(rows: Array, owner: Array, poses: Array) -> Solids:
    """Return the solids of things that stand at ``poses``: x, y, z, cosine and sine of the heading, (T, 5)."""
    x, y, z, cos, sin = poses[owner].T
    across, up, along = rows[:, Column.MIDDLE].T
    middle = np.stack([x + cos * across + sin * along, y - up, z - sin * across + cos * along], 1)
    return Solids(middle, cos, sin, rows)


def outlines(corners: Array, pose: Array, K: Array, size: tuple[int, int], least: float = SMALL) -> tuple[Array, Array]:
    """Bound blocks in the image.

    Args:
        corners: of the blocks, in the world, (8, N, 3).
        pose: camera to world, (4, 4).
        K: intrinsics, (3, 3).
        size: (H, W) of the image.
        least: what looks smaller than this, in pixels, is left out.

    Returns:
        The indices of the blocks that may be seen, (M,), and top, bottom, left and right of each, the ends excluded,
        (M, 4).
    """
    offset = corners - pose[:3, 3]
    x, y, z = (
        offset[..., 0] * pose[0, j] + offset[..., 1] * pose[1, j] + offset[..., 2] * pose[2, j] for j in range(3)
    )
    ahead = z >= NEAR
    safe = np.where(ahead, z, 1.0)
    u, v = x / safe, y / safe
    low_u, high_u = np.where(ahead, u, np.inf).min(0), np.where(ahead, u, -np.inf).max(0)
    low_v, high_v = np.where(ahead, v, np.inf).min(0), np.where(ahead, v, -np.inf).max(0)
    cut = np.flatnonzero(ahead.any(0) & ~ahead.all(0))
    if len(cut):  # partly behind the camera: where its edges pass the nearest plane that is seen bounds it, too
        a, b = EDGES.T
        za, zb = z[a][:, cut], z[b][:, cut]
        through = (za >= NEAR) != (zb >= NEAR)
        share = np.where(through, (NEAR - za) / np.where(through, zb - za, 1), 0)
        for values, low, high in ((x, low_u, high_u), (y, low_v, high_v)):
            at = (values[a][:, cut] + share * (values[b][:, cut] - values[a][:, cut])) / NEAR
            low[cut] = np.minimum(low[cut], np.where(through, at, np.inf).min(0))
            high[cut] = np.maximum(high[cut], np.where(through, at, -np.inf).max(0))
    left, right = K[0, 0] * low_u + K[0, 2], K[0, 0] * high_u + K[0, 2]
    top, bottom = K[1, 1] * low_v + K[1, 2], K[1, 1] * high_v + K[1, 2]
    seen = ahead.any(0) & (right >= 0) & (left <= size[1] - 1) & (bottom >= 0) & (top <= size[0] - 1)
    seen &= np.maximum(right - left, bottom - top) >= least
    which = np.flatnonzero(seen)
    first = [np.ceil(np.maximum(edge[which], 0)) for edge in (top, left)]
    last = [np.floor(np.minimum(edge[which], n - 1)) for edge, n in zip((bottom, right), size, strict=True)]
    bounds = np.stack([first[0], last[0] + 1, first[1], last[1] + 1], 1).astype(np.int64)
    some = (bounds[:, 1] > bounds[:, 0]) & (bounds[:, 3] > bounds[:, 2])
    return which[some], bounds[some]


def pairs(bounds: Array, width: int) -> Iterator[tuple[slice, Array, Array]]:
    """Yield the pixels inside of many outlines, in chunks.

    Args:
        bounds: as :func:`outlines` returns them, (M, 4).
        width: of the image.

    Yields:
        Which of the outlines a chunk is of, the number of pixels of each, and the pixels, row by row, counted through
        the image.
    """
    count = (bounds[:, 1] - bounds[:, 0]) * (bounds[:, 3] - bounds[:, 2])
    ends = np.cumsum(count)
    start = 0
    while start < len(count):
        done = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, done + CHUNK, "right")), start + 1)
        part = slice(start, stop)
        wide = bounds[part, 3] - bounds[part, 2]
        sizes = count[part]
        number = np.arange(int(sizes.sum()), dtype=np.int32)
        number -= np.repeat((np.cumsum(sizes) - sizes).astype(np.int32), sizes)
        per_row = np.repeat(wide.astype(np.int32), sizes)
        first = (bounds[part, 0] * width + bounds[part, 2]).astype(np.int32)
        row = number // per_row
        pixel = np.repeat(first, sizes) + row * np.int32(width) + (number - row * per_row)
        yield part, sizes, pixel
        start = stop


def enter(solids: Solids, which: Array, sizes: Array, origin: Array, rays: Array) -> tuple[Array, Array]:
    """Return where rays enter and leave solids, as parameters along them, (N,); they miss where they enter later.

    Args:
        which: the solids, (M,).
        sizes: how many of the rays are for each of them, (M,).
        origin: one for all, (3,), or of each ray, (3, N).
        rays: their directions, (3, N); their precision is the one of all that follows.
    """
    rows, cos, sin = solids.rows[which], solids.cos[which], solids.sin[which]
    half, taper, weights = rows[:, Column.HALF], rows[:, Column.TAPER], rows[:, Column.WEIGHTS]

    def spread(values: Array) -> Array:
        return np.repeat(values.astype(rays.dtype), sizes)

    c, s = spread(cos), spread(sin)
    ray_x, ray_z, ray_up = c * rays[0] - s * rays[2], s * rays[0] + c * rays[2], -rays[1]
    if origin.ndim == 1:
        dx, dy, dz = (origin - solids.middle[which]).T
        at = [spread(cos * dx - sin * dz), spread(-dy), spread(sin * dx + cos * dz)]
    else:
        dx, dy, dz = (origin[k] - spread(solids.middle[which, k]) for k in range(3))
        at = [c * dx - s * dz, -dy, s * dx + c * dz]
    x, up, z = at
    ray_up[ray_up == 0] = 1e-12
    high = spread(half[:, 1])
    inverse = 1 / ray_up
    one, two = (high - up) * inverse, (-high - up) * inverse
    first, last = np.minimum(one, two), np.maximum(one, two)
    for here, ray, size, slant in ((x, ray_x, half[:, 0], taper[:, 0]), (z, ray_z, half[:, 2], taper[:, 1])):
        edge = spread(size)
        if slant.any():
            lean = spread(slant)
            inset, lean_ray = edge - lean * up, lean * ray_up
            for sign in (1, -1):  # outside of a plane is where sign * here + lean * up > edge
                toward = lean_ray + sign * ray
                toward[toward == 0] = 1e-12
                t = (inset - sign * here) / toward
                np.maximum(first, t, out=first, where=toward < 0)
                np.minimum(last, t, out=last, where=toward > 0)
        else:
            inverse = 1 / np.where(ray == 0, 1e-12, ray)
            one, two = (edge - here) * inverse, (-edge - here) * inverse
            np.maximum(first, np.minimum(one, two), out=first)
            np.minimum(last, np.maximum(one, two), out=last)
    if weights.any():
        wx, wu, wz = (spread(weights[:, k]) for k in range(3))
        a = wx * ray_x * ray_x + wu * ray_up * ray_up + wz * ray_z * ray_z
        b = wx * ray_x * x + wu * ray_up * up + wz * ray_z * z
        inside = b * b - a * (wx * x * x + wu * up * up + wz * z * z - 1)
        root = np.sqrt(np.maximum(inside, 0))
        a[a == 0] = 1e-30
        np.maximum(first, (-b - root) / a, out=first)
        np.minimum(last, (root - b) / a, out=last)
        last[inside < 0] = -np.inf
    return first, last


def groups(rows: Array) -> tuple[Array, Array, Array]:
    """Return which solids are upright blocks, blocks that taper, and rounded: each takes its own arithmetic."""
    rounded: Array = np.any(rows[:, Column.WEIGHTS] != 0, axis=1)
    slanted: Array = np.any(rows[:, Column.TAPER] != 0, axis=1) & ~rounded
    return ~rounded & ~slanted, slanted, rounded


def cast(solids: Solids, pose: Array, K: Array, rays: Array, depth: Array) -> tuple[Array, Array]:
    """Find what every ray hits first.

    Args:
        solids: what there is.
        pose: camera to world, (4, 4).
        K: intrinsics, (3, 3).
        rays: directions with z = 1 in the camera, (3, H, W).
        depth: of the ground, infinite where there is none, (H, W).

    Returns:
        z-depth, infinite for the sky, and the index of the solid, -1 for none; each (H, W).
    """
    height, width = depth.shape
    nearest = depth.copy()
    exact = rays.reshape(3, -1)
    coarse = exact.astype(np.float32)  # enough for planes; a thin cylinder far away needs more
    hit = np.full(depth.shape, -1, dtype=np.int32)
    which, bounds = outlines(solids.corners(), pose, K, (height, width))
    origin = pose[:3, 3]
    for group, flat in zip(groups(solids.rows[which]), (coarse, coarse, exact), strict=True):
        members, limits = which[group], bounds[group]
        for part, sizes, pixel in pairs(limits, width):
            first, last = enter(solids, members[part], sizes, origin, np.take(flat, pixel, axis=1))
            first[(first > last) | (first <= NEAR)] = np.inf
            at = 0
            for n, (top, bottom, left, right), size in zip(
                members[part].tolist(), limits[part].tolist(), sizes.tolist(), strict=True
            ):
                found = first[at : at + size].reshape(bottom - top, right - left)
                at += size
                window = nearest[top:bottom, left:right]
                nearer = found < window
                np.copyto(window, found, where=nearer)
                np.copyto(hit[top:bottom, left:right], n, where=nearer)
    return nearest, hit


def shadowed(solids: Solids, sun: Array, pose: Array, K: Array, points: Array, ground: Array, y: Array) -> Array:
    """Return which pixels of the ground lie in the shadow of a solid, bool, (H, W).

    Args:
        sun: direction towards the light, (3,).
        points: what the pixels show, in the world, (3, H, W).
        ground: which of them show the ground, (H, W).
        y: of the ground below each solid, (N,).
    """
    shape = ground.shape
    dark = np.zeros(ground.size, dtype=bool)
    casting = np.flatnonzero(solids.rows[:, Column.CASTS] > 0)
    casters = Solids(solids.middle[casting], solids.cos[casting], solids.sin[casting], solids.rows[casting])
    corners = casters.corners()
    drop = np.maximum((corners[..., 1] - y[casting]) / sun[1], -0.5)  # a little below ground that slopes, too
    which, bounds = outlines(corners - drop[..., None] * sun, pose, K, shape, least=3.0)
    flat, open_ground = points.reshape(3, -1).astype(np.float32), ground.ravel()
    light = sun.astype(np.float32)[:, None]
    for group in groups(casters.rows[which]):
        members, limits = which[group], bounds[group]
        for part, sizes, pixel in pairs(limits, shape[1]):
            lit = open_ground[pixel] & ~dark[pixel]
            owner = np.repeat(np.arange(len(sizes)), sizes)[lit]
            pixel = pixel[lit]
            sizes = np.bincount(owner, minlength=len(sizes))
            first, last = enter(casters, members[part], sizes, flat[:, pixel], np.repeat(light, len(pixel), 1))
            dark[pixel[(first <= last) & (last > 0)]] = True
    return dark.reshape(shape)
