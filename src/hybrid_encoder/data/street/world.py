"""The world of one drive as plain numbers: roads, ground, things, light, and how the camera goes through it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from hybrid_encoder.data.street.ground import Ground
from hybrid_encoder.data.synthetic.street import Array, turn, wave

MAIN, SIDE = 0, 1  # a place is along the main road, or along the road that crosses it


class Pose(NamedTuple):
    """Where something stands: x and z, and the cosine and sine of its heading, from z towards x."""

    x: float
    z: float
    cos: float
    sin: float


@dataclass(frozen=True)
class Roads:
    """The main road, along z, and perhaps one that crosses it, along x. Lengths are in metres.

    Args:
        bend: of the main road, as in :class:`hybrid_encoder.data.synthetic.street.Street`.
        edges: of the main road, lateral positions: grass | pavement | asphalt | pavement | grass.
        lines: of the main road: lateral position, half width, share painted, 1 if yellow, (L, 4).
        crossing: z of the middle of the road that crosses; infinite where none does.
        side_half: half the width of its asphalt.
        side_walk: width of its pavements.
        side_line: share painted of the line in its middle; 0 for none.
        zebra: 1 if zebras lie across the main road, 0 for lines where vehicles stop.
    """

    bend: tuple[float, float, float]
    edges: Array
    lines: Array
    crossing: float
    side_half: float
    side_walk: float
    side_line: float
    zebra: bool

    def centre(self, z: Any) -> tuple[Any, Any]:
        """Return the x of the middle of the main road at z, and its slope dx/dz."""
        return wave(z, *self.bend)

    def place(self, road: int, along: float, lateral: float, backwards: bool = False) -> Pose:
        """Return the pose of what heads along a road.

        Args:
            road: ``MAIN`` or ``SIDE``.
            along: z on the main road, x on the other one.
            lateral: to the right of the middle of the road, for whoever heads along it.
            backwards: whether it heads against the road.
        """
        if road == SIDE:
            pose = Pose(along, self.crossing - lateral, 0.0, 1.0)
        else:
            middle, slope = self.centre(along)
            pose = Pose(float(middle) + lateral, along, *turn(float(slope)))
        return Pose(pose.x, pose.z, -pose.cos, -pose.sin) if backwards else pose


class Course(NamedTuple):
    """How a thing goes on from frame to frame: along a road, and to the side of it, in metres per frame."""

    road: int
    along: float
    lateral: float
    backwards: bool
    per_frame: float = 0.0
    aside: float = 0.0
    faces_right: bool = False  # it heads across the road


@dataclass(frozen=True)
class Light:
    """Weather and light.

    Args:
        sun: direction towards it, of length 1.
        ambient: brightness without the sun.
        direct: brightness that the sun adds to a face that looks at it; what lies in a shadow lacks it.
        haze: metres at which half of the colour is haze.
        horizon, zenith: colours of the sky.
        clouds: how much of the sky they cover, 0 to 1.
    """

    sun: tuple[float, float, float]
    ambient: float
    direct: float
    haze: float
    horizon: Array
    zenith: Array
    clouds: float


@dataclass(frozen=True)
class Camera:
    """A camera and its mounting: height in metres, tangents of pitch (positive looks down) and of roll."""

    height: float
    pitch: float
    roll: float
    focal: float  # of the width of the image
    centre: tuple[float, float]  # of the principal point from the middle of the image, of its width and height


@dataclass(frozen=True)
class World:
    """All that a drive shows.

    Args:
        weather: "clear", "overcast", "rain" or "fog".
        surfaces: colours of asphalt, pavement, the ground beside, and paint, (4, 3).
        verge: what lies beside the road, "grass" or "ground".
        rough: amplitude of the noise on asphalt, pavement and the ground beside, (3,).
        noise: table of :func:`hybrid_encoder.data.synthetic.rendering.noise_at`.
        rows, owner: as :func:`hybrid_encoder.data.street.shapes.table` returns them.
        kinds, colours: of each thing.
        courses: of each thing.
        path: of the camera, on the ground: one ``Pose`` for each frame.
    """

    roads: Roads
    ground: Ground
    light: Light
    camera: Camera
    weather: str
    surfaces: Array
    verge: str
    rough: Array
    noise: Array
    rows: Array
    owner: Array
    kinds: tuple[str, ...]
    colours: tuple[str, ...]
    courses: tuple[Course, ...]
    path: tuple[Pose, ...]

    def poses(self, frame: float) -> Array:
        """Return x, y, z, cosine and sine of the heading of every thing at a frame, (T, 5)."""
        poses: Array = self._first.copy()
        for k in np.flatnonzero(self.moving).tolist():
            poses[k] = self.pose_of(k, frame)
        return poses

    @cached_property
    def _first(self) -> Array:
        return np.array([self.pose_of(k, 0) for k in range(len(self.courses))]).reshape(-1, 5)

    def pose_of(self, thing: int, frame: float) -> tuple[float, float, float, float, float]:
        """Return x, y, z, cosine and sine of the heading of one thing at a frame."""
        x, z, cos, sin = pose_on(self.roads, self.courses[thing], frame)
        return x, -float(self.ground.height(z)), z, cos, sin

    @cached_property
    def moving(self) -> Array:
        """Which things move, bool, (T,)."""
        return np.array([c.per_frame != 0 or c.aside != 0 for c in self.courses], dtype=bool)


def pose_on(roads: Roads, course: Course, frame: float) -> Pose:
    """Return where a thing with this course is at a frame."""
    along, lateral = course.along + course.per_frame * frame, course.lateral + course.aside * frame
    x, z, cos, sin = roads.place(course.road, along, lateral, course.backwards)
    return Pose(x, z, -sin, cos) if course.faces_right else Pose(x, z, cos, sin)
