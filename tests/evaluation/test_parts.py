"""The metrics by distance and by region, against numbers worked out by hand and against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.metrics import DepthMetrics, depth_metrics
from hybrid_encoder.evaluation.parts import distance_ranges, label_regions, mean_parts, parts_of
from hybrid_encoder.evaluation.results import ImageResult


def test_by_hand() -> None:
    target = torch.tensor([[5.0, 10.0, 0.0], [15.0, 50.0, 5.0]])
    pred = torch.tensor([[6.0, 8.0, 9.0], [15.0, 25.0, 4.0]])
    valid = target > 0
    parts = parts_of(pred, target, valid)
    assert list(parts) == ["0-10 m", "10-20 m", "40-80 m"]  # nothing is 20 to 40 m away
    near, middle, far = parts.values()
    assert near.num_valid == 2 and near.abs_rel == pytest.approx((1 / 5 + 1 / 5) / 2) and near.rmse == 1.0
    assert near.sq_rel == pytest.approx(1 / 5) and near.a1 == pytest.approx(0.5)  # 6 / 5 is below 1.25, 5 / 4 is not
    assert middle.num_valid == 2 and middle.abs_rel == pytest.approx((2 / 10 + 0) / 2)  # 10 m begins a range
    assert far.num_valid == 1 and far.abs_rel == 0.5 and far.rmse_log == pytest.approx(math.log(2)) and far.a3 == 0


def test_regions() -> None:
    target = torch.tensor([[[[5.0, 10.0], [15.0, 50.0]]]])
    pred = target * torch.tensor([[1.0, 2.0], [1.0, 1.5]])
    masks = label_regions(np.array([[7, 26], [7, 28]]), {"road": [7], "vehicles": (26, 28), "sky": [23]})
    parts = parts_of(pred, target, target > 0, (), masks)
    assert list(parts) == ["road", "vehicles"] and parts["road"].abs_rel == 0
    assert parts["vehicles"].abs_rel == pytest.approx(0.75)
    road = {"road": torch.tensor([[True, False], [False, False]])}
    assert parts_of(pred, target, target < 0, (), road) == {}
    assert parts_of(pred, target, target > 9, (0, 20), road).keys() == {"0-20 m"}  # the road's pixel is not valid


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_parts_make_the_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    g = rng.uniform(0.5, 79, (7, 11)).astype(np.float32)
    d = (g * rng.lognormal(0, 0.3, g.shape)).clip(1e-3, 80).astype(np.float32)
    valid = rng.random(g.shape) < 0.7
    pred, target = torch.from_numpy(d), torch.from_numpy(g)
    whole = depth_metrics(pred, target, torch.from_numpy(valid))
    parts = parts_of(pred, target, torch.from_numpy(valid))
    for name, metrics in parts.items():
        low, high = (float(number) for number in name[:-2].split("-"))
        keep = valid & (g >= low) & (g < high)
        p, t = d[keep].astype(np.float64), g[keep].astype(np.float64)
        assert metrics.abs_rel == pytest.approx(np.mean(np.abs(p - t) / t))
        assert metrics.rmse_log == pytest.approx(np.sqrt(np.mean(np.square(np.log(p / t)))))
        assert metrics.a1 == pytest.approx(np.mean(np.maximum(p / t, t / p) < 1.25))
    assert sum(part.num_valid for part in parts.values()) == whole.num_valid
    total = sum(part.abs_rel * part.num_valid for part in parts.values())
    assert total / whole.num_valid == pytest.approx(whole.abs_rel)
    squares = sum(part.rmse**2 * part.num_valid for part in parts.values())
    assert math.sqrt(squares / whole.num_valid) == pytest.approx(whole.rmse)


def metrics(abs_rel: float, num_valid: int) -> DepthMetrics:
    return DepthMetrics(abs_rel, 0, 0, 0, 1, 1, 1, num_valid)


def test_mean_over_the_images_that_show_a_part() -> None:
    images = [
        ImageResult("a", metrics(0, 5), parts={"10-20 m": metrics(0.1, 1), "road": metrics(0.4, 9)}),
        ImageResult("b", metrics(0, 5), parts={"5-10 m": metrics(0.2, 3), "10-20 m": metrics(0.3, 99)}),
    ]
    means = mean_parts(images)
    assert list(means) == ["5-10 m", "10-20 m", "road"]
    assert means["10-20 m"].metrics.abs_rel == pytest.approx(0.2) and means["10-20 m"].num_images == 2
    assert means["10-20 m"].metrics.num_valid == 100 and means["road"].num_images == 1


def test_what_is_refused() -> None:
    image = torch.ones(2, 3)
    with pytest.raises(InputError, match="of one image"):
        parts_of(torch.ones(2, 1, 2, 3), torch.ones(2, 1, 2, 3), torch.ones(2, 1, 2, 3) > 0)
    with pytest.raises(InputError, match=r"region 'road' is \(3, 3\)"):
        parts_of(image, image, image > 0, regions={"road": np.ones((3, 3), bool)})
    with pytest.raises(InputError, match="another name"):
        parts_of(image, image, image > 0, regions={"0-10 m": image > 0})
    for edges in ([5.0], [0, 10, 10], [-1, 5], [0, math.nan]):
        with pytest.raises(InputError, match="edges of distance"):
            distance_ranges(edges)
    assert distance_ranges([0, 2.5, math.inf]) == [("0-2.5 m", 0, 2.5), ("2.5-inf m", 2.5, math.inf)]
    with pytest.raises(InputError, match="must be integers"):
        label_regions(np.ones((2, 3)), {"road": [1]})
