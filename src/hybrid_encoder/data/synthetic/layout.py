"""The street of a synthetic drive, laid out from a seed.

All numbers come from one random stream. The order in which they are drawn decides what a seed looks like: changing
it, even by swapping two lines, changes every drive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hybrid_encoder.data.synthetic.street import Array, Street, wave

Numbers = Sequence[float]

GLASS, STEEL = (0.1, 0.13, 0.17), (0.35, 0.36, 0.38)
BARK, LEAVES = ((0.3, 0.22, 0.15), (0.2, 0.15, 0.1)), ((0.2, 0.36, 0.14), (0.12, 0.24, 0.08))
TYRES = ((0.05, 0.05, 0.05), (0.12, 0.12, 0.12))
START = -12.0  # metres; the roadside begins behind the first camera


def build_street(seed: int, num_frames: int, max_depth: float, behind: float = 0.0) -> Street:
    """Lay out a street that is long enough for ``num_frames`` frames that see ``max_depth`` metres ahead.

    Args:
        behind: metres of street behind the first frame, which is at z = ``behind``; 0 for cameras that only look ahead.
    """
    draws = Draws(seed)
    step = draws.between(0.3, 1.0)
    last = behind + step * (num_frames - 1)  # z of the last frame
    road = draw_road(draws)
    boxes = Boxes(draws, road, last + max_depth)
    boxes.add_roadside(-1)
    boxes.add_roadside(1)
    boxes.add_traffic(last)
    if behind:
        boxes.add_follower(behind)
    palette, light = draw_colours(draws)
    table = np.array(boxes.rows)
    return Street(
        step=step,
        camera_height=draws.between(1.2, 1.8),
        pitch=draws.between(-0.01, 0.05),
        ego=road.middle(road.ego_lane),
        bend=road.bend,
        weave=(draws.between(0.05, 0.25), draws.between(25, 60), draws.between(0, 1)),
        lines=road.lines(),
        edges=road.edges,
        palette=palette,
        light=light,
        noise=draws.noise(256 * 256),
        low=table[:, :3],
        high=table[:, 3:6],
        colours=table[:, 6:12].reshape(-1, 2, 3),
        pattern=table[:, 12:],
        start=behind,
        cars=np.array(boxes.cars, dtype=np.int64),
    )


class Draws:
    """Random numbers of one seed, made of plain uniforms alone: numpy may change how its other methods draw."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.Generator(np.random.PCG64(seed))

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._rng.random())

    def choice(self, num_choices: int) -> int:
        """Return one of 0, 1, ... ``num_choices`` - 1."""
        return int(num_choices * self._rng.random())

    def chance(self, probability: float) -> bool:
        return bool(self._rng.random() < probability)

    def colour(self, low: float, high: float, chroma: float) -> list[float]:
        """Return an RGB colour: a grey between low and high, each channel moved by up to ``chroma``."""
        grey = self.between(low, high)
        return [min(max(grey + self.between(-chroma, chroma), 0.02), 0.98) for _ in range(3)]

    def noise(self, size: int) -> Array:
        """Return float32 numbers in [-1, 1], (size,)."""
        return (2 * self._rng.random(size) - 1).astype(np.float32)


@dataclass(frozen=True)
class Road:
    """Lanes of one width between shoulders and pavements; lengths in metres."""

    num_lanes: int
    lane_width: float
    edges: Array  # as in Street
    ego_lane: int
    yellow: bool  # the line in the middle of the road
    bend: tuple[float, float, float]  # as in Street

    @property
    def half(self) -> float:
        """Half the width of all lanes."""
        return self.num_lanes * self.lane_width / 2

    def middle(self, lane: int) -> float:
        """Return the lateral position of the middle of a lane."""
        return (lane + 0.5) * self.lane_width - self.half

    def lines(self) -> Array:
        """Return ``Street.lines``: solid at the sides, dashed between lanes."""
        rows = [
            [k * self.lane_width - self.half, 0.09, 1.0 if k in (0, self.num_lanes) else 0.4,
             self.yellow and 2 * k == self.num_lanes]
            for k in range(self.num_lanes + 1)
        ]  # fmt: skip
        return np.array(rows, dtype=np.float64)


def draw_road(draws: Draws) -> Road:
    num_lanes, lane_width = 2 + draws.choice(3), draws.between(3.1, 3.7)
    half = num_lanes * lane_width / 2
    left_shoulder, right_shoulder = draws.between(0.4, 2.6), draws.between(0.4, 2.6)
    left_walk, right_walk = draws.between(1.5, 3.0), draws.between(1.5, 3.0)
    edges = np.array([-half - left_shoulder - left_walk, -half - left_shoulder, half + right_shoulder,
                      half + right_shoulder + right_walk])  # fmt: skip
    ego_lane = draws.choice(num_lanes)
    yellow = draws.choice(2) == 1
    bend = draws.between(1.0, 5.0) * (2 * draws.choice(2) - 1), draws.between(160, 280), draws.between(0, 1)
    return Road(num_lanes, lane_width, edges, ego_lane, yellow, bend)


class Boxes:
    """What stands on and beside a road, as rows of numbers: low corner, high corner, two colours, pattern.

    Args:
        draws: where sizes, colours and distances come from.
        road: what the boxes follow.
        end: z in metres up to which the street is filled.
    """

    def __init__(self, draws: Draws, road: Road, end: float) -> None:
        self.draws, self.road, self.end = draws, road, end
        self.rows: list[list[float]] = []
        self.cars: list[int] = []  # the first row of each

    def add(self, s: float, z: float, size: Numbers, up: float, face: Numbers, mark: Numbers, pattern: Numbers) -> None:
        """Add one box.

        Args:
            s, z: middle of its ground area: lateral position, and distance along the street.
            size: width, height, length.
            up: height of its lower side above the ground.
            face, mark: colour of its faces, and of the pattern on them.
            pattern: as in ``Street.pattern``.
        """
        x, (w, h, d) = wave(z, *self.road.bend)[0] + s, size
        low, high = (x - w / 2, -up - h, z - d / 2), (x + w / 2, -up, z + d / 2)
        self.rows.append([*low, *high, *face, *mark, *pattern])

    def add_roadside(self, side: int) -> None:
        """Fill one side, -1 (left) or 1 (right): walls, houses or trees, then parked cars and lamp posts."""
        kerb, grass = (abs(self.road.edges[k]) for k in ((1, 0) if side < 0 else (2, 3)))
        style, z = self.draws.choice(3), START
        wall, joint = self.draws.colour(0.35, 0.75, 0.12), self.draws.colour(0.2, 0.4, 0.05)
        wall_height = self.draws.between(1.2, 3.2)
        while z < self.end:
            if style == 0:  # panels of 4 m, so that the wall follows the road
                self.add(side * (grass + 0.5), z + 2, (0.8, wall_height, 4), 0, wall, joint, (2, 0.06, 0.8, 1, 0.9))
                z += 4.0
            elif style == 1:
                z += self._add_house(side, grass, z)
            else:
                z += self._add_tree(side, grass, z)
        z = self.draws.between(0, 12)
        while z < self.end:
            if self.draws.chance(0.6):
                self.add_car(side * (kerb - 0.3 if kerb - self.road.half > 2 else kerb + 1.0), z)
            else:
                self.add(side * (kerb + 0.5), z, (0.16, 5, 0.16), 0, STEEL, STEEL, (9, 0, 9, 1, 0.3))
            z += self.draws.between(7, 20)

    def _add_house(self, side: int, grass: float, z: float) -> float:
        """Add a house that begins at z; return how far away the next one begins."""
        length, width, gap = self.draws.between(7, 13), self.draws.between(6, 9), self.draws.between(0.8, 3)
        windows = (self.draws.between(1.8, 3), 0.45, 2.8, 0.5, 0.8)
        size = width, self.draws.between(3.5, 9), length
        wall = self.draws.colour(0.35, 0.85, 0.15)
        self.add(side * (grass + gap + width / 2), z + length / 2, size, 0, wall, GLASS, windows)
        return length + self.draws.between(0, 5)

    def _add_tree(self, side: int, grass: float, z: float) -> float:
        """Add a tree at z; return how far away the next one stands."""
        distance = self.draws.between(5, 12)
        s, width = side * (grass + self.draws.between(0.5, 3)), self.draws.between(1.5, 3)
        self.add(s, z, (0.3, 2.2, 0.3), 0, *BARK, (0.3, 0.3, 9, 1, 0.8))
        self.add(s, z, (width, width * 1.2, width), 1.9, *LEAVES, (0.7, 0.5, 0.6, 1, 1.5))
        return distance

    def add_car(self, s: float, z: float) -> None:
        """Add a car with its middle at (s, z): wheels, body and cabin."""
        paint, gap = self.draws.colour(0.15, 0.8, 0.2), self.draws.colour(0.05, 0.15, 0.02)
        length = self.draws.between(3.7, 4.7)
        self.cars.append(len(self.rows))
        self.add(s, z, (1.6, 0.28, length - 0.5), 0, *TYRES, (0.9, 0.5, 9, 1, 0.2))
        self.add(s, z, (1.8, 0.62, length), 0.28, paint, gap, (1.3, 0.08, 9, 1, 0.25))
        self.add(s, z + 0.2, (1.55, 0.55, length / 2), 0.9, paint, GLASS, (1.4, 0.85, 0.55, 0.75, 0.15))

    def add_traffic(self, last: float) -> None:
        """Add cars on the other lanes, and perhaps one in the camera's own lane ahead of its last position."""
        for lane in range(self.road.num_lanes):
            z = self.draws.between(6, 40)  # drawn for the camera's own lane, too
            while lane != self.road.ego_lane and z < self.end:
                self.add_car(self.road.middle(lane), z)
                z += self.draws.between(14, 60)
        if self.draws.chance(0.6):
            self.add_car(self.road.middle(self.road.ego_lane), last + self.draws.between(10, 40))

    def add_follower(self, first: float) -> None:
        """Add, perhaps, a car in the camera's own lane behind its first position."""
        if self.draws.chance(0.6):
            self.add_car(self.road.middle(self.road.ego_lane), first - self.draws.between(8, 30))


def draw_colours(draws: Draws) -> tuple[Array, Array]:
    """Draw ``Street.palette`` and ``Street.light``."""
    warmth, zenith = draws.between(-0.03, 0.03), draws.between(0.3, 0.6)
    asphalt, pavement = draws.colour(0.28, 0.45, 0.02), draws.colour(0.5, 0.65, 0.03)
    grass = [draws.between(0.2, 0.42), draws.between(0.36, 0.48), draws.between(0.12, 0.22)]
    paint, sky = [0.9, 0.9, 0.88], ([0.82 + warmth, 0.85, 0.88 - warmth], [zenith, zenith + 0.16, 0.9])
    sun, ambient = draws.between(-1, 1), draws.between(0.45, 0.6)
    direct = np.array([max(0, -sun), max(0, sun), 1, 0, 0.55 - 0.3 * abs(sun), 0.1])
    return np.array([asphalt, pavement, grass, paint, *sky]), ambient + (1 - ambient) * direct
