"""Each protocol beside a plain numpy evaluation of the same predictions, written from the papers' descriptions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hybrid_encoder import InputError
from hybrid_encoder.evaluation import PROTOCOLS, Prediction, Predictor, Protocol, Sample, compare, evaluate
from hybrid_encoder.evaluation.evaluating import resized

Array = NDArray[Any]
HEIGHT, WIDTH = 37, 61


class Given(Predictor):
    """One prediction for every image."""

    name = "given"

    def __init__(self, maps: list[Array], gives: Any = "disparity", metric: bool = False) -> None:
        self.maps, self.gives, self.metric = maps, gives, metric

    def predict(self, sample: Sample) -> Prediction:
        return Prediction(self.maps[sample.index], self.gives)


def samples(truths: list[Array]) -> list[Sample]:
    blank = np.zeros((8, 8, 3), np.uint8)
    return [Sample(f"image {i}", i, lambda: blank, lambda t=t: t) for i, t in enumerate(truths)]  # type: ignore[misc]


def scene(seed: int, height: int = HEIGHT, width: int = WIDTH, farthest: float = 100.0) -> tuple[Array, Array]:
    """Sparse truth with values at and beyond all limits, and a smooth disparity of a third of the size."""
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random((height, width)) < 0.6, rng.uniform(0.05, farthest, (height, width)), 0)
    small = 1 / rng.uniform(1, 60, (height // 3, width // 3))
    return truth.astype(np.float32), small.astype(np.float32)


def bilinear(values: Array, height: int, width: int) -> Array:
    """Pixel centres at half integers, borders repeated; one pixel at a time."""
    out = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            v = (y + 0.5) * values.shape[0] / height - 0.5
            u = (x + 0.5) * values.shape[1] / width - 0.5
            rows = [min(max(math.floor(v) + i, 0), values.shape[0] - 1) for i in (0, 1)]
            columns = [min(max(math.floor(u) + i, 0), values.shape[1] - 1) for i in (0, 1)]
            b, a = v - math.floor(v), u - math.floor(u)
            top, bottom = ((1 - a) * float(values[r, columns[0]]) + a * float(values[r, columns[1]]) for r in rows)
            out[y, x] = (1 - b) * top + b * bottom
    return out


def nearest(values: Array, height: int, width: int) -> Array:
    rows = [y * values.shape[0] // height for y in range(height)]
    columns = [x * values.shape[1] // width for x in range(width)]
    return values[np.ix_(rows, columns)].astype(np.float64)


def numbers(g: Array, d: Array) -> dict[str, float]:
    ratio = np.maximum(g / d, d / g)
    return {
        "abs_rel": float(np.mean(np.abs(g - d) / g)),
        "sq_rel": float(np.mean((g - d) ** 2 / g)),
        "rmse": float(np.sqrt(np.mean((g - d) ** 2))),
        "rmse_log": float(np.sqrt(np.mean((np.log(g) - np.log(d)) ** 2))),
        "rmse_log10": float(np.sqrt(np.mean((np.log10(g) - np.log10(d)) ** 2))),
        **{f"a{n}": float(np.mean(ratio < 1.25**n)) for n in (1, 2, 3)},
    }


def window(shape: tuple[int, ...], top: int, bottom: int | None, left: int, right: int | None) -> Array:
    inside = np.zeros(shape, bool)
    inside[top:bottom, left:right] = True
    return inside


def garg(shape: tuple[int, ...]) -> Array:
    height, width = shape
    return window(
        shape, int(0.40810811 * height), int(0.99189189 * height), int(0.03594771 * width), int(0.96405229 * width)
    )


# By name: what counts, and the range to which predictions are clamped.
RULES: dict[str, tuple[Callable[[Array], Array], float, float]] = {
    "eigen": (lambda g: (g > 1e-3) & (g < 80) & garg(g.shape), 1e-3, 80),
    "lidar": (lambda g: (g > 1e-3) & (g < 80) & garg(g.shape), 1e-3, 80),
    "eigen-improved": (lambda g: g > 0, 1e-3, 80),
    "eigen-improved-garg": (lambda g: (g > 0.1) & (g < 80) & garg(g.shape), 0.1, 80),
    "nyu": (lambda g: (g > 1e-3) & (g < 10) & window(g.shape, 45, 471, 41, 601), 1e-3, 10),
    "make3d": (lambda g: (g > 0) & (g < 70), 0, 70),
    "cityscapes": (lambda g: (g > 1e-3) & (g < 80) & window(g.shape, 256, None, 192, 1856), 1e-3, 80),
}
SIZES = {"nyu": (480, 640), "make3d": (21, 305), "cityscapes": (300, 210)}


def independent(name: str, truth: Array, disparity: Array, median: bool, factor: float) -> dict[str, float]:
    counts, low, high = RULES[name]
    resize = nearest if name == "make3d" else bilinear
    depth = factor / resize(disparity, *truth.shape)
    use = counts(truth)
    g, d = truth[use].astype(np.float64), depth[use]
    if median:
        d = d * np.median(g) / np.median(d)
    return numbers(g, np.clip(d, low, high))


@pytest.mark.parametrize(("median", "factor"), [(True, None), (False, 5.4), (False, None), (True, 3.0)])
@pytest.mark.parametrize("name", RULES)
def test_every_protocol_gives_the_numbers_of_plain_numpy(name: str, median: bool, factor: float | None) -> None:
    protocol = PROTOCOLS[name]
    farthest = 1.3 * min(protocol.max_truth, 80)
    scenes = [scene(seed, *SIZES.get(name, (HEIGHT, WIDTH)), farthest) for seed in range(1 if name in SIZES else 3)]
    truths, maps = ([pair[i] for pair in scenes] for i in (0, 1))
    found = evaluate(Given(maps), samples(truths), name, median_scaling=median, factor=factor)
    expected = [independent(name, g, d, median, factor or 1.0) for g, d in scenes]
    for image, numbers_of_image in zip(found.images, expected, strict=True):
        ours = protocol.numbers(image.metrics)
        assert ours == pytest.approx({metric: numbers_of_image[metric] for metric in protocol.metrics}, rel=1e-9)
    mean = {metric: np.mean([one[metric] for one in expected]) for metric in protocol.metrics}
    assert protocol.numbers(found.mean) == pytest.approx(mean, rel=1e-9)


def test_all_protocols_are_compared() -> None:
    assert set(RULES) == set(PROTOCOLS)


@pytest.mark.parametrize(
    ("metric", "factor", "scaled"), [(False, None, True), (True, None, False), (False, 5.4, False)]
)
def test_predictions_without_a_scale_are_scaled_unless_a_factor_is_given(
    metric: bool, factor: float | None, scaled: bool
) -> None:
    truth, disparity = scene(0)
    found = evaluate(Given([disparity], metric=metric), samples([truth]), "eigen", factor=factor)
    assert found.settings["median_scaling"] is scaled
    use = RULES["eigen"][0](truth)
    ratio = np.median(truth[use]) / np.median(1 / bilinear(disparity, HEIGHT, WIDTH)[use])
    assert found.images[0].scale == pytest.approx(ratio if scaled else factor or 1.0, rel=1e-6)


def test_the_scale_factors_are_summed_up_as_monodepth2_does() -> None:
    scenes = [scene(seed) for seed in range(3)]
    found = evaluate(Given([d for _, d in scenes]), samples([g for g, _ in scenes]), "eigen")
    scales = np.array([image.scale for image in found.images])
    assert found.scale == pytest.approx(np.median(scales))
    assert found.scale_spread == pytest.approx(np.std(scales / np.median(scales)))


def test_depth_and_its_inverse_give_the_same_numbers() -> None:
    truth, disparity = scene(1)
    as_disparity = evaluate(Given([disparity]), samples([truth])).mean
    as_depth = evaluate(Given([1 / disparity.astype(np.float64)], "depth"), samples([truth])).mean
    assert as_depth.as_dict() == pytest.approx(as_disparity.as_dict(), rel=1e-12)


def test_the_truth_itself_has_no_error() -> None:
    truth, _ = scene(2)
    found = evaluate(Given([np.maximum(truth, 1e-3)], "depth", metric=True), samples([truth]), "eigen-improved-garg")
    assert found.mean.rmse < 1e-4 and found.mean.a1 == 1
    assert set(found.images[0].parts) == {"0-10 m", "10-20 m", "20-40 m", "40-80 m"}


def test_infinitely_far_is_clamped_and_counted() -> None:
    truth, _ = scene(3)
    disparity = np.full(truth.shape, 0.1)
    disparity[::4] = 0
    found = compare(Prediction(disparity, "disparity"), truth, PROTOCOLS["eigen"], median_scaling=True)
    use = RULES["eigen"][0](truth)
    assert found.metrics.num_above == use[::4].sum() > 0
    assert (found.depth.numpy()[::4] == 80).all()
    with pytest.raises(InputError, match="the median prediction is inf m"):
        compare(Prediction(np.zeros(truth.shape), "disparity"), truth, PROTOCOLS["eigen"], median_scaling=True)


@pytest.mark.parametrize(
    ("values", "gives", "says"),
    [
        (
            np.full((4, 4), np.nan),
            "disparity",
            "image 0: 16 of 16 predictions are no disparity, such as nan; all",
        ),
        (
            np.array([[1.0, -2.0]]),
            "disparity",
            "1 of 2 predictions are no disparity, such as -2; all must be finite",
        ),
        (np.array([[1.0, 0.0]]), "depth", "1 of 2 predictions are no depth, such as 0; all must be finite and above 0"),
        (np.array([[1.0, np.inf]]), "depth", "1 of 2 predictions are no depth, such as inf"),
        (
            np.ones((2, 3, 4)),
            "depth",
            r"image 0: the prediction is \(2, 3, 4\) of float64; one map of",
        ),
        (np.ones((0, 4)), "depth", r"the prediction is \(0, 4\)"),
        (np.ones((4, 4), complex), "depth", "of complex128"),
        (np.full((4, 4), "far"), "depth", "the prediction is"),
        ([[1.0]], "depth", "one map of numbers is needed"),
    ],
)
def test_what_is_no_depth_is_refused_by_the_name_of_its_image(values: Any, gives: str, says: str) -> None:
    truth, _ = scene(0)
    with pytest.raises(InputError, match=says):
        evaluate(Given([values], gives), samples([truth]))


def test_an_evaluation_of_nothing_is_refused() -> None:
    truth, disparity = scene(0)
    cases: list[tuple[str, Callable[[], object]]] = [
        ("there are 0 images", lambda: evaluate(Given([]), [])),
        ("0 pixels count: truth above 0.001 m and below", lambda: evaluate(Given([disparity]), samples([truth * 0]))),
        ("protocol is 'usual'; it must be one of 'eigen',", lambda: evaluate(Given([disparity]), [], "usual")),
        ("factor is -1; a number above 0", lambda: evaluate(Given([disparity]), samples([truth]), factor=-1)),
        ("crop is 'wide'; it must be one of", lambda: PROTOCOLS["eigen"].changed(crop="wide")),
        ("depth ranges from 0.001 to 0.0005", lambda: PROTOCOLS["eigen"].changed(max_depth=0.0005)),
        (
            "all of .* predictions are outside of the range of depth, 0 below",
            lambda: evaluate(Given([disparity * 1e-6], metric=True), samples([truth])),
        ),
    ]
    for says, call in cases:
        with pytest.raises(InputError, match=says):
            call()


def test_a_changed_protocol_says_so() -> None:
    eigen = PROTOCOLS["eigen"]
    assert eigen.changed(crop="garg", max_depth=80.0) is eigen
    changed = eigen.changed(crop=None)
    assert changed.name == "eigen (crop None)" and changed.crop is None and changed.max_truth == 80
    assert PROTOCOLS["eigen-improved"].as_dict()["max_truth"] is None  # as JSON knows no infinity
    assert Protocol("mine", "of mine", "lidar").metrics[0] == "abs_rel"


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (37, 61), (100, 20)])
def test_resizing_is_that_of_opencv_by_its_definition(size: tuple[int, int]) -> None:
    import torch

    _, disparity = scene(4)
    given = torch.from_numpy(disparity.astype(np.float64))
    assert np.allclose(resized(given, size, "bilinear").numpy(), bilinear(disparity, *size), rtol=1e-12)
    assert np.array_equal(resized(given, size, "nearest").numpy(), nearest(disparity, *size))
