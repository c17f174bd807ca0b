"""The ground of a street: its height changes along z, in parabolas that join without a kink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hybrid_encoder.data.synthetic.layout import Draws
from hybrid_encoder.data.synthetic.rendering import NEAR
from hybrid_encoder.data.synthetic.street import Array

FAR = 1e7  # metres, beyond all that is rendered


@dataclass(frozen=True)
class Ground:
    """Heights along z, the same for all x.

    Args:
        knots: z where one parabola ends and the next begins, ascending, (N,). The first is -``FAR``, the last ``FAR``.
        parts: of each parabola height at its own start, slope there, and half its curvature, (N - 1, 3); its own start
            is ``starts``.
        starts: (N - 1,); ``knots``, but for the first parabola, which has none.
    """

    knots: Array
    starts: Array
    parts: Array

    def height(self, z: Any) -> Any:
        """Return the height of the ground at z in metres, upwards."""
        k, q = self._part(z)
        return self.parts[k, 0] + q * (self.parts[k, 1] + q * self.parts[k, 2])

    def slope(self, z: Any) -> Any:
        """Return by how much the ground rises per metre at z."""
        k, q = self._part(z)
        return self.parts[k, 1] + 2 * q * self.parts[k, 2]

    def _part(self, z: Any) -> tuple[Any, Any]:
        k = np.searchsorted(self.knots[1:-1], z)
        return k, z - self.starts[k]

    def cast(self, origin: Array, rays: Array) -> Array:
        """Return the parameter along each ray where it meets the ground first, infinite where it does not.

        Args:
            origin: above the ground, (3,).
            rays: directions, no component of which is zero, (3, N).
        """
        found = np.full(rays.shape[1], np.inf)
        steepest = max(abs(float(self.slope(knot))) for knot in self.knots[1:-1]) if len(self.parts) > 1 else 0.0
        which = np.flatnonzero(rays[1] > -steepest * np.abs(rays[2]))  # others rise faster than any ground
        here = int(self._part(origin[2])[0])
        ahead = range(here + 1, len(self.parts))
        behind = range(here - 1, -1, -1)
        self._meet(here, origin, rays, which, found)
        which = which[found[which] == np.inf]
        forward = rays[2, which] > 0
        for side, parts in ((forward, ahead), (~forward, behind)):
            left = which[side]
            for k in parts:  # from the nearest on, so that the first that is met hides those after it
                if len(left):
                    self._meet(k, origin, rays, left, found)
                    left = left[found[left] == np.inf]
        return found

    def _meet(self, k: int, origin: Array, rays: Array, which: Array, found: Array) -> None:
        """Fill in where the rays ``which`` meet parabola k, if they do within its part of the street."""
        height, slope, bend = (float(number) for number in self.parts[k])
        down, along = rays[1, which], rays[2, which]
        start = float(origin[2]) - float(self.starts[k])
        # The height of the ray above the parabola is -(a t^2 + b t + c).
        c = height + start * (slope + start * bend) + float(origin[1])
        b = (slope + 2 * start * bend) * along + down
        low, high = self.knots[k] - origin[2], self.knots[k + 1] - origin[2]
        if bend == 0:
            roots = [-c / np.where(b == 0, 1e-30, b)]
        else:
            a = bend * along * along
            inside = b * b - 4 * c * a
            q = -0.5 * (b + np.copysign(np.sqrt(np.maximum(inside, 0)), b))
            q[inside < 0] = np.nan
            q[q == 0] = 1e-30
            roots = [q / a, c / q]
        for t in roots:
            z = t * along
            good = (t > NEAR) & (z >= low - 1e-9) & (z <= high + 1e-9)
            nearest = found[which]
            found[which] = np.where(good & (t < nearest), t, nearest)


def draw_ground(draws: Draws, start: float, end: float, steepest: float) -> Ground:
    """Draw ups and downs between two z; level before and after.

    Args:
        steepest: largest slope, in metres per metre; 0 for level ground.
    """
    if steepest == 0:
        return Ground(np.array([-FAR, FAR]), np.zeros(1), np.zeros((1, 3)))
    knots, slopes, sign = [start], [0.0], 2 * draws.choice(2) - 1
    while knots[-1] < end:
        knots.append(knots[-1] + draws.between(14, 40))
        slopes.append(sign * draws.between(0.2, 1) * steepest)
        sign = -sign if draws.chance(0.75) else sign
    knots.append(knots[-1] + 30)
    slopes.append(0.0)
    parts, height = [[0.0, 0.0, 0.0]], 0.0
    for k in range(len(knots) - 1):
        length = knots[k + 1] - knots[k]
        parts.append([height, slopes[k], (slopes[k + 1] - slopes[k]) / (2 * length)])
        height += length * (slopes[k] + slopes[k + 1]) / 2
    parts.append([height, 0.0, 0.0])
    return Ground(np.array([-FAR, *knots, FAR]), np.array([knots[0], *knots]), np.array(parts))
