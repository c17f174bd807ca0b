"""Pooling on the grid: sorted sums against a plain scatter, with the geometry computed in the call and prepared.

Sizes are those of BEVDet: six cameras, images of 256 x 704 at stride 16, 59 depths from 1 to 59 m, cells of 0.8 m up to
51.2 m on every side, 80 channels; and of Lift-Splat-Shoot's grid, cells of 0.5 m up to 50 m, 64 channels. The cameras
stand as those of nuScenes do.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import median

import torch
from rich.table import Table
from torch import Tensor

from hybrid_encoder.bev.depth_bins import DepthBins
from hybrid_encoder.bev.grid import BevGrid
from hybrid_encoder.bev.lift import frustum_points
from hybrid_encoder.bev.pool import plan_pool, scatter_pool, sorted_pool

IMAGE, CELLS, DEPTHS = (256, 704), (16, 44), DepthBins(1.0, 59.0, 59)
GRIDS = {
    "BEVDet": (BevGrid((-51.2, 51.2), (-51.2, 51.2), (-10.0, 10.0), 0.8), 80),
    "Lift-Splat-Shoot": (BevGrid((-50.0, 50.0), (-50.0, 50.0), (-10.0, 10.0), 0.5), 64),
}
YAWS = (0, 55, -55, 180, 110, -110)  # degrees: front, front left, front right, back, back left, back right

Pool = Callable[[Tensor, Tensor], Tensor]


def rig() -> tuple[Tensor, Tensor]:
    """Return intrinsics (1, 6, 3, 3) and ``vehicle_T_cam`` (1, 6, 4, 4) of six cameras around a vehicle."""
    K = torch.tensor([[560.0, 0, 351.5], [0, 560, 127.5], [0, 0, 1]]).repeat(1, 6, 1, 1)
    K[0, 3, 0, 0] = K[0, 3, 1, 1] = 360  # the one at the back sees wider
    poses = torch.zeros(1, 6, 4, 4)
    for camera, degrees in enumerate(YAWS):
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        # Columns: the camera's right, down and forward, and where it is.
        poses[0, camera] = torch.tensor([[s, 0, c, c], [-c, 0, s, 0.5 * s], [0, -1, 0, 1.5], [0, 0, 0, 1]])
    return K, poses


def inputs(channels: int) -> tuple[Tensor, Tensor]:
    """Make random depth distributions (1, 6, D, h, w) and features (1, 6, C, h, w)."""
    generator = torch.Generator().manual_seed(0)
    depth = torch.randn(1, 6, DEPTHS.count, *CELLS, generator=generator).softmax(2)
    return depth, torch.randn(1, 6, channels, *CELLS, generator=generator)


def ways(grid: BevGrid) -> dict[str, tuple[Pool, Pool]]:
    """Return the plain and the sorted way, with the geometry in the call and with what of it can be prepared."""
    K, poses = rig()
    centres = DEPTHS.centres()

    def points() -> Tensor:
        return frustum_points(K, poses, centres, IMAGE, CELLS)

    prepared, plan = points(), plan_pool(points(), grid)
    return {
        "in the call": (
            lambda depth, features: scatter_pool(depth, features, points(), grid),
            lambda depth, features: sorted_pool(depth, features, plan_pool(points(), grid)),
        ),
        "prepared": (
            lambda depth, features: scatter_pool(depth, features, prepared, grid),
            lambda depth, features: sorted_pool(depth, features, plan),
        ),
    }


def seconds(pools: tuple[Pool, Pool], channels: int, rounds: int, trains: bool) -> tuple[list[float], list[float]]:
    """Time two ways in turn, after a check that both give the same, gradients included."""
    depth, features = (x.requires_grad_(trains) for x in inputs(channels))

    def run(pool: Pool) -> list[Tensor]:
        with torch.set_grad_enabled(trains):
            pooled = pool(depth, features)
            if not trains:
                return [pooled]
            return [pooled.detach(), *torch.autograd.grad(pooled.square().sum(), (depth, features))]

    for a, b in zip(run(pools[0]), run(pools[1]), strict=True):  # and warms both up
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(a.abs().max()))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for own, pool in zip(times, pools, strict=True):
            start = time.perf_counter()
            run(pool)
            own.append(time.perf_counter() - start)
    return times


def table(rounds: int) -> Table:
    """Make a table of times (median, least to greatest) and of their ratios."""
    result = Table(
        "grid", "geometry", "pass", "plain scatter, ms", "sorted sums, ms", "ratio",
        title=f"Pooling: 6 cameras of 16 x 44 cells, 59 depths, CPU, {torch.get_num_threads()} threads",
    )  # fmt: skip
    for name, (grid, channels) in GRIDS.items():
        for geometry, pools in ways(grid).items():
            for trains in (False, True):
                plain, ours = seconds(pools, channels, rounds, trains)
                ratios = [a / b for a, b in zip(plain, ours, strict=True)]
                what = "forward and backward" if trains else "forward"
                result.add_row(name, geometry, what, _spread(plain, 1e3), _spread(ours, 1e3), _spread(ratios))
    return result


def _spread(values: list[float], factor: float = 1.0) -> str:
    low, middle, high = (factor * f(values) for f in (min, median, max))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"
