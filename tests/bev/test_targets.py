"""Boxes as maps, the head's shape, and the losses: by hand and against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hybrid_encoder import InputError
from hybrid_encoder.bev import BevGrid, BevHead, bev_loss, centre_focal, centre_map, vehicle_mask, weighted_bce

GRID = BevGrid((-4.0, 6.0), (-3.0, 3.0), (-1.0, 3.0), 1.0)
# x, y, z, length, width, height, yaw
AHEAD = [3.0, 0.0, 0.8, 4.0, 2.0, 1.6, 0.0]
TURNED = [-1.5, 0.5, 0.8, 4.0, 1.2, 1.6, math.pi / 2]


def test_an_axis_aligned_box_covers_its_cells() -> None:
    mask = vehicle_mask(torch.tensor([AHEAD]), GRID)
    expected = torch.zeros(10, 6)
    expected[5:9, 2:4] = 1  # x from 1 to 5, y from -1 to 1
    torch.testing.assert_close(mask, expected)


def test_a_turned_box_lies_across() -> None:
    mask = vehicle_mask(torch.tensor([TURNED]), GRID)
    expected = torch.zeros(10, 6)
    expected[2, 2:5] = expected[2, 1] = 1  # x from -2.1 to -0.9: the middle -1.5; y from -1.5 to 2.5
    expected[2, 5] = 1  # its middle, 2.5, is on the border
    torch.testing.assert_close(mask, expected)


def test_a_box_at_any_angle_as_numpy_says() -> None:
    boxes = torch.tensor([[1.2, -0.4, 0.8, 5.0, 2.1, 1.6, 0.7], [-2.0, 0.5, 0.8, 3.0, 1.5, 1.6, -2.1]])
    grid = BevGrid((-4.0, 6.0), (-3.0, 3.0), (-1.0, 3.0), 0.25)
    expected = np.zeros(grid.shape)
    for i, j in np.ndindex(*grid.shape):
        x, y = -4 + (i + 0.5) * 0.25, -3 + (j + 0.5) * 0.25
        for cx, cy, _, length, width, _, yaw in boxes.tolist():
            turned = (complex(x, y) - complex(cx, cy)) * complex(math.cos(yaw), -math.sin(yaw))
            expected[i, j] = max(expected[i, j], abs(turned.real) <= length / 2 and abs(turned.imag) <= width / 2)
    np.testing.assert_array_equal(vehicle_mask(boxes, grid).numpy(), expected)
    assert abs(expected.sum() * 0.25**2 - (5 * 2.1 + 3 * 1.5)) < 1  # square metres


def test_centres_are_peaks_of_one() -> None:
    far = [40.0, 0.0, 0.8, 4.0, 2.0, 1.6, 0.0]
    found = centre_map(torch.tensor([AHEAD, TURNED, far]), GRID, sigma=1.0)
    assert found.eq(1).nonzero().tolist() == [[2, 3], [7, 3]]  # the cells from -2 to -1 and from 3 to 4; 0 to 1
    assert found[3, 3] == pytest.approx(math.exp(-0.5)) and found[2, 5] == pytest.approx(math.exp(-2))
    assert not centre_map(torch.tensor([far]), GRID).any()


def test_no_boxes_and_wrong_ones() -> None:
    assert not vehicle_mask(torch.zeros(0, 7), GRID).any() and not centre_map(torch.zeros(0, 7), GRID).any()
    for function in (vehicle_mask, centre_map):
        with pytest.raises(InputError, match=r"\(M, 7\) is needed"):
            function(torch.zeros(3, 6), GRID)


def test_the_head_gives_a_map_for_each_class_and_sees_few_vehicles_at_first() -> None:
    torch.manual_seed(0)
    maps = BevHead(12, 16)(torch.randn(2, 12, 9, 14))
    assert {name: x.shape for name, x in maps.items()} == dict.fromkeys(("vehicle", "road", "centre"), (2, 1, 9, 14))
    assert maps["vehicle"].sigmoid().mean() < 0.2 and 0.4 < maps["road"].sigmoid().mean() < 0.6


def test_cross_entropy_as_numpy_says() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(2, 1, 3, 4, generator=generator), torch.rand(2, 1, 3, 4, generator=generator)
    mask = torch.rand(2, 1, 3, 4, generator=generator) > 0.4
    p, t = 1 / (1 + np.exp(-logits.double().numpy())), target.double().numpy()
    each = -(3 * t * np.log(p) + (1 - t) * np.log(1 - p))
    assert float(weighted_bce(logits, target, 3.0)) == pytest.approx(each.mean(), rel=1e-5)
    assert float(weighted_bce(logits, target, 3.0, mask)) == pytest.approx(each[mask.numpy()].mean(), rel=1e-5)


def test_the_focal_loss_as_numpy_says() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 10, 6, generator=generator)
    target = centre_map(torch.tensor([AHEAD, TURNED]), GRID)[None, None]
    p, t = 1 / (1 + np.exp(-logits.double().numpy())), target.double().numpy()
    each = np.where(t == 1, -((1 - p) ** 2) * np.log(p), -((1 - t) ** 4) * p**2 * np.log(1 - p))
    assert float(centre_focal(logits, target)) == pytest.approx(each.sum() / 2, rel=1e-5)
    assert float(centre_focal(logits, target * 0.5)) == pytest.approx(
        (-((1 - t / 2) ** 4) * p**2 * np.log(1 - p)).sum(),
        rel=1e-5,  # without a centre the sum is divided by 1
    )


@pytest.mark.parametrize("mask", [None, torch.zeros(1, 1, 10, 6)])
def test_the_sum_has_a_gradient_even_where_nothing_counts(mask: torch.Tensor | None) -> None:
    maps = {name: torch.randn(1, 1, 10, 6, requires_grad=True) for name in ("vehicle", "road", "centre")}
    boxes = torch.tensor([AHEAD])
    targets = {
        "vehicle": vehicle_mask(boxes, GRID)[None, None],
        "road": torch.ones(1, 1, 10, 6),
        "centre": centre_map(boxes, GRID)[None, None],
    }
    losses = bev_loss(maps, targets, mask, centre_weight=0.5)
    losses["loss"].backward()
    assert all(x.grad is not None and bool(x.grad.any()) == (mask is None) for x in maps.values())
    total = losses["vehicle"] + losses["road"] + 0.5 * losses["centre"]
    torch.testing.assert_close(losses["loss"], total)
    assert torch.equal(weighted_bce(maps["vehicle"], targets["vehicle"], 3.0, mask), losses["vehicle"])


def test_targets_that_do_not_fit() -> None:
    maps = {"vehicle": torch.zeros(1, 1, 4, 4)}
    with pytest.raises(InputError, match="'vehicle' is"):
        bev_loss(maps, {"vehicle": torch.zeros(1, 4, 4)})
    with pytest.raises(InputError, match=r"'lane' is .* no logits"):
        bev_loss(maps, {"lane": torch.zeros(1, 1, 4, 4)})
    with pytest.raises(InputError, match="no target"):
        bev_loss(maps, {})
