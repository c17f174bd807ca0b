"""Splat: what lies in the same cell of the grid is added up.

:func:`scatter_pool` says what is meant, one feature vector for every point. :func:`sorted_pool` gives the same without
making these: with the points in the order of their cells (:class:`PoolPlan`), a cell's sum reads the features and the
depth distribution where they are, in one pass.

Sources: Lift, Splat, Shoot, ECCV 2020; for the indices of depth and feature in the place of their product, BEVPoolv2,
Huang and Huang, 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hybrid_encoder.bev.grid import BevGrid
from hybrid_encoder.compiling import is_exporting
from hybrid_encoder.errors import InputError

SUM = 0  # the mode's number in torch's operators


@dataclass(frozen=True)
class PoolPlan:
    """Points in the order of their cells, for cameras that stay where they are on the vehicle.

    Attributes:
        point: which entry of the depth distributions (B, N, D, h, w) a point is, int64, (P,).
        feature: which row of the feature maps (B, N, h, w) it reads, int64, (P,).
        cell: which cell (B, X, Y) it lies in, rising, int64, (P,).
        first: where the points of each cell begin, and how many points there are, int64, (B X Y + 1,).
        shape: (B, N, D, h, w).
        cells: (X, Y).
    """

    point: Tensor
    feature: Tensor
    cell: Tensor
    first: Tensor
    shape: tuple[int, int, int, int, int]
    cells: tuple[int, int]

    def to(self, device: torch.device | str) -> PoolPlan:
        """Return the plan on a device."""
        point, feature, cell, first = (x.to(device) for x in (self.point, self.feature, self.cell, self.first))
        return PoolPlan(point, feature, cell, first, self.shape, self.cells)

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
            (self.cell + item * (len(self.first) - 1)).flatten(),
            torch.cat([first.flatten(), self.first[-1:] + (batch - 1) * len(self.point)]),
            (batch, cameras, depths, h, w),
            self.cells,
        )

    @torch.no_grad()
    def backwards(self) -> Backwards:
        """Return the same points in the order of the features that they read; made once, when it is first needed."""
        made: Backwards | None = self.__dict__.get("_backwards")
        if made is not None:
            return made
        batch, cameras, depths, h, w = self.shape
        num_cells = len(self.first) - 1
        rows, count = batch * cameras, batch * cameras * h * w * depths
        # Which entry of the distributions, and which cell it goes to; the depths of a feature one after the other.
        by_point = torch.full((count,), num_cells, device=self.point.device).index_copy_(0, self.point, self.cell)
        by_feature = by_point.view(rows, depths, h * w).transpose(1, 2).reshape(-1, depths)
        entry = torch.arange(count, device=self.point.device).view(rows, depths, h * w).transpose(1, 2)
        used = by_feature < num_cells
        first = torch.cat([by_point.new_zeros(1), used.sum(1).cumsum(0)])
        made = Backwards(entry.reshape(-1, depths)[used], by_feature[used], first)
        if not torch.compiler.is_compiling():
            self.__dict__["_backwards"] = made
        return made


class Backwards(NamedTuple):
    """The points of a plan as the backward pass reads them.

    Attributes:
        point: which entry of the depth distributions a point is, in the order of the features, int64, (P,).
        cell: which cell it goes to, int64, (P,).
        first: where the points of each row of the feature maps begin, and how many there are, int64, (B N h w + 1,).
    """

    point: Tensor
    cell: Tensor
    first: Tensor


def cells_of(points: Tensor, grid: BevGrid) -> Tensor:
    """Return the cell that each point lies in, numbered along (B, X, Y); one past the last where it is outside.

    Args:
        points: in metres in the axes of the vehicle, (B, N, D, h, w, 3).
        grid: the cells.

    Returns:
        int64, (B, N, D, h, w). A border between cells belongs to the one with larger coordinates; NaN is outside.
    """
    (X, Y), batch = grid.shape, points.shape[0]
    low = points.new_tensor([grid.x_range[0], grid.y_range[0], grid.z_range[0]])
    place = (points - low) / points.new_tensor([grid.cell, grid.cell, grid.z_range[1] - grid.z_range[0]])
    inside = ((place >= 0) & (place < points.new_tensor([X, Y, 1]))).all(-1)
    cell = torch.where(inside, place[..., 0].floor() * Y + place[..., 1].floor(), 0.0).long()
    first = torch.arange(batch, device=points.device).view(-1, 1, 1, 1, 1) * (X * Y)
    return torch.where(inside, first + cell, batch * X * Y)


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


@torch.compiler.disable  # type: ignore[untyped-decorator]  # how many points lie on the grid is not known before
@torch.no_grad()
def plan_pool(points: Tensor, grid: BevGrid) -> PoolPlan:
    """Sort points by their cells. ``torch.compile`` leaves this to run as it is; a plan made before is a constant.

    Args:
        points: of :func:`hybrid_encoder.bev.frustum_points`, (B, N, D, h, w, 3).
        grid: the cells; points outside of it are left out.
    """
    batch, cameras, depths, h, w = points.shape[:5]
    (X, Y), total = grid.shape, points.shape[0] * grid.shape[0] * grid.shape[1]
    cell = cells_of(points, grid).flatten()
    point = (cell < total).nonzero()[:, 0]
    cell = cell[point]
    # Half as much to sort, where the cells' numbers are small enough.
    order = (cell.int() if total < 2**31 else cell).argsort(stable=True)
    point, cell = point[order], cell[order]
    first = torch.cat([cell.new_zeros(1), torch.bincount(cell, minlength=total).cumsum(0)])
    feature = point // (depths * h * w) * (h * w) + point % (h * w)
    return PoolPlan(point, feature, cell, first, (batch, cameras, depths, h, w), (X, Y))


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
    entries = depth.float().flatten()
    pooled: Tensor
    if is_exporting():  # other runtimes have no sums of segments: a loop over all cells would stand in for them
        points = rows.index_select(0, plan.feature) * entries.index_select(0, plan.point)[:, None]
        pooled = rows.new_zeros(len(plan.first) - 1, channels).index_add(0, plan.cell, points)
    elif torch.is_grad_enabled() and (rows.requires_grad or entries.requires_grad):
        given = (entries, rows, plan.point, plan.feature, plan.cell, plan.first, *plan.backwards())
        pooled = _SortedSums.apply(*given)  # type: ignore[no-untyped-call]
    else:
        pooled = _sums(rows, plan.feature, plan.first, entries.index_select(0, plan.point))
    return pooled.view(plan.shape[0], *plan.cells, channels).permute(0, 3, 1, 2).to(features.dtype)


def _sums(rows: Tensor, index: Tensor, first: Tensor, weights: Tensor) -> Tensor:
    """Return weighted sums of rows: sum i is over the entries from ``first[i]`` on."""
    return F.embedding_bag(index, rows, first, mode="sum", per_sample_weights=weights, include_last_offset=True)


class _SortedSums(torch.autograd.Function):
    """The sums with a backward pass that reads as the forward one does; the operator's own is several times slower."""

    @staticmethod
    def forward(
        ctx: Any,
        entries: Tensor,
        rows: Tensor,
        point: Tensor,
        feature: Tensor,
        cell: Tensor,
        first: Tensor,
        *backwards: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(entries, rows, point, feature, cell, first, *backwards)
        return _sums(rows, feature, first, entries.index_select(0, point))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        entries, rows, point, feature, cell, first, back_point, back_cell, back_first = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_entries = of_rows = None
        if ctx.needs_input_grad[0]:
            # A product of two rows for each point, without the rows of all points beside each other in memory.
            of_points = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                gradient, rows, feature, first, cell, SUM
            )
            of_entries = torch.zeros_like(entries).index_copy_(0, point, of_points)
        if ctx.needs_input_grad[1]:
            of_rows = _sums(gradient, back_cell, back_first, entries.index_select(0, back_point))
        return of_entries, of_rows, *[None] * 7


def _check(depth: Tensor, features: Tensor, shape: tuple[int, ...]) -> None:
    batch, cameras, _, h, w = shape
    wanted = (batch, cameras, features.shape[2] if features.ndim == 5 else 0, h, w)
    if tuple(depth.shape) != shape or tuple(features.shape) != wanted:
        raise InputError(
            f"depth is {tuple(depth.shape)} and features {tuple(features.shape)}; (B, N, D, h, w) = {shape} and "
            "(B, N, C, h, w) are needed."
        )
