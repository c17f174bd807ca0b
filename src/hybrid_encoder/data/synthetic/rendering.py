"""The street of a synthetic drive as one camera sees it: depth, colours and lane labels.

Rays have z = 1 in the camera, so that the parameter along a ray is z-depth. Only operations that IEEE 754 rounds
correctly are used, as :mod:`hybrid_encoder.data.synthetic.drive` says.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hybrid_encoder.data.synthetic.street import Array, Street

NO_LANE = -2  # TuSimple's mark for "no point on this row"
NEAR = 0.05  # metres; nothing nearer is rendered
HAZE = 140.0  # metres at which half of the colour is haze
OCTAVES = ((0.12, 0.34), (0.35, 0.40), (1.0, 0.42), (2.9, 0.36), (8.5, 0.30))  # of noise: (cell in metres, amplitude)
DASH_PERIOD = 7.5  # metres from one dash of a lane line to the next
SKY, GROUND = -2, -1  # what a ray hits, where it is not the index of a box


def camera_rays(pose: Array, K: Array, height: int, width: int) -> Array:
    """Return the directions that a camera's pixels look in, in the world, (3, H, W), as :func:`cast_rays` takes them.

    They have z = 1 in the camera: the parameter along a ray is z-depth itself.

    Args:
        pose: camera to world, (4, 4).
        K: intrinsics in pixels, float64, (3, 3).
        height, width: of the image.
    """
    x = ((np.arange(width) - K[0, 2]) / K[0, 0])[None, :]
    y = ((np.arange(height) - K[1, 2]) / K[1, 1])[:, None]
    rays = np.stack([pose[k, 0] * x + pose[k, 1] * y + pose[k, 2] for k in range(3)])
    rays[np.abs(rays) < 1e-9] = 1e-9
    return rays


def cast_rays(street: Street, pose: Array, K: Array, rays: Array) -> tuple[Array, Array, Array]:
    """Find what every ray hits first.

    Args:
        pose: camera to world, (4, 4).
        K: intrinsics in pixels, (3, 3).
        rays: directions in the world with z = 1 in the camera, none of their components zero, (3, H, W).

    Returns:
        z-depth in metres (infinite for the sky), ``SKY``, ``GROUND`` or the index of the box that is hit, and the axis
        (0, 1, 2 for x, y, z) that its face is perpendicular to; each (H, W).
    """
    origin = pose[:3, 3]
    height, width = rays.shape[1:]
    down = rays[1] > 0
    depth = np.where(down, -origin[1] / np.where(down, rays[1], 1), np.inf)
    hit = np.where(down, GROUND, SKY)
    axis = np.ones((height, width), dtype=np.int64)
    inverse = 1 / rays
    corners = np.stack([np.where([k & 1, k & 2, k & 4], street.high, street.low) - origin for k in range(8)])
    x, y, z = (sum(corners[..., k] * pose[k, j] for k in range(3)) for j in range(3))
    safe = np.maximum(z, NEAR)
    # The corners of a box that is partly behind the camera do not bound it in the image: all rays are tested.
    crosses = z.min(0) < NEAR
    u, v = K[0, 0] * x / safe + K[0, 2], K[1, 1] * y / safe + K[1, 2]
    left, right = (np.where(crosses, whole, edge) for whole, edge in ((0, u.min(0)), (width, u.max(0) + 1)))
    top, bottom = (np.where(crosses, whole, edge) for whole, edge in ((0, v.min(0)), (height, v.max(0) + 1)))
    seen = (z.max(0) > NEAR) & (right > 0) & (left < width) & (bottom > 0) & (top < height)
    for n in np.flatnonzero(seen):
        rows = slice(max(int(top[n]), 0), min(int(np.ceil(bottom[n])), height))
        columns = slice(max(int(left[n]), 0), min(int(np.ceil(right[n])), width))
        part = (slice(None), rows, columns)
        to_low = (street.low[n] - origin)[:, None, None] * inverse[part]
        to_high = (street.high[n] - origin)[:, None, None] * inverse[part]
        enter, leave = np.minimum(to_low, to_high), np.maximum(to_low, to_high)
        first = enter.max(0)
        nearer = (first <= leave.min(0)) & (first > NEAR) & (first < depth[part[1:]])
        depth[part[1:]][nearer] = first[nearer]
        hit[part[1:]][nearer] = n
        axis[part[1:]][nearer] = enter.argmax(0)[nearer]
    return depth, hit, axis


def shade(street: Street, origin: Array, rays: Array, depth: Array, hit: Array, axis: Array, focal: float) -> Array:
    """Return RGB in [0, 1], float32, (3, H, W).

    Args:
        origin: position of the camera, (3,).
        rays: as for ``cast_rays``.
        depth, hit, axis: as ``cast_rays`` returns them.
        focal: in pixels.
    """
    norm = np.sqrt(rays[0] ** 2 + rays[1] ** 2 + rays[2] ** 2)
    climb = np.clip(-rays[1] / norm / 0.3, 0, 1)[..., None]
    image = (street.palette[4] + (street.palette[5] - street.palette[4]) * climb).astype(np.float32)
    solid = hit != SKY
    ray = rays[:, solid].astype(np.float32)
    n, side = hit[solid], axis[solid]
    far = np.minimum(depth[solid], 1e3).astype(np.float32)  # finite at the horizon
    x, y, z = (np.float32(origin[k]) + far * ray[k] for k in range(3))
    through = np.where(side == 0, ray[0], np.where(side == 1, ray[1], ray[2]))
    pixel = far / np.float32(focal)  # what one pixel spans at that depth, in metres
    slanted = pixel * norm[solid].astype(np.float32) / np.maximum(np.abs(through), 1e-3)
    along, across = np.where(side == 0, z, x), np.where(side == 1, z, y)
    grain = noise_at(street.noise, along + np.float32(7.3) * n.astype(np.float32), across, slanted)

    colour = np.empty((len(n), 3), dtype=np.float32)
    ground = n == GROUND
    colour[ground] = _ground_colours(
        street, x[ground], z[ground], ray[:, ground], pixel[ground], slanted[ground], grain[ground]
    )
    built = ~ground
    colour[built] = _box_colours(
        street, n[built], side[built], along[built], y[built], pixel[built], slanted[built], grain[built]
    )
    colour *= street.light.astype(np.float32)[2 * side + (through < 0)][:, None]
    haze = (far * far / (far * far + HAZE**2))[:, None]
    image[solid] = colour + (street.palette[4].astype(np.float32) - colour) * haze
    return np.ascontiguousarray(np.clip(image, 0, 1).transpose(2, 0, 1))


def label_lanes(street: Street, origin: Array, rays: Array, road: Array, rows: Array) -> Array:
    """Return the columns of the lane lines, int64, (L, R); ``NO_LANE`` where a line is not visible.

    Args:
        origin: position of the camera, (3,).
        rays: as for ``cast_rays``.
        road: where the ground is visible, bool, (H, W).
        rows: to label, (R,).
    """
    lanes = np.full((len(street.lines), len(rows)), NO_LANE, dtype=np.int64)
    columns = np.arange(rays.shape[2])
    for r, row in enumerate(rows):
        if not road[row].any():
            continue
        depth = -origin[1] / rays[1, row]
        s = origin[0] + depth * rays[0, row] - street.centre(origin[2] + depth * rays[2, row])[0]
        u = np.rint(np.interp(street.lines[:, 0], s, columns, left=-1, right=-1)).astype(np.int64)
        lanes[:, r] = np.where((u >= 0) & road[row, u], u, NO_LANE)
    return lanes


def _ground_colours(
    street: Street, x: Array, z: Array, ray: Array, pixel: Array, slanted: Array, grain: Array
) -> Array:
    """Return the colours of ground points, (N, 3).

    Args:
        x, z: of the points in the world, in metres, (N,).
        ray: to the points, (3, N).
        pixel, slanted: what one pixel spans at the points, in metres: facing the camera, and along the surface, (N,).
        grain: noise, (N,).
    """
    middle, slope = street.centre(z)
    s = x - middle
    # What one pixel spans across the road: far to the side, a row makes a larger step than a column.
    wide = pixel * np.maximum(np.abs(ray[0] - slope * ray[2]) / ray[1], 1)
    beyond = [np.clip((s - edge) / wide + 0.5, 0, 1) for edge in street.edges.tolist()]
    asphalt, grass = beyond[1] - beyond[2], 1 - beyond[0] + beyond[3]
    pavement = 1 - asphalt - grass
    palette = street.palette.astype(np.float32)
    base: Array = asphalt[:, None] * palette[0] + pavement[:, None] * palette[1] + grass[:, None] * palette[2]
    base *= (1 + grain * (0.55 + 0.25 * grass))[:, None]
    for position, half, share, yellow in street.lines.tolist():
        # The share of the pixel that the line covers, across and along, so that it does not flicker far away.
        low, high = np.maximum(s - wide / 2, position - half), np.minimum(s + wide / 2, position + half)
        cover = np.maximum(high - low, 0) / wide * stripes(z / DASH_PERIOD, share, slanted / DASH_PERIOD)
        paint = palette[3] * np.array([1, 0.8 if yellow else 1, 0.3 if yellow else 1], dtype=np.float32)
        base += (cover * (1 + 0.1 * grain))[:, None] * paint - cover[:, None] * base
    return base


def _box_colours(
    street: Street,
    n: Array,
    side: Array,
    along: Array,
    y: Array,
    pixel: Array,
    slanted: Array,
    grain: Array,
) -> Array:
    """Return the colours of points on boxes ``n``, (N, 3).

    Args:
        n: index of the box, (N,).
        side: axis that the face is perpendicular to, (N,).
        along, y: where a point is on its face: horizontally, and its height, which is negative, (N,).
        pixel, slanted, grain: as for ``_ground_colours``.
    """
    period, share, rise, rise_share, rough = street.pattern.astype(np.float32)[n].T
    start = np.where(side == 0, street.low[n, 2], street.low[n, 0]).astype(np.float32)
    up = street.high[n, 1].astype(np.float32) - y
    cover = stripes((along - start) / period - (1 - share) / 2, share, slanted / period)
    cover = cover * stripes(up / rise - (1 - rise_share) / 2, rise_share, pixel / rise) * (side != 1)
    face, mark = street.colours.astype(np.float32)[n].transpose(1, 0, 2)
    near_ground = 0.65 + 0.35 * np.minimum(-y / 0.7, 1)  # darker towards the ground
    brightness = near_ground * (1 + rough * 0.45 * grain)
    colour: Array = (face + (mark - face) * cover[:, None]) * brightness[:, None]
    return colour


def stripes(at: Array, share: Any, width: Array) -> Array:
    """Return the painted share of [at - width / 2, at + width / 2], [k, k + share] being painted for all integers k."""
    low, high = at - width / 2, at + width / 2
    low_floor, high_floor = np.floor(low), np.floor(high)
    painted: Array = (high_floor - low_floor) * share
    painted += np.minimum(high - high_floor, share) - np.minimum(low - low_floor, share)
    painted /= np.maximum(width, 1e-6)
    return painted


def noise_at(
    table: Array, a: Array, b: Array, pixel: Array, octaves: tuple[tuple[float, float], ...] = OCTAVES
) -> Array:
    """Return value noise in octaves at (a, b), about [-1, 1]; octaves finer than what a pixel spans fade out."""
    total = np.zeros_like(a)
    for cell, amplitude in octaves:
        a, b = 0.8 * a - 0.6 * b + 17.3, 0.6 * a + 0.8 * b + 5.1  # so that no octave's lattice shows
        weight = np.clip(cell / pixel - 0.75, 0, 1)
        near = np.flatnonzero(weight)
        if not len(near):
            continue
        # Far away most octaves have faded: they are left out, which changes no bit of the sum.
        some = near if len(near) < 0.8 * len(a) else slice(None)
        p, q = a[some] / cell, b[some] / cell
        i, j = np.floor(p), np.floor(q)
        p, q = p - i, q - j
        p, q = p * p * (3 - 2 * p), q * q * (3 - 2 * q)
        left, top = i.astype(np.int32) & 255, j.astype(np.int32) & 255
        right, bottom = (left + 1) & 255, ((top + 1) & 255) << 8
        top <<= 8
        upper = table[top + left] * (1 - p) + table[top + right] * p
        lower = table[bottom + left] * (1 - p) + table[bottom + right] * p
        total[some] += amplitude * weight[some] * (upper + (lower - upper) * q)
    return total
