"""The street of a synthetic drive: how it is laid out from a seed, met by rays, and coloured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_Numbers: TypeAlias = Sequence[float]

NO_LANE = -2  # TuSimple's mark for "no point on this row"
NEAR = 0.05  # metres; nothing is rendered before it
HAZE = 140.0  # metres at which half of the colour is haze
OCTAVES = ((0.12, 0.34), (0.35, 0.40), (1.0, 0.42), (2.9, 0.36), (8.5, 0.30))  # (cell in metres, amplitude)
SKY, GROUND = -2, -1  # what a ray meets, else the index of a box
GLASS, STEEL = (0.1, 0.13, 0.17), (0.35, 0.36, 0.38)
BARK, LEAVES = ((0.3, 0.22, 0.15), (0.2, 0.15, 0.1)), ((0.2, 0.36, 0.14), (0.12, 0.24, 0.08))


@dataclass(frozen=True)
class Street:
    """The world of one drive. Lateral positions are metres to the right of the middle of the road."""

    step: float
    camera_height: float
    pitch: float  # tangent, positive looks down
    ego: float
    bend: tuple[float, float, float]  # of the road: amplitude, length, phase
    weave: tuple[float, float, float]  # of the camera in its lane
    lines: Array  # (L, 4): position, half width, share painted (1 is solid), yellow
    edges: Array  # (4,): of asphalt and pavement: left grass, left kerb, right kerb, right grass
    palette: Array  # (6, 3): asphalt, pavement, grass, paint, horizon, zenith
    light: Array  # (6,): brightness of faces that look to -x, +x, -y (up), +y, -z, +z
    noise: Array  # (256 * 256,) in [-1, 1]
    low: Array  # (N, 3) corners of the boxes
    high: Array
    colours: Array  # (N, 2, 3): the faces, and the pattern on them
    pattern: Array  # (N, 5): period and share along the face, the same upwards, amplitude of the noise

    def centre(self, z: Any) -> tuple[Any, Any]:
        """Middle of the road at z, and its slope."""
        return wave(z, *self.bend)


def wave(z: Any, amplitude: float, length: float, phase: float) -> tuple[Any, Any]:
    """A smooth periodic curve made of parabolas (sines differ between maths libraries), and its slope."""
    q = 2 * ((z / length + phase) % 1.0) - 1
    return amplitude * 4 * q * (1 - abs(q)), amplitude * 8 / length * (1 - 2 * abs(q))


def turn(tangent: float) -> tuple[float, float]:
    cos = float(1 / np.sqrt(1 + tangent * tangent))
    return cos, cos * tangent


def build_street(seed: int, num_frames: int, max_depth: float) -> Street:
    rng = np.random.Generator(np.random.PCG64(seed))

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(rng.random())

    def pick(count: int) -> int:  # of plain uniforms: numpy may change how ``integers`` draws
        return int(count * rng.random())

    step = between(0.3, 1.0)
    end = step * (num_frames - 1)
    lanes, lane_width = 2 + pick(3), between(3.1, 3.7)
    half = lanes * lane_width / 2
    shoulders = between(0.4, 2.6), between(0.4, 2.6)
    walks = between(1.5, 3.0), between(1.5, 3.0)
    edges = np.array([-half - shoulders[0] - walks[0], -half - shoulders[0], half + shoulders[1],
                      half + shoulders[1] + walks[1]])  # fmt: skip
    lane = pick(lanes)
    yellow = pick(2) == 1
    lines = [[k * lane_width - half, 0.09, 1.0 if k in (0, lanes) else 0.4, yellow and 2 * k == lanes]
             for k in range(lanes + 1)]  # fmt: skip
    bend = between(1.0, 5.0) * (2 * pick(2) - 1), between(160, 280), between(0, 1)
    boxes: list[list[float]] = []

    def tint(low: float, high: float, chroma: float) -> list[float]:
        base = between(low, high)
        return [min(max(base + between(-chroma, chroma), 0.02), 0.98) for _ in range(3)]

    def box(s: float, z: float, size: _Numbers, up: float, *looks: _Numbers) -> None:
        """One box: its middle beside the road, (width, height, length), how high it hangs; then the colours
        of its faces and of the pattern on them, and ``Street.pattern``."""
        x, (w, h, d) = wave(z, *bend)[0] + s, size
        corners = [x - w / 2, -up - h, z - d / 2, x + w / 2, -up, z + d / 2]
        boxes.append([*corners, *(number for look in looks for number in look)])

    def car(s: float, z: float) -> None:
        paint, gap, long = tint(0.15, 0.8, 0.2), tint(0.05, 0.15, 0.02), between(3.7, 4.7)
        box(s, z, (1.6, 0.28, long - 0.5), 0, (0.05, 0.05, 0.05), (0.12, 0.12, 0.12), (0.9, 0.5, 9, 1, 0.2))
        box(s, z, (1.8, 0.62, long), 0.28, paint, gap, (1.3, 0.08, 9, 1, 0.25))
        box(s, z + 0.2, (1.55, 0.55, long / 2), 0.9, paint, GLASS, (1.4, 0.85, 0.55, 0.75, 0.15))

    def roadside(side: int) -> None:
        curb, grass = abs(edges[1 if side < 0 else 2]), abs(edges[0 if side < 0 else 3])
        style, z = pick(3), -12.0
        wall, joint, tall = tint(0.35, 0.75, 0.12), tint(0.2, 0.4, 0.05), between(1.2, 3.2)
        while z < end + max_depth:
            if style == 0:  # a wall of panels, in pieces that follow the road
                deep = 4.0
                box(side * (grass + 0.5), z + 2, (0.8, tall, deep), 0, wall, joint, (2, 0.06, 0.8, 1, 0.9))
            elif style == 1:  # houses
                deep, wide, s = between(7, 13), between(6, 9), grass + between(0.8, 3)
                windows = between(1.8, 3), 0.45, 2.8, 0.5, 0.8
                size = wide, between(3.5, 9), deep
                box(side * (s + wide / 2), z + deep / 2, size, 0, tint(0.35, 0.85, 0.15), GLASS, windows)
                deep += between(0, 5)
            else:  # trees
                deep, s, r = between(5, 12), side * (grass + between(0.5, 3)), between(1.5, 3)
                box(s, z, (0.3, 2.2, 0.3), 0, *BARK, (0.3, 0.3, 9, 1, 0.8))
                box(s, z, (r, r * 1.2, r), 1.9, *LEAVES, (0.7, 0.5, 0.6, 1, 1.5))
            z += deep
        z = between(0, 12)
        while z < end + max_depth:  # parked cars and lamp posts
            if rng.random() < 0.6:
                car(side * (curb - 0.3 if curb - half > 2 else curb + 1.0), z)
            else:
                box(side * (curb + 0.5), z, (0.16, 5, 0.16), 0, STEEL, STEEL, (9, 0, 9, 1, 0.3))
            z += between(7, 20)

    roadside(-1)
    roadside(1)
    for other in range(lanes):
        z = between(6, 40)
        while other != lane and z < end + max_depth:
            car((other + 0.5) * lane_width - half, z)
            z += between(14, 60)
    if rng.random() < 0.6:  # ahead in our own lane, out of reach of the last frame
        car((lane + 0.5) * lane_width - half, end + between(10, 40))

    warm, zenith = between(-0.03, 0.03), between(0.3, 0.6)
    asphalt, pavement = tint(0.28, 0.45, 0.02), tint(0.5, 0.65, 0.03)
    meadow = [between(0.2, 0.42), between(0.36, 0.48), between(0.12, 0.22)]
    sky = [0.82 + warm, 0.85, 0.88 - warm], [zenith, zenith + 0.16, 0.9]
    sun, ambient = between(-1, 1), between(0.45, 0.6)
    light = ambient + (1 - ambient) * np.array([max(0, -sun), max(0, sun), 1, 0, 0.55 - 0.3 * abs(sun), 0.1])
    table = np.array(boxes)
    return Street(
        step=step,
        camera_height=between(1.2, 1.8),
        pitch=between(-0.01, 0.05),
        ego=(lane + 0.5) * lane_width - half,
        bend=bend,
        weave=(between(0.05, 0.25), between(25, 60), between(0, 1)),
        lines=np.array(lines, dtype=np.float64),
        edges=edges,
        palette=np.array([asphalt, pavement, meadow, [0.9, 0.9, 0.88], *sky]),
        light=light,
        noise=(2 * rng.random(256 * 256) - 1).astype(np.float32),
        low=table[:, :3],
        high=table[:, 3:6],
        colours=table[:, 6:12].reshape(-1, 2, 3),
        pattern=table[:, 12:],
    )


def cast_rays(street: Street, pose: Array, K: Array, rays: Array) -> tuple[Array, Array, Array]:
    """Depth (sky: infinite), what was met, and the axis of its face, each (H, W), for rays (3, H, W)."""
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
    crosses = z.min(0) < NEAR  # partly behind the camera: its outline says nothing, so every ray is tried
    u, v = K[0, 0] * x / safe + K[0, 2], K[1, 1] * y / safe + K[1, 2]
    left, right = (np.where(crosses, whole, edge) for whole, edge in ((0, u.min(0)), (width, u.max(0) + 1)))
    top, bottom = (np.where(crosses, whole, edge) for whole, edge in ((0, v.min(0)), (height, v.max(0) + 1)))
    seen = (z.max(0) > NEAR) & (right > 0) & (left < width) & (bottom > 0) & (top < height)
    for n in np.flatnonzero(seen):
        rows = slice(max(int(top[n]), 0), min(int(np.ceil(bottom[n])), height))
        columns = slice(max(int(left[n]), 0), min(int(np.ceil(right[n])), width))
        part = (slice(None), rows, columns)
        one = (street.low[n] - origin)[:, None, None] * inverse[part]
        two = (street.high[n] - origin)[:, None, None] * inverse[part]
        enter, leave = np.minimum(one, two), np.maximum(one, two)
        first = enter.max(0)
        new = (first <= leave.min(0)) & (first > NEAR) & (first < depth[part[1:]])
        depth[part[1:]][new] = first[new]
        hit[part[1:]][new] = n
        axis[part[1:]][new] = enter.argmax(0)[new]
    return depth, hit, axis


def shade(street: Street, origin: Array, rays: Array, depth: Array, hit: Array, axis: Array, focal: float) -> Array:
    """RGB in [0, 1], float32, (3, H, W)."""
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
    grain = _grain(street.noise, along + np.float32(7.3) * n.astype(np.float32), across, slanted)

    colour = np.empty((len(n), 3), dtype=np.float32)
    ground = n == GROUND
    colour[ground] = _pave(street, x[ground], z[ground], ray[:, ground], pixel[ground], slanted[ground], grain[ground])
    built = ~ground
    colour[built] = _build(
        street, n[built], side[built], along[built], y[built], pixel[built], slanted[built], grain[built]
    )
    colour *= street.light.astype(np.float32)[2 * side + (through < 0)][:, None]
    haze = (far * far / (far * far + HAZE**2))[:, None]
    image[solid] = colour + (street.palette[4].astype(np.float32) - colour) * haze
    return np.ascontiguousarray(np.clip(image, 0, 1).transpose(2, 0, 1))


def _pave(street: Street, x: Array, z: Array, ray: Array, pixel: Array, slanted: Array, grain: Array) -> Array:
    """Colours of ground points, (N, 3)."""
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
    for at, half, share, yellow in street.lines.tolist():
        # The share of the pixel that the line covers, across and along, so that it does not flicker far away.
        low, high = np.maximum(s - wide / 2, at - half), np.minimum(s + wide / 2, at + half)
        cover = np.maximum(high - low, 0) / wide * _stripes(z / 7.5, share, slanted / 7.5)
        paint = palette[3] * np.array([1, 0.8 if yellow else 1, 0.3 if yellow else 1], dtype=np.float32)
        base += (cover * (1 + 0.1 * grain))[:, None] * paint - cover[:, None] * base
    return base


def _build(
    street: Street,
    n: Array,
    side: Array,
    along: Array,
    y: Array,
    pixel: Array,
    slanted: Array,
    grain: Array,
) -> Array:
    """Colours of points on boxes n, (N, 3)."""
    period, share, rise, part, rough = street.pattern.astype(np.float32)[n].T
    start = np.where(side == 0, street.low[n, 2], street.low[n, 0]).astype(np.float32)
    up = street.high[n, 1].astype(np.float32) - y
    cover = _stripes((along - start) / period - (1 - share) / 2, share, slanted / period)
    cover = cover * _stripes(up / rise - (1 - part) / 2, part, pixel / rise) * (side != 1)
    face, other = street.colours.astype(np.float32)[n].transpose(1, 0, 2)
    near_ground = 0.65 + 0.35 * np.minimum(-y / 0.7, 1)
    brightness = near_ground * (1 + rough * 0.45 * grain)
    colour: Array = (face + (other - face) * cover[:, None]) * brightness[:, None]
    return colour


def _stripes(at: Array, share: Any, width: Array) -> Array:
    """How much of [at - width / 2, at + width / 2] is painted when [k, k + share] is, for every integer k."""
    low, high = at - width / 2, at + width / 2
    low_floor, high_floor = np.floor(low), np.floor(high)
    painted: Array = (high_floor - low_floor) * share
    painted += np.minimum(high - high_floor, share) - np.minimum(low - low_floor, share)
    painted /= np.maximum(width, 1e-6)
    return painted


def _grain(noise: Array, a: Array, b: Array, pixel: Array) -> Array:
    """Value noise in octaves, about [-1, 1]; octaves finer than what one pixel spans fade out."""
    total = np.zeros_like(a)
    for cell, amplitude in OCTAVES:
        a, b = 0.8 * a - 0.6 * b + 17.3, 0.6 * a + 0.8 * b + 5.1  # so that no octave's lattice shows
        p, q = a / cell, b / cell
        i, j = np.floor(p), np.floor(q)
        p, q = p - i, q - j
        p, q = p * p * (3 - 2 * p), q * q * (3 - 2 * q)
        left, top = i.astype(np.int32) & 255, j.astype(np.int32) & 255
        right, bottom = (left + 1) & 255, ((top + 1) & 255) << 8
        top <<= 8
        upper = noise[top + left] * (1 - p) + noise[top + right] * p
        lower = noise[bottom + left] * (1 - p) + noise[bottom + right] * p
        total += amplitude * np.clip(cell / pixel - 0.75, 0, 1) * (upper + (lower - upper) * q)
    return total


def label_lanes(street: Street, origin: Array, rays: Array, road: Array, rows: Array) -> Array:
    """Columns of the lane lines (L, R) on the given rows, where ``road`` (H, W) says that it is seen."""
    lanes = np.full((len(street.lines), len(rows)), NO_LANE, dtype=np.int64)
    columns = np.arange(rays.shape[2])
    for r, row in enumerate(rows):
        if not road[row].any():
            continue
        far = -origin[1] / rays[1, row]
        s = origin[0] + far * rays[0, row] - street.centre(origin[2] + far * rays[2, row])[0]
        u = np.rint(np.interp(street.lines[:, 0], s, columns, left=-1, right=-1)).astype(np.int64)
        lanes[:, r] = np.where((u >= 0) & road[row, u], u, NO_LANE)
    return lanes
