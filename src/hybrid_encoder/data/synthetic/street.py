"""The street of a synthetic drive as plain numbers: road, lane lines, boxes, colours and light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_encoder.errors import InputError

Array = NDArray[Any]
CAR_BOXES = 3  # wheels, body and cabin


@dataclass(frozen=True)
class Street:
    """The world of one drive. Lateral positions are metres to the right of the middle of the road."""

    step: float  # metres that the camera moves from frame to frame
    camera_height: float  # metres
    pitch: float  # tangent of the camera's pitch, positive looks down
    ego: float  # lateral position of the middle of the camera's lane
    bend: tuple[float, float, float]  # of the road: amplitude, length, phase of a `wave`
    weave: tuple[float, float, float]  # of the camera inside its lane, likewise
    lines: Array  # (L, 4): lateral position, half width, share painted (1 is solid), 1 if yellow
    edges: Array  # (4,), lateral positions from left to right: grass | pavement | asphalt | pavement | grass
    palette: Array  # (6, 3): asphalt, pavement, grass, paint, horizon, zenith
    light: Array  # (6,): brightness of faces that look to -x, +x, -y (up), +y, -z, +z
    noise: Array  # (256 * 256,) in [-1, 1]
    low: Array  # (N, 3), least x, y, z of the boxes
    high: Array  # (N, 3), greatest x, y, z of the boxes
    colours: Array  # (N, 2, 3): of the faces, and of the pattern on them
    pattern: Array  # (N, 5): period and share painted along the face, the same upwards, amplitude of the noise
    start: float  # z of the first frame
    cars: Array  # (C,): index of the first of the CAR_BOXES boxes of each car

    def centre(self, z: Any) -> tuple[Any, Any]:
        """Return the x of the middle of the road at z, in metres, and its slope dx/dz."""
        return wave(z, *self.bend)

    def path(self, z: float) -> tuple[float, float, float]:
        """Return the x of the camera's path at z, in metres, and cosine and sine of its heading, from z to x."""
        road, road_slope = self.centre(z)
        weave, weave_slope = wave(z, *self.weave)
        return road + self.ego + weave, *turn(road_slope + weave_slope)


def wave(z: Any, amplitude: float, length: float, phase: float) -> tuple[Any, Any]:
    """Return a smooth periodic curve at z, and its slope.

    The curve is made of parabolas: sines differ between maths libraries, and frames must be the same bytes on every
    machine.

    Args:
        z: numbers or arrays, in metres.
        amplitude: largest distance from zero.
        length: of one period, in metres.
        phase: as a share of a period.
    """
    q = 2 * ((z / length + phase) % 1.0) - 1
    return amplitude * 4 * q * (1 - abs(q)), amplitude * 8 / length * (1 - 2 * abs(q))


def check_drive(seed: Any, num_frames: Any, height: Any, width: Any, max_depth: float) -> None:
    """Raise InputError unless a drive can have these settings."""
    whole = (("seed", seed, 0), ("num_frames", num_frames, 1), ("height", height, 32), ("width", width, 32))
    for name, value, low in whole:
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
            raise InputError(f"{name} is {value!r}; it must be an integer of at least {low}: raise it.")
    if not 10 <= max_depth < float("inf"):
        raise InputError(f"max_depth is {max_depth!r}; it must be at least 10 metres, and finite.")


def check_baseline(baseline: float | None) -> None:
    """Raise InputError unless a second camera can be so far to the right, in metres, or there is none."""
    if baseline is not None and not 0 < baseline <= 10:
        raise InputError(f"baseline is {baseline!r}; give metres above 0, up to 10, or None.")


def moved_right(pose: Array, baseline: float) -> Array:
    """Return the pose of a camera that stands so many metres to the right of this one, (4, 4)."""
    moved: Array = pose.copy()
    moved[:3, 3] += baseline * pose[:3, 0]
    return moved


def frame_number(index: int, num_frames: int) -> int:
    """Return which frame an index names, from 0 up; raise IndexError where a drive has no such frame."""
    if not -num_frames <= index < num_frames:
        raise IndexError(f"frame is {index}; this drive has {num_frames}: raise num_frames.")
    return index % num_frames


def turn(tangent: float) -> tuple[float, float]:
    """Return cosine and sine of the angle with this tangent, by square roots alone."""
    cos = float(1 / np.sqrt(1 + tangent * tangent))
    return cos, cos * tangent
