"""The solids that things are made of: blocks that may taper, and quadrics cut by a block, as rows of numbers.

A row is in the axes of its thing: x to the right, up, and z forward, from a point on the ground below its middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hybrid_encoder.data.synthetic.street import Array

Numbers = Sequence[float]
PLAIN: Numbers = (9.0, 0.0, 9.0, 1.0, 0.0)  # no pattern, no noise
SUNK = 0.6  # metres that things reach into the ground, so that none hangs in the air on a slope


class Column:
    """Which numbers of a row are what."""

    MIDDLE = slice(0, 3)  # x, up, z
    HALF = slice(3, 6)  # half the width, height and length of the block
    TAPER = slice(6, 8)  # by how much half the width and the length shrink with every metre upwards
    WEIGHTS = slice(8, 11)  # of the quadric: weights . (x^2, up^2, z^2) <= 1; zero for a plain block
    FACE = slice(11, 14)  # colour of the faces
    MARK = slice(14, 17)  # colour of the pattern on them
    PATTERN = slice(17, 22)  # period and share painted along a face, the same upwards, amplitude of the noise
    CASTS = 22  # 1 if it casts a shadow
    NUMBER = 23  # of numbers


@dataclass
class Thing:
    """One thing of a street: a car, a house, a person.

    Args:
        kind: such as "car".
        colour: a word for its main colour; empty where none is said.
        rows: its solids.
        overhead: it may be above the camera's path.
    """

    kind: str
    colour: str = ""
    rows: list[list[float]] = field(default_factory=list)
    overhead: bool = False

    def block(
        self,
        middle: Numbers,
        size: Numbers,
        face: Numbers,
        mark: Numbers | None = None,
        pattern: Numbers = PLAIN,
        taper: Numbers = (0.0, 0.0),
        casts: bool = True,
    ) -> None:
        """Add a block.

        Args:
            middle: x and z of its middle, and the height of its lower side.
            size: width, height and length at its middle height.
            face, mark, pattern: as in ``Column``.
            taper: as in ``Column``.
            casts: whether it casts a shadow.
        """
        x, z, up = middle
        width, height, length = size
        self.rows.append(
            [x, up + height / 2, z, width / 2, height / 2, length / 2, *taper, 0, 0, 0,
             *face, *(mark or face), *pattern, float(casts)]
        )  # fmt: skip

    def round(
        self,
        middle: Numbers,
        half: Numbers,
        face: Numbers,
        axis: str = "",
        pattern: Numbers = PLAIN,
        casts: bool = True,
    ) -> None:
        """Add an ellipsoid, or a cylinder along ``axis``, which is "x", "up" or "z".

        Args:
            middle: x and z of its middle, and the height of its middle.
            half: half the width, height and length.
        """
        x, z, up = middle
        weights = [0.0 if axis == name else 1 / (h * h) for name, h in zip(("x", "up", "z"), half, strict=True)]
        self.rows.append([x, up, z, *half, 0, 0, *weights, *face, *face, *pattern, float(casts)])

    def half_size(self) -> tuple[float, float]:
        """Return how far it reaches to the side and forward from its middle, in metres."""
        rows = np.array(self.rows)
        return (
            float((np.abs(rows[:, 0]) + rows[:, 3]).max()),
            float((np.abs(rows[:, 2]) + rows[:, 5]).max()),
        )


def table(things: Sequence[Thing]) -> tuple[Array, Array]:
    """Return the rows of all things, (N, ``Column.NUMBER``), and the index of the thing of each, (N,)."""
    rows = np.array([row for thing in things for row in thing.rows], dtype=np.float64).reshape(-1, Column.NUMBER)
    owner = np.array([k for k, thing in enumerate(things) for _ in thing.rows], dtype=np.int64)
    return rows, owner
