"""The ground around a vehicle as a grid of cells, in metres.

Vehicle axes are those of nuScenes and ROS: x forward, y left, z up; the origin is on the ground, below the middle of
the vehicle. A map of the grid is (X, Y): its first axis goes forward, its second one left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hybrid_encoder.errors import ConfigError


@dataclass(frozen=True)
class BevGrid:
    """A grid of square cells on the ground.

    Args:
        x_range: from and to, in metres forward of the origin.
        y_range: from and to, in metres to the left of it.
        z_range: heights whose points count, in metres above the ground.
        cell: side of a cell, in metres; divides both ranges.

    Raises:
        ConfigError: an empty range, or one that is not a whole number of cells.
    """

    x_range: tuple[float, float] = (-24.0, 24.0)
    y_range: tuple[float, float] = (-24.0, 24.0)
    z_range: tuple[float, float] = (-2.0, 6.0)
    cell: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.cell < math.inf:
            raise ConfigError(f"cell is {self.cell!r}; it must be a positive number of metres.")
        for name in ("x_range", "y_range", "z_range"):
            low, high = getattr(self, name)
            if not -math.inf < low < high < math.inf:
                raise ConfigError(f"{name} is {(low, high)}; it must go from a lower to a higher number of metres.")
            cells = (high - low) / self.cell
            if name != "z_range" and abs(cells - round(cells)) > 1e-6:
                raise ConfigError(f"{name} is {(low, high)}, {cells:g} cells of {self.cell} m; give whole cells.")

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells forward and to the left, (X, Y)."""
        return (
            round((self.x_range[1] - self.x_range[0]) / self.cell),
            round((self.y_range[1] - self.y_range[0]) / self.cell),
        )

    def centres(self) -> Tensor:
        """Return x and y of the middle of every cell, in metres, float32, (X, Y, 2)."""
        x, y = (
            low + (torch.arange(count, dtype=torch.float64) + 0.5) * self.cell
            for low, count in zip((self.x_range[0], self.y_range[0]), self.shape, strict=True)
        )
        return torch.stack(torch.meshgrid(x, y, indexing="ij"), dim=-1).float()
