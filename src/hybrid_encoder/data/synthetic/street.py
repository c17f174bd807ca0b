"""The street of a synthetic drive: how it is laid out from a seed, met by rays, and coloured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_Numbers: TypeAlias = Sequence[float]

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
