"""Baselines on truths of which their numbers are known, and what each may know of an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.baselines import (
    FlatRoad,
    Prior,
    Priors,
    baselines,
    constant,
    evaluate_baselines,
    image_row,
    mean_map,
)
from hybrid_encoder.evaluation.protocols import Protocol
from hybrid_encoder.evaluation.samples import Sample

WHOLE = Protocol("whole", "for tests", "lidar", max_truth=100.0, max_depth=100.0)
SIZE = (64, 128)
K = torch.tensor([[100.0, 0, 64], [0, 100, 20], [0, 0, 1]])


def sample(
    name: str, truth: NDArray[np.float64], drive: str = "", K: torch.Tensor | None = None, frame: int | None = None
) -> Sample:
    def image() -> NDArray[np.uint8]:
        return np.zeros((*SIZE, 3), np.uint8)

    return Sample(name, 0, image, lambda: truth.astype(np.float32), K=K, drive=drive, frame=frame)


def flat(depth: float) -> NDArray[np.float64]:
    return np.full(SIZE, depth)


def numbers(samples: list[Sample], scaled: bool = False) -> dict[str, list[float]]:
    found, _ = evaluate_baselines(samples, WHOLE, median_scaling=scaled)
    return {evaluation.predictor: [image.metrics.abs_rel for image in evaluation.images] for evaluation in found}


def test_a_constant_is_of_the_other_images() -> None:
    found = numbers([sample("a", flat(10)), sample("b", flat(20)), sample("c", flat(40))])
    # For a the median of 20 and 40, for b of 10 and 40, for c of 10 and 20.
    assert found["constant"] == pytest.approx([20 / 10, 5 / 20, 25 / 40])
    assert found["mean map"] == pytest.approx(found["constant"])  # the mean of two is their median
    assert found["image row"] == pytest.approx(found["constant"])
    assert "flat road" not in found  # no intrinsics
    scaled = numbers([sample("a", flat(10)), sample("b", flat(20)), sample("c", flat(40))], scaled=True)
    assert scaled["constant"] == pytest.approx([0, 0, 0], abs=1e-7)


def test_a_drive_is_left_out_as_a_whole() -> None:
    samples = [sample("a", flat(10), "one"), sample("b", flat(11), "one"), sample("c", flat(40), "two")]
    assert numbers(samples)["constant"] == pytest.approx([30 / 10, 29 / 11, 29.5 / 40])
    found, about = baselines(samples, WHOLE)
    assert about == "made from the truths of other recordings of the test set"
    assert found[0].settings == {"images": 3, "left_out": "drive"}
    # Where an image does not say its drive, every other one counts, and the sentence says so.
    samples[0] = sample("a", flat(10))
    assert numbers(samples)["constant"][0] == pytest.approx(abs(25.5 - 10) / 10)
    assert "not known whether" in baselines(samples, WHOLE)[1]


def test_of_a_single_drive_the_neighbours_are_left_out() -> None:
    """Frames that follow each other look the same: their mean map is nearly the truth."""
    depths, frames = (10, 11, 20, 40), (0, 99, 199, 299)
    samples = [sample(str(frame), flat(d), "one", frame=frame) for d, frame in zip(depths, frames, strict=True)]
    constants = [np.median([20, 40]), np.median([20, 40]), np.median([10, 11, 40]), np.median([10, 11, 20])]
    expected = [abs(c - d) / d for c, d in zip(constants, depths, strict=True)]
    assert numbers(samples)["constant"] == pytest.approx(expected)
    assert baselines(samples, WHOLE)[1] == "made from the truths of images at least 100 frames away of the test set"
    found, about = baselines(samples[:2], WHOLE)
    assert found == [] and "no image of another place" in about


def test_a_ramp_is_known_by_its_row_and_a_wall_by_its_place() -> None:
    rows = np.repeat(np.linspace(60, 5, SIZE[0])[:, None], SIZE[1], axis=1)
    ramps = numbers([sample(name, rows) for name in "ab"])
    assert max(ramps["image row"]) < 0.02 < 0.3 < min(ramps["constant"])
    walls = rows.copy()
    walls[:, :40] = 4
    found = numbers([sample(name, walls) for name in "ab"])
    assert max(found["mean map"]) < 0.05 < 0.2 < min(found["image row"])


def test_the_mean_map_by_hand() -> None:
    truth = np.zeros(SIZE)
    truth[2, 4:6] = 10, 30  # the cell (1, 2) of 2 x 2 pixels
    other = np.zeros(SIZE)
    other[3, 5], other[40, 0] = 50, 7
    priors = Priors.of([sample("a", truth), sample("b", other)], WHOLE)
    np.testing.assert_array_equal(priors.medians, [20, 28.5])
    assert priors.maps[0, 1, 2] == 20 and priors.maps[1, 1, 2] == 50 and priors.rows[1, 20] == 7
    use = np.array([True, True])
    found = mean_map(priors, use)
    assert found[1, 2] == 35 and found[20, 0] == 7 and found[20, 9] == 7 and found[0, 0] == 35 and found[31, 5] == 7
    np.testing.assert_allclose(image_row(priors, use)[1], 35)


def test_a_flat_road_is_exact_on_a_flat_road() -> None:
    below = np.maximum(np.arange(SIZE[0]) - 20, 1e-9)
    road = np.minimum(100 * 1.65 / below, 100)[:, None].repeat(SIZE[1], axis=1)
    road[:21] = 0
    found, about = evaluate_baselines([sample("a", road, K=K)], WHOLE, median_scaling=False)
    assert [evaluation.predictor for evaluation in found] == ["flat road"]  # a single image has no others
    assert about == "no constant, image row and mean map: there is no image of another place to make them from"
    assert found[0].mean.abs_rel < 1e-6
    scaled, about = evaluate_baselines([sample("a", road, K=K)], WHOLE, median_scaling=True)
    assert [evaluation.predictor for evaluation in scaled] == ["constant", "flat road"]  # any constant is the same then
    counts = road[(road > 0) & (road < 100)]
    assert scaled[0].mean.abs_rel == pytest.approx(np.mean(np.abs(np.median(counts) - counts) / counts))
    assert about == "no image row and mean map: there is no image of another place to make them from"
    with pytest.raises(InputError, match="needs the intrinsics of b"):
        FlatRoad().check([sample("b", road)])


def test_images_of_a_training_set() -> None:
    training = [sample("t1", flat(10), "t"), sample("t2", flat(12), "t"), sample("a", flat(99), "one")]
    found, about = evaluate_baselines([sample("a", flat(22), "one")], WHOLE, median_scaling=False, training=training)
    assert about == "made from the truths of other recordings of the training set"
    assert found[0].mean.abs_rel == pytest.approx(0.5)  # 11 for 22: its own drive is left out there, too


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="none of 1 images has truth"):
        Priors.of([sample("a", flat(0))], WHOLE)
    one = sample("a", flat(5))
    with pytest.raises(InputError, match="no other image to learn from for a"):
        Prior("constant", Priors.of([one], WHOLE), constant).check([one])
