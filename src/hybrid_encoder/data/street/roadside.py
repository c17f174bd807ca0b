"""What stands and moves along the roads of a world, drawn from its random stream."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hybrid_encoder.data.street import buildings, vehicles
from hybrid_encoder.data.street.shapes import Thing
from hybrid_encoder.data.street.world import MAIN, SIDE, Course, Pose, Roads, pose_on
from hybrid_encoder.data.synthetic.layout import Draws, Road

DISTRICTS = (
    ("house", "house", "house", "tree", "wall", "fence", "bush"),
    ("tower", "tower", "shop", "shop", "house", "tree"),
    ("shop", "shop", "shop", "house"),
    ("hall", "hall", "wall", "fence", "tree", "gap"),
    ("tree", "tree", "tree", "bush", "fence", "gap", "gap"),
    ("house", "tower", "shop", "hall", "wall", "tree", "bush", "fence"),
    ("wall", "wall", "wall", "tree"),
)
LENGTHS = {
    "house": (7, 14), "tower": (10, 24), "shop": (6, 13), "hall": (16, 32), "wall": (6, 11), "fence": (6, 10),
}  # fmt: skip
ON_ROAD = ("car", "car", "car", "car", "van", "truck", "bus", "bicycle", "motorbike")
PARKED = ("car", "car", "car", "car", "van", "truck")
START = -10.0  # metres; the roadside begins behind the first camera
CLEAR = 1.1  # metres between the camera and whatever it passes


class Roadside:
    """The things of a world and their courses.

    Args:
        draws: where sizes, colours and distances come from.
        plan: lanes of the main road.
        roads: where they lie.
        end: z up to which the main road is filled.
        path: of the camera, which nothing stands in the way of.
    """

    def __init__(self, draws: Draws, plan: Road, roads: Roads, end: float, path: Sequence[Pose]) -> None:
        self.draws, self.plan, self.roads, self.end, self.path = draws, plan, roads, end, path
        self.things: list[Thing] = []
        self.courses: list[Course] = []
        self.leaves = draws.choice(len(buildings.LEAF))
        self.crossing = float(roads.crossing) if np.isfinite(roads.crossing) else None

    def fill(self, corner: int) -> None:
        """Fill both roads.

        Args:
            corner: where the camera turns: -1 left, 1 right, 0 nowhere.
        """
        for side in (-1, 1):
            district = DISTRICTS[self.draws.choice(len(DISTRICTS))]
            self._lots(MAIN, side, district, START, self.end)
            self._pavement(side)
            if self.crossing is not None:
                self._side_road(side, corner)
        self._traffic()
        self._people()
        if self.crossing is not None:
            self._crossing()
        if self.draws.chance(0.22):
            width = float(self.roads.edges[3] - self.roads.edges[0])
            deck = buildings.bridge(self.draws, width)
            self._put(deck, Course(MAIN, self.draws.between(6, 60), 0.0, False))

    def _put(self, thing: Thing, course: Course) -> None:
        """Add a thing, unless the camera would come too close to it."""
        wide, long = thing.half_size()
        moves = course.per_frame != 0 or course.aside != 0
        still = pose_on(self.roads, course, 0)
        for frame, camera in enumerate(self.path):
            x, z, cos, sin = pose_on(self.roads, course, frame) if moves else still
            dx, dz = camera.x - x, camera.z - z
            if (
                not thing.overhead
                and abs(dx * cos - dz * sin) < wide + CLEAR
                and abs(dx * sin + dz * cos) < long + CLEAR
            ):
                return
        self.things.append(thing)
        self.courses.append(course)

    def _lots(self, road: int, side: int, district: Sequence[str], start: float, end: float) -> None:
        """Fill one side of a road, -1 left or 1 right, with what a district has."""
        draws, at = self.draws, start
        edge = abs(self.roads.edges[0 if side < 0 else 3])
        if road == SIDE:
            edge = self.roads.side_half + self.roads.side_walk
        setback = draws.between(0.3, 1.5) if draws.chance(0.6) else draws.between(1.5, 7)
        while at < end:
            kind = district[draws.choice(len(district))]
            if kind == "gap":
                at += draws.between(4, 14)
            elif kind in ("tree", "bush"):
                spot = at + draws.between(1.5, 3)
                back = edge + draws.between(0.8, 5)
                thing = (buildings.tree if kind == "tree" else buildings.bush)(draws, self.leaves)
                if self._free(road, spot, 1.0):
                    self._put(thing, Course(road, spot, side * back, False))
                at = spot + draws.between(1.5, 5)
            else:
                length = draws.between(*LENGTHS[kind])
                thing, deep = buildings.BUILDINGS[kind](draws, length)
                back = edge + deep / 2 + (0.2 if kind in ("wall", "fence") else setback + draws.between(0, 0.8))
                if self._free(road, at + length / 2, length / 2):
                    self._put(thing, Course(road, at + length / 2, side * back, False))
                at += length + (0.0 if kind in ("wall", "fence") else draws.between(0.3, 4))

    def _free(self, road: int, along: float, half: float) -> bool:
        """Return whether a place beside a road lies outside the other one."""
        if road == SIDE or self.crossing is None:
            return True
        return abs(along - self.crossing) > half + self.roads.side_half + self.roads.side_walk

    def _pavement(self, side: int) -> None:
        """Add what stands between the lanes and the houses of the main road."""
        draws, roads = self.draws, self.roads
        kerb, edge = (abs(roads.edges[k]) for k in ((1, 0) if side < 0 else (2, 3)))
        parking = kerb - self.plan.half
        trees, poles = draws.chance(0.5), draws.chance(0.6)
        crowded, at = draws.between(0.2, 0.95), draws.between(-4, 10)
        while at < self.end:
            spot = at
            at += draws.between(5.2, 9) if crowded > 0.6 else draws.between(7, 18)
            if not self._free(MAIN, spot, 6):
                continue
            if draws.chance(crowded):
                thing = vehicles.VEHICLES[PARKED[draws.choice(len(PARKED))]](draws)
                wide, long = thing.half_size()
                if long > 3.2:
                    at += 4
                lateral = kerb - wide - 0.1 if parking > 1.7 else kerb + wide - 0.6
                if lateral + wide < edge + 0.6:
                    self._put(thing, Course(MAIN, spot, side * lateral, side < 0))
            elif trees:
                self._put(buildings.tree(draws, self.leaves), Course(MAIN, spot, side * (kerb + 0.6), False))
            elif poles:
                self._put(buildings.lamp(draws), Course(MAIN, spot, side * (kerb + 0.4), side < 0))
            if draws.chance(0.2):
                self._put(buildings.sign(draws), Course(MAIN, spot + 3, side * (kerb + 0.35), side < 0))

    def _side_road(self, side: int, corner: int) -> None:
        """Add what stands along the crossing road, on one side of the main road."""
        draws, roads = self.draws, self.roads
        middle = float(roads.centre(self.crossing)[0])
        edge = float(roads.edges[0 if side < 0 else 3])
        near = 2.0 if corner == side else 15.0
        long = 75.0 if corner == side else 45.0
        for across in (-1, 1):
            district = DISTRICTS[draws.choice(len(DISTRICTS))]
            start = middle + edge + side * near
            low, high = sorted((start, start + side * long))
            self._lots(SIDE, across, district, low + (13 if side > 0 and near < 15 else 0), high)
            at = draws.between(4, 12)
            while at < 40:
                if draws.chance(0.5):
                    thing = vehicles.VEHICLES[PARKED[draws.choice(len(PARKED))]](draws)
                    lateral = across * (roads.side_half - thing.half_size()[0] - 0.1)
                    self._put(thing, Course(SIDE, middle + edge + side * at, lateral, across < 0))
                at += draws.between(6, 14)

    def _traffic(self) -> None:
        """Add vehicles on the lanes: with the camera, ahead of it, and towards it."""
        draws, plan = self.draws, self.plan
        step = max(self.path[-1].z / max(len(self.path) - 1, 1), 0.2)
        hand = 1 if plan.middle(plan.ego_lane) >= 0 else -1
        one_way, last, busy = draws.chance(0.2), self.path[-1].z, draws.between(1.0, 3.0)
        for lane in range(plan.num_lanes):
            middle = plan.middle(lane)
            towards = not one_way and lane != plan.ego_lane and middle * hand < -0.1
            at = draws.between(4, 40)
            if lane == plan.ego_lane:
                at = last + draws.between(5, 40)
            speed = 0.0 if draws.chance(0.25) else draws.between(0.4, 1.5)
            while at < self.end:
                thing = vehicles.VEHICLES[ON_ROAD[draws.choice(len(ON_ROAD))]](draws)
                per_frame = -speed if towards else (min(speed, 1.2) if lane != plan.ego_lane else speed * step)
                self._put(thing, Course(MAIN, at, middle + draws.between(-0.3, 0.3), towards, per_frame))
                at += thing.half_size()[1] * 2 + draws.between(3, 22) * busy

    def _people(self) -> None:
        """Add people on the pavements, who stand or walk, and some who cross the street."""
        draws, roads = self.draws, self.roads
        for _ in range(draws.choice(12)):
            side = 2 * draws.choice(2) - 1
            kerb, edge = (abs(roads.edges[k]) for k in ((1, 0) if side < 0 else (2, 3)))
            at, backwards = draws.between(3, 45), draws.chance(0.5)
            walks = draws.chance(0.6) * (-1 if backwards else 1) * draws.between(0.05, 0.16)
            lateral = side * (kerb + draws.between(0.3, 0.8) * (edge - kerb))
            self._put(vehicles.person(draws), Course(MAIN, at, lateral, backwards, walks))
        if draws.chance(0.3):
            at = self.path[-1].z + draws.between(5, 25)
            aside = draws.between(0.05, 0.16)
            lateral = draws.between(-1, 1) * self.plan.half
            self._put(vehicles.person(draws), Course(MAIN, at, lateral, False, aside=aside, faces_right=True))

    def _crossing(self) -> None:
        """Add vehicles on the crossing road, and lights or signs at its corners."""
        draws, roads = self.draws, self.roads
        assert self.crossing is not None
        before = self.crossing - roads.side_half - roads.side_walk - 0.5
        lights, middle = draws.chance(0.5), float(roads.centre(self.crossing)[0])
        for lateral in (float(roads.edges[2]) + 0.4, float(roads.edges[1]) - 0.4):
            thing = buildings.traffic_light(draws) if lights else buildings.sign(draws)
            self._put(thing, Course(MAIN, before, lateral, False))
        for across in (-1, 1):
            at, speed = draws.between(-30, 6), 0.0 if draws.chance(0.2) else draws.between(0.3, 1.3)
            while at < 30:
                thing = vehicles.VEHICLES[ON_ROAD[draws.choice(len(ON_ROAD))]](draws)
                lane = across * roads.side_half * 0.5
                self._put(thing, Course(SIDE, middle + at, lane, across < 0, across * speed))
                at += thing.half_size()[1] * 2 + draws.between(4, 35)
