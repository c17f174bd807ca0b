"""Splat: what lies in the same cell of the grid is added up.

:func:`scatter_pool` says what is meant, one feature vector for every point. :func:`sorted_pool` gives the same without
making these: with the points in the order of their cells (:class:`PoolPlan`), a cell's sum reads the features and the
depth distribution where they are, in one pass.

Sources: Lift, Splat, Shoot, ECCV 2020; for the indices of depth and feature in the place of their product, BEVPoolv2,
Huang and Huang, 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder.bev.grid import BevGrid
from hybrid_encoder.errors import InputError


@dataclass(frozen=True)
class PoolPlan:
    """Points in the order of their cells, for cameras that stay where they are on the vehicle.

    Attributes:
        point: which entry of the depth distributions (B, N, D, h, w) a point is, int64, (P,).
        feature: which row of the feature maps (B, N, h, w) it reads, int64, (P,).
        first: where the points of each cell (B, X, Y) begin, and how many points there are, int64, (B X Y + 1,).
        shape: (B, N, D, h, w).
        cells: (X, Y).
    """

    point: Tensor
    feature: Tensor
    first: Tensor
    shape: tuple[int, int, int, int, int]
    cells: tuple[int, int]

    def to(self, device: torch.device | str) -> PoolPlan:
        """Return the plan on a device."""
        return PoolPlan(self.point.to(device), self.feature.to(device), self.first.to(device), self.shape, self.cells)

    def repeated(self, batch: int) -> PoolPlan:
        """Return the plan of a batch that has the cameras of this plan, one vehicle's, in each of its items."""
        if batch == 1:
            return self
        _, cameras, depths, h, w = self.shape
        item = torch.arange(batch, device=self.point.device)[:, None]
        rows = cameras * h * w
        first = self.first[:-1] + item * len(self.point)
        return PoolPlan(
            (self.point + item * (depths * rows)).flatten(),
            (self.feature + item * rows).flatten(),
            torch.cat([first.flatten(), self.first[-1:] + (batch - 1) * len(self.point)]),
            (batch, cameras, depths, h, w),
            self.cells,
        )


def cells_of(points: Tensor, grid: BevGrid) -> Tensor:
    """Return the cell that each point lies in, numbered along (B, X, Y); one past the last where it is outside.

    Args:
        points: in metres in the axes of the vehicle, (B, N, D, h, w, 3).
        grid: the cells.

    Returns:
        int64, (B, N, D, h, w). A border between cells belongs to the one with larger coordinates; NaN is outside.
    """
    (X, Y), batch = grid.shape, points.shape[0]
    low = points.new_tensor([grid.x_range[0], grid.y_range[0]])
    index = ((points[..., :2] - low) / grid.cell).floor()
    x, y, z = index[..., 0], index[..., 1], points[..., 2]
    inside = (x >= 0) & (x < X) & (y >= 0) & (y < Y) & (z >= grid.z_range[0]) & (z < grid.z_range[1])
    first = torch.arange(batch, device=points.device).view(-1, 1, 1, 1, 1) * (X * Y)
    return torch.where(inside, first + (torch.where(inside, x * Y + y, 0.0)).long(), batch * X * Y)


def scatter_pool(depth: Tensor, features: Tensor, points: Tensor, grid: BevGrid) -> Tensor:
    """Add up features times depth by the cells of their points, plainly: the reference.

    Args:
        depth: distributions, (B, N, D, h, w).
        features: (B, N, C, h, w).
        points: of :func:`hybrid_encoder.bev.frustum_points`, (B, N, D, h, w, 3).
        grid: the cells; points outside of it are left out.

    Returns:
        (B, C, X, Y), added up in float32, of the features' type.

    Raises:
        InputError: shapes that do not fit.
    """
    if points.shape != (*depth.shape, 3):
        raise InputError(f"points are {tuple(points.shape)}; {(*depth.shape, 3)} is needed for this depth.")
    _check(depth, features, tuple(depth.shape))
    (X, Y), batch, channels = grid.shape, depth.shape[0], features.shape[2]
    lifted = depth.float()[..., None] * features.float().permute(0, 1, 3, 4, 2)[:, :, None]  # (B, N, D, h, w, C)
    cell = cells_of(points, grid).flatten()
    inside = cell < batch * X * Y
    pooled = lifted.new_zeros(batch * X * Y, channels)
    pooled = pooled.index_add(0, cell[inside], lifted.flatten(0, 4)[inside])
    return pooled.view(batch, X, Y, channels).permute(0, 3, 1, 2).to(features.dtype)


@torch.no_grad()
def plan_pool(points: Tensor, grid: BevGrid) -> PoolPlan:
    """Sort points by their cells.

    Args:
        points: of :func:`hybrid_encoder.bev.frustum_points`, (B, N, D, h, w, 3).
        grid: the cells; points outside of it are left out.
    """
    batch, cameras, depths, h, w = points.shape[:5]
    (X, Y), total = grid.shape, points.shape[0] * grid.shape[0] * grid.shape[1]
    cell = cells_of(points, grid).flatten()
    if total < 2**31:
        cell = cell.int()  # half as much to sort
    cell, point = cell.sort(stable=True)
    first = torch.searchsorted(cell, torch.arange(total + 1, device=cell.device, dtype=cell.dtype))
    if not torch.compiler.is_compiling():  # their number is not known before
        point = point[: int(first[-1])]
    feature = point // (depths * h * w) * (h * w) + point % (h * w)
    return PoolPlan(point, feature, first, (batch, cameras, depths, h, w), (X, Y))


def sorted_pool(depth: Tensor, features: Tensor, plan: PoolPlan) -> Tensor:
    """Add up features times depth by the cells of a plan; what :func:`scatter_pool` returns, in a fraction of its time.

    Args:
        depth: distributions, (B, N, D, h, w).
        features: (B, N, C, h, w).
        plan: of :func:`plan_pool`.

    Returns:
        (B, C, X, Y), added up in float32, of the features' type. Gradients reach both.

    Raises:
        InputError: shapes that do not fit the plan.
    """
    _check(depth, features, plan.shape)
    channels = features.shape[2]
    rows = features.float().permute(0, 1, 3, 4, 2).reshape(-1, channels)
    weights = depth.float().reshape(-1)[plan.point]
    pooled: Tensor = F.embedding_bag(
        plan.feature, rows, plan.first, mode="sum", per_sample_weights=weights, include_last_offset=True
    )
    return pooled.view(plan.shape[0], *plan.cells, channels).permute(0, 3, 1, 2).to(features.dtype)


def _check(depth: Tensor, features: Tensor, shape: tuple[int, ...]) -> None:
    batch, cameras, _, h, w = shape
    wanted = (batch, cameras, features.shape[2] if features.ndim == 5 else 0, h, w)
    if tuple(depth.shape) != shape or tuple(features.shape) != wanted:
        raise InputError(
            f"depth is {tuple(depth.shape)} and features {tuple(features.shape)}; (B, N, D, h, w) = {shape} and "
            "(B, N, C, h, w) are needed."
        )
