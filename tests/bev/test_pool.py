"""Lift and pool: points by hand, sums against a loop in NumPy, and the sorted way against the plain one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hybrid_encoder import InputError
from hybrid_encoder.bev import BevGrid, frustum_points, plan_pool, scatter_pool, sorted_pool
from hybrid_encoder.bev.pool import cells_of
from hybrid_encoder.geometry import unproject

K = torch.tensor([[40.0, 0, 15.5], [0, 50.0, 7.5], [0, 0, 1]])
FORWARD = torch.tensor([[0.0, 0, 1, 1], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])  # 1 m ahead, 1.5 m up
LEFT = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0.5], [0, -1, 0, 1.5], [0, 0, 0, 1]])
GRID = BevGrid((-8.0, 8.0), (-6.0, 6.0), (-1.0, 4.0), 1.0)

Pool = Callable[[Tensor, Tensor], Tensor]


def cameras(batch: int = 1) -> tuple[Tensor, Tensor]:
    return K.expand(batch, 2, 3, 3), torch.stack([FORWARD, LEFT]).expand(batch, 2, 4, 4)


def case(seed: int, batch: int = 2, num_cameras: int = 2, channels: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Random depth, features and points; some points are outside of the grid."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, num_cameras, 7, 3, 4)
    depth = torch.rand(shape, generator=generator)
    features = torch.randn(batch, num_cameras, channels, 3, 4, generator=generator)
    return depth, features, torch.randn(*shape, 3, generator=generator) * torch.tensor([6.0, 5.0, 2.0])


def test_points_of_two_cameras_by_hand() -> None:
    depths = torch.tensor([2.0, 10.0])
    points = frustum_points(*cameras(), depths, (16, 32), (4, 8))
    assert points.shape == (1, 2, 2, 4, 8, 3)
    # Cell (1, 6) of stride 4 is at pixel (5.5, 25.5): 10 / 40 to the right of the axis, 2 / 50 above it.
    torch.testing.assert_close(points[0, 0, 1, 1, 6], torch.tensor([1 + 10.0, -2.5, 1.5 + 0.4]))
    torch.testing.assert_close(points[0, 1, 0, 1, 6], torch.tensor([0.5, 0.5 + 2.0, 1.5 + 0.08]))


def test_at_stride_one_points_are_those_of_unproject() -> None:
    skewed = K.clone()
    skewed[0, 1] = 3.0
    points = frustum_points(skewed[None, None], FORWARD[None, None], torch.tensor([7.0]), (16, 32), (16, 32))
    camera = unproject(torch.full((1, 1, 16, 32), 7.0), skewed[None])[0]
    expected = (FORWARD[:3, :3] @ camera + FORWARD[:3, 3:]).T
    torch.testing.assert_close(points.view(-1, 3), expected, atol=1e-5, rtol=1e-5)


def test_a_size_that_is_no_multiple_of_the_stride_covers_the_image_evenly() -> None:
    points = frustum_points(K[None, None], torch.eye(4)[None, None], torch.tensor([1.0]), (16, 30), (2, 4))
    u = points[0, 0, 0, 0, :, 0] * 40 + 15.5
    torch.testing.assert_close(u, torch.tensor([3.25, 10.75, 18.25, 25.75]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda K, T: (K * torch.nan, T), "K has numbers that are NaN"),
        (lambda K, T: (K, T * torch.inf), "vehicle_T_cam has numbers that are NaN or infinite"),
        (lambda K, T: (K * 0, T), "focal length"),
        (lambda K, T: (K[:, :1], T), r"\(B, N, 3, 3\) and \(B, N, 4, 4\) are needed"),
        (lambda K, T: (K, T[..., :3, :]), r"\(B, N, 4, 4\)"),
    ],
)
def test_cameras_that_cannot_be(change: Any, says: str) -> None:
    changed_K, changed_T = change(*cameras())
    with pytest.raises(InputError, match=says):
        frustum_points(changed_K, changed_T, torch.tensor([1.0]), (16, 32), (4, 8))


def test_the_cell_of_a_point_by_hand() -> None:
    inside = [[-8.0, -6.0, 0], [7.99, 5.99, 0], [0, 0, 0], [0, 0, -1.0]]
    beyond = [[8.0, 0, 0], [0, 6.0, 0], [0, 0, 4.0], [-8.01, 0, 0], [math.nan, 0, 0], [math.inf, 0, 0]]
    points = torch.tensor([*inside, *beyond])
    found = cells_of(points.view(1, 1, 1, 1, -1, 3), GRID).flatten().tolist()
    assert found == [0, 16 * 12 - 1, 8 * 12 + 6, 8 * 12 + 6, *[16 * 12] * 6]


def test_sums_are_those_of_a_loop() -> None:
    depth, features, points = case(0)
    expected = np.zeros((2, 5, 16, 12))
    places = points.double().numpy()
    num_inside = 0
    for b, n, d, i, j in np.ndindex(*depth.shape):
        x, y, z = places[b, n, d, i, j]
        ix, iy = math.floor(x + 8), math.floor(y + 6)
        if 0 <= ix < 16 and 0 <= iy < 12 and -1 <= z < 4:
            num_inside += 1
            expected[b, :, ix, iy] += float(depth[b, n, d, i, j]) * features[b, n, :, i, j].double().numpy()
    assert 0 < num_inside < depth.numel()
    for found in (scatter_pool(depth, features, points, GRID), sorted_pool(depth, features, plan_pool(points, GRID))):
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 3), num_cameras=st.integers(1, 6), channels=st.integers(1, 9))
def test_sorted_sums_are_the_plain_ones_and_so_are_gradients(
    seed: int, batch: int, num_cameras: int, channels: int
) -> None:
    depth, features, points = case(seed, batch, num_cameras, channels)
    plan = plan_pool(points, GRID)
    found = []
    pools: list[Pool] = [lambda d, f: scatter_pool(d, f, points, GRID), lambda d, f: sorted_pool(d, f, plan)]
    for pool in pools:
        given = depth.clone().requires_grad_(), features.clone().requires_grad_()
        pooled = pool(*given)
        weight = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1))
        found.append((pooled.detach(), *torch.autograd.grad((pooled * weight).sum(), given)))
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(sorted_pool(depth, features, plan), found[0][0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("trains", [(True, False), (False, True)])
def test_only_what_needs_a_gradient_gets_one(trains: tuple[bool, bool]) -> None:
    depth, features, points = case(0)
    depth.requires_grad_(trains[0])
    features.requires_grad_(trains[1])
    sorted_pool(depth, features, plan_pool(points, GRID)).sum().backward()
    assert (depth.grad is not None, features.grad is not None) == trains


def test_a_grid_without_points_is_empty() -> None:
    depth, features, points = case(0)
    features.requires_grad_()
    plan = plan_pool(points + 100, GRID)
    assert len(plan.point) == 0
    pooled = sorted_pool(depth, features, plan)
    assert not pooled.any() and not scatter_pool(depth, features, points + 100, GRID).any()
    pooled.sum().backward()
    assert features.grad is not None and not features.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_added_up_in_full(dtype: torch.dtype) -> None:
    # 4096 ones in one cell: bfloat16 would stop at 256, float16 at 2048.
    depth, features = torch.ones(1, 1, 4096, 1, 1, dtype=dtype), torch.ones(1, 1, 1, 1, 1, dtype=dtype)
    points = torch.zeros(1, 1, 4096, 1, 1, 3)
    for pooled in (
        scatter_pool(depth, features, points, GRID),
        sorted_pool(depth, features, plan_pool(points, GRID)),
        sorted_pool(depth.requires_grad_(), features, plan_pool(points, GRID)).detach(),
    ):
        assert pooled.dtype == dtype and pooled.max() == 4096


def test_a_plan_of_one_vehicle_serves_a_batch() -> None:
    depths = torch.linspace(1, 9, 7)
    one = plan_pool(frustum_points(*cameras(), depths, (12, 16), (3, 4)), GRID)
    assert one.repeated(1) is one
    depth, features, _ = case(3, batch=3)
    whole = plan_pool(frustum_points(*cameras(3), depths, (12, 16), (3, 4)), GRID)
    torch.testing.assert_close(
        sorted_pool(depth, features, one.repeated(3)), sorted_pool(depth, features, whole), atol=1e-6, rtol=0
    )


def test_shapes_that_do_not_fit_are_refused() -> None:
    depth, features, points = case(0)
    with pytest.raises(InputError, match=r"\(B, N, C, h, w\) are needed"):
        sorted_pool(depth, features[:, :1], plan_pool(points, GRID))
    with pytest.raises(InputError, match="is needed for this depth"):
        scatter_pool(depth, features, points[..., :2], GRID)


def test_a_compiled_plan_pools_the_same_without_a_break() -> None:
    depth, features, points = case(0)
    plan = plan_pool(points, GRID)
    torch._dynamo.reset()
    compiled = torch.compile(lambda d, f: sorted_pool(d, f, plan), backend="aot_eager", fullgraph=True)
    expected = sorted_pool(depth, features, plan)
    torch.testing.assert_close(compiled(depth, features), expected)
    given = depth.clone().requires_grad_(), features.clone().requires_grad_()
    found = torch.autograd.grad(compiled(*given).square().sum(), given)
    for a, b in zip(found, torch.autograd.grad(sorted_pool(*given, plan).square().sum(), given), strict=True):
        torch.testing.assert_close(a, b)


def test_a_compiled_call_makes_its_plan_outside_of_the_graph() -> None:
    depth, features, points = case(0)
    torch._dynamo.reset()
    compiled = torch.compile(lambda d, f, p: sorted_pool(d, f, plan_pool(p, GRID)), backend="aot_eager")
    given = depth.requires_grad_(), features.requires_grad_()
    results = [pool.square().sum() for pool in (compiled(*given, points), scatter_pool(*given, points, GRID))]
    torch.testing.assert_close(results[0], results[1])
    for a, b in zip(*(torch.autograd.grad(result, given) for result in results), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5)
