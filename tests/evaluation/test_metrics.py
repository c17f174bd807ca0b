"""The metrics against the protocol written out again in numpy, and against numbers worked out by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_encoder.evaluation import DepthMetrics, depth_metrics
from hybrid_encoder.evaluation.metrics import pixel_metrics

NAMES = ["abs_rel", "sq_rel", "rmse", "rmse_log", "a1", "a2", "a3"]


def scene(seed: int, batch: int = 2, height: int = 37, width: int = 61) -> tuple[torch.Tensor, torch.Tensor]:
    """A prediction of unknown scale and sparse ground truth, some of it out of range."""
    rng = np.random.default_rng(seed)
    target = rng.uniform(1, 100, (batch, 1, height, width)).astype(np.float32)
    pred = (target * rng.lognormal(0, 0.3, target.shape) / 5).astype(np.float32)
    target[rng.random(target.shape) < 0.5] = 0
    return torch.from_numpy(pred), torch.from_numpy(target)


def reference(
    pred: Any, target: Any, mask: Any = None, scaled: bool = False, low: float = 1e-3, high: float = 80.0,
    crop: tuple[float, float, float, float] | None = None,
) -> list[float]:  # fmt: skip
    rows = []
    for d, g, m in zip(pred, target, [None] * len(pred) if mask is None else mask, strict=True):
        d, g = np.asarray(d[0], dtype=np.float64), np.asarray(g[0], dtype=np.float64)
        keep = np.logical_and(g > low, g < high)
        if m is not None:
            keep = np.logical_and(keep, np.asarray(m[0]))
        if crop is not None:
            h, w = g.shape
            edges = np.array([crop[0] * h, crop[1] * h, crop[2] * w, crop[3] * w]).astype(np.int32)
            window = np.zeros(g.shape)
            window[edges[0] : edges[1], edges[2] : edges[3]] = 1
            keep = np.logical_and(keep, window)
        d, g = d[keep], g[keep]
        if scaled:
            d = d * np.median(g) / np.median(d)
        d = np.where(d < low, low, np.where(d > high, high, d))
        worst = np.maximum(g / d, d / g)
        rows.append([
            np.mean(np.abs(g - d) / g), np.mean((g - d) ** 2 / g), np.sqrt(np.mean((g - d) ** 2)),
            np.sqrt(np.mean((np.log(g) - np.log(d)) ** 2)),
            (worst < 1.25).mean(), (worst < 1.25**2).mean(), (worst < 1.25**3).mean(),
        ])  # fmt: skip
    return [float(column) for column in np.mean(rows, axis=0)]


def numbers(metrics: DepthMetrics) -> list[float]:
    return list(metrics.as_dict().values())


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(
    ("crop", "shares"),
    [
        (None, None),
        ("garg", (0.40810811, 0.99189189, 0.03594771, 0.96405229)),
        ("eigen", (0.3324324, 0.91351351, 0.0359477, 0.96405229)),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_protocol_in_numpy(scaled: bool, crop: Any, shares: Any, masked: bool) -> None:
    pred, target = scene(3)
    mask = torch.from_numpy(np.random.default_rng(9).random(target.shape) < 0.7) if masked else None
    found = depth_metrics(pred, target, mask, median_scaling=scaled, crop=crop)
    expected = reference(pred.numpy(), target.numpy(), mask, scaled, crop=shares)
    assert numbers(found) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), scaled=st.booleans(), low=st.floats(1e-3, 0.5), high=st.floats(20, 200),
    height=st.integers(8, 24), width=st.integers(8, 24),
)  # fmt: skip
def test_equals_numpy_for_any_size_and_range(
    seed: int, scaled: bool, low: float, high: float, height: int, width: int
) -> None:
    pred, target = scene(seed, 3, height, width)
    target[:, 0, 0, 0] = 10.0  # one valid pixel at least
    found = depth_metrics(pred, target, median_scaling=scaled, min_depth=low, max_depth=high)
    expected = reference(pred.numpy(), target.numpy(), None, scaled, low, high)
    assert numbers(found) == pytest.approx(expected, rel=1e-6)


def test_numbers_by_hand() -> None:
    target = torch.tensor([[10.0, 20.0, 0.0, 40.0]])
    pred = torch.tensor([[11.0, 30.0, 5.0, 20.0]])
    found = depth_metrics(pred, target)
    assert found.abs_rel == pytest.approx((0.1 + 0.5 + 0.5) / 3)
    assert found.sq_rel == pytest.approx((0.1 + 5 + 10) / 3)
    assert found.rmse == pytest.approx(math.sqrt((1 + 100 + 400) / 3))
    assert found.rmse_log == pytest.approx(math.sqrt((math.log(1.1) ** 2 + math.log(1.5) ** 2 + math.log(2) ** 2) / 3))
    assert (found.a1, found.a2, found.a3) == pytest.approx((1 / 3, 2 / 3, 2 / 3))


def test_a_perfect_prediction() -> None:
    target = torch.rand(2, 1, 8, 8) * 50 + 1
    found = depth_metrics(target, target)
    assert found.as_dict() == dict(zip(NAMES, [0, 0, 0, 0, 1, 1, 1], strict=True))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.floats(0.01, 50))
def test_median_scaling_forgets_the_scale(seed: int, factor: float) -> None:
    pred, target = scene(seed, 2, 10, 11)
    once = depth_metrics(pred, target, median_scaling=True)
    again = depth_metrics(pred.double() * factor, target, median_scaling=True)
    assert numbers(again) == pytest.approx(numbers(once), rel=1e-6)


def test_the_median_of_an_even_count_is_between_the_middle_two() -> None:
    target = torch.tensor([[10.0, 10.0, 10.0, 10.0]])
    pred = torch.tensor([[1.0, 2.0, 4.0, 8.0]])  # median 3; the lower one is 2
    found = depth_metrics(pred, target, median_scaling=True)
    assert found.rmse == pytest.approx(math.sqrt(sum((10 - d * 10 / 3) ** 2 for d in (1, 2, 4, 8)) / 4), rel=1e-6)


def test_predictions_are_clamped_after_scaling() -> None:
    target = torch.tensor([[10.0, 10.0, 70.0]])
    pred = torch.tensor([[1.0, 1.0, 1000.0]])
    found = depth_metrics(pred, target, median_scaling=True)
    assert found.rmse == pytest.approx(math.sqrt(100 / 3))  # 10000 became 80


def test_images_weigh_the_same_however_many_pixels_they_have() -> None:
    target = torch.full((2, 1, 4, 4), 10.0)
    target[1].fill_(0)[0, 0, 0] = 10.0
    pred = torch.full((2, 1, 4, 4), 10.0)
    pred[1] = 20.0
    assert depth_metrics(pred, target).abs_rel == pytest.approx(0.5)


def test_the_mean_over_images_is_that_of_the_batch() -> None:
    pred, target = scene(5, 3)
    singles = [depth_metrics(d[0], g[0], crop="garg") for d, g in zip(pred, target, strict=True)]
    assert numbers(DepthMetrics.mean(singles)) == pytest.approx(numbers(depth_metrics(pred, target, crop="garg")))


def test_names_and_order() -> None:
    assert list(depth_metrics(torch.ones(4, 4), torch.ones(4, 4)).as_dict()) == NAMES


def test_what_does_not_count_may_be_anything() -> None:
    target = torch.tensor([[10.0, 0.0, float("inf"), float("nan"), 90.0, 20.0]])
    pred = torch.tensor([[10.0, float("nan"), float("inf"), -1.0, 0.0, 99.0]])
    mask = torch.tensor([[True, True, True, True, True, False]])
    assert depth_metrics(pred, target, mask).abs_rel == 0


def test_gradients_and_inputs_are_left_alone() -> None:
    pred, target = scene(1)
    pred.requires_grad_()
    before, mask = pred.detach().clone(), torch.ones_like(target, dtype=torch.bool)
    depth_metrics(pred, target, mask, median_scaling=True, crop="eigen")
    assert torch.equal(pred.detach(), before)
    assert bool(mask.all())


def bad(value: float) -> torch.Tensor:
    pred = torch.ones(2, 1, 4, 4)
    pred[1, 0, 2, 2] = value
    return pred


ONES = torch.ones(2, 1, 4, 4)
EMPTY = torch.cat([ONES[:1], torch.zeros(1, 1, 4, 4)])


@pytest.mark.parametrize(
    ("pred", "target", "options", "message"),
    [
        (ONES, EMPTY, {}, r"image 1 of the batch has 0 valid pixels"),
        (ONES, ONES, {"mask": EMPTY > 0}, r"image 1 of the batch has 0 valid pixels.*leave the image out"),
        (bad(float("nan")), ONES, {}, r"image 1 of the batch has 1 predictions that are not finite"),
        (bad(float("inf")), ONES, {}, r"not finite"),
        (-ONES, ONES, {"median_scaling": True}, r"median prediction of -1"),
        (ONES, torch.ones(2, 1, 4, 5), {}, r"pred is \(2, 1, 4, 4\) and target is \(2, 1, 4, 5\).*resize"),
        (torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4), {}, r"must be \(B, 1, H, W\)"),
        (ONES, ONES, {"mask": ONES}, r"mask is .* of torch.float32; it must be .* torch.bool"),
        (ONES, ONES, {"mask": torch.ones(4, 4, dtype=torch.bool)}, r"mask is \(4, 4\)"),
        (ONES, ONES, {"crop": "kitti"}, r"crop is 'kitti'; it must be one of 'garg', 'eigen' or None"),
        (ONES, ONES, {"min_depth": 5.0, "max_depth": 2.0}, r"depth ranges from 5.0 to 2.0"),
        (ONES, ONES, {"min_depth": 0.0}, r"0 < min_depth"),
    ],
)
def test_bad_input_is_named(pred: torch.Tensor, target: torch.Tensor, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        depth_metrics(pred, target, **options)


def test_nothing_to_average() -> None:
    with pytest.raises(ValueError, match="0 metrics"):
        DepthMetrics.mean([])


def test_it_stands_alone() -> None:
    code = "import sys, hybrid_encoder.evaluation; print(*[m for m in sys.modules if m.startswith('hybrid_encoder')])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == ["hybrid_encoder", "hybrid_encoder.evaluation"]


# -- the pixels of one image alone ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("abs_rel", (2 / 4 + 2 / 10 + 0 / 1 + 3 / 2) / 4),
        ("sq_rel", (4 / 4 + 4 / 10 + 0 / 1 + 9 / 2) / 4),
        ("rmse", math.sqrt((4 + 4 + 0 + 9) / 4)),
        ("rmse_log", math.sqrt((math.log(1.5) ** 2 + math.log(0.8) ** 2 + 0 + math.log(2.5) ** 2) / 4)),
        ("a1", 1 / 4),  # ratios are 1.5, 1.25, 1 and 2.5: 1.25 is not below 1.25
        ("a2", 3 / 4),  # 1.5625
        ("a3", 3 / 4),  # 1.953125
    ],
)
def test_each_metric_of_four_pixels_by_hand(name: str, value: float) -> None:
    found = pixel_metrics(torch.tensor([6.0, 8.0, 1.0, 5.0]), torch.tensor([4.0, 10.0, 1.0, 2.0]))
    assert found.as_dict()[name] == pytest.approx(value, rel=1e-12) and found.num_valid == 4


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(0, 10_000))
def test_pixels_equal_numpy(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    g = rng.uniform(0.1, 90, count)
    d = g * rng.lognormal(0, 0.5, count)
    found = pixel_metrics(torch.from_numpy(d), torch.from_numpy(g), num_below=3, num_above=4)
    diff, logs = d - g, np.log10(d / g) * math.log(10)
    assert found.abs_rel == pytest.approx(np.average(np.abs(diff / g)))
    assert found.sq_rel == pytest.approx(np.average(diff * diff / g))
    assert found.rmse == pytest.approx(np.linalg.norm(diff) / math.sqrt(count))
    assert found.rmse_log == pytest.approx(np.linalg.norm(logs) / math.sqrt(count))
    shares = [np.count_nonzero(np.exp(np.abs(logs)) < 1.25**power) / count for power in (1, 2, 3)]
    assert [found.a1, found.a2, found.a3] == shares
    assert (found.num_valid, found.num_below, found.num_above) == (count, 3, 4)


def test_no_pixel_has_no_metrics() -> None:
    with pytest.raises(ValueError, match="0 pixels to compare"):
        pixel_metrics(torch.ones(0), torch.ones(0))


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_mean_does_not_depend_on_the_order(values: list[float], random: Any) -> None:
    metrics = [DepthMetrics(value, 0, 0, 0, 0, 0, 0, 2) for value in values]
    mean = DepthMetrics.mean(metrics)
    random.shuffle(metrics)
    assert DepthMetrics.mean(metrics) == mean
    assert mean.abs_rel == pytest.approx(math.fsum(values) / len(values)) and mean.num_valid == 2 * len(values)
