"""Intersection over union and average precision: by hand, and against versions of their own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hybrid_encoder import InputError
from hybrid_encoder.bev import (
    BevGrid,
    Detections,
    IntersectionOverUnion,
    average_precision,
    centre_map,
    find_centres,
)

GRID = BevGrid((-12.0, 12.0), (-8.0, 8.0), (-1.0, 3.0), 0.5)


def detections(*rows: tuple[float, float, float]) -> Detections:
    found = torch.tensor(rows).view(-1, 3)
    return Detections(found[:, :2], found[:, 2])


def points(*rows: tuple[float, float]) -> Tensor:
    return torch.tensor(rows).view(-1, 2)


def test_intersection_over_union_is_summed_before_it_is_divided() -> None:
    metric = IntersectionOverUnion()
    road, truth = torch.full((1, 1, 2, 4), -1.0), torch.zeros(1, 1, 2, 4)
    road[..., :1], truth[..., :2] = 1, 1  # 2 of 4 cells found
    vehicle = -torch.ones(1, 1, 2, 4)
    metric.update({"road": road, "vehicle": vehicle}, {"road": truth, "vehicle": torch.zeros(1, 1, 2, 4)})
    assert metric.compute()["road"] == 0.5 and math.isnan(metric.compute()["vehicle"])
    metric.update({"road": -road, "vehicle": -vehicle}, {"road": truth, "vehicle": truth})
    # Road: 2 of 4, then 2 of 8 cells; vehicle: 4 of 8.
    assert metric.compute() == {"road": 4 / 12, "vehicle": 0.5, "mean": pytest.approx((1 / 3 + 0.5) / 2)}


def test_what_is_masked_does_not_count() -> None:
    metric, logits, truth = IntersectionOverUnion(), torch.ones(1, 1, 1, 4), torch.tensor([[[[1.0, 1, 0, 0]]]])
    metric.update({"road": logits}, {"road": truth}, torch.tensor([[[[1, 1, 1, 0]]]]))
    assert metric.compute()["road"] == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="'road' is"):
        metric.update({"road": logits}, {"road": truth[0]})


def test_peaks_are_found_where_centres_are() -> None:
    boxes = torch.tensor([[3.25, 1.25, 0, 4, 2, 1.5, 0], [-7.75, -3.25, 0, 4, 2, 1.5, 0]])
    maps = torch.stack([centre_map(boxes, GRID), torch.zeros(GRID.shape)])[:, None] * 0.9 + 0.01
    first, second = find_centres(torch.logit(maps), GRID, threshold=0.1)
    torch.testing.assert_close(first.centres[first.centres[:, 0].argsort()], boxes[[1, 0], :2], atol=1e-3, rtol=0)
    torch.testing.assert_close(first.scores, torch.full((2,), 0.91))
    assert second.centres.shape == (0, 2)


def test_a_peak_between_cells_is_placed_between_them() -> None:
    scores = torch.full(GRID.shape, 1e-4)
    scores[20, 10], scores[21, 10] = 0.8, 0.4
    (found,) = find_centres(torch.logit(scores)[None, None], GRID, threshold=0.2)
    middle = GRID.centres()[20, 10]
    torch.testing.assert_close(found.centres, (middle + torch.tensor([0.5 / 3, 0]))[None], atol=1e-3, rtol=0)


def test_of_two_peaks_within_the_radius_the_higher_one_stays_and_the_surest_comes_first() -> None:
    scores = torch.full(GRID.shape, 1e-4)
    scores[20, 10], scores[22, 10], scores[40, 20] = 0.8, 0.7, 0.9
    (found,) = find_centres(torch.logit(scores)[None, None], GRID, radius=2.0)
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8]))
    (found,) = find_centres(torch.logit(scores)[None, None], GRID, radius=0.5)
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8, 0.7]))


def test_average_precision_by_hand() -> None:
    truth = [points((0, 0), (10, 0))]
    all_found = average_precision([detections((0.1, 0, 0.9), (10, 0.3, 0.8))], truth)
    assert all_found == {"ap_0.5": 1.0, "ap_1": 1.0, "ap_2": 1.0, "ap_4": 1.0, "mean": 1.0}
    # One of the two, 1.5 m away: precision 1 up to recall 0.5. Of recalls 0.11 to 1, 40 of 90 have it.
    half = average_precision([detections((1.5, 0, 0.9))], truth)
    assert half["ap_1"] == 0 and half["ap_2"] == pytest.approx(40 / 90) == half["ap_4"]
    assert half["mean"] == pytest.approx(half["ap_2"] / 2)
    # The surest is wrong: precision 1 / 2 at recall 1 / 2, then 2 / 3; before that it is 0 at recall 0.
    wrong_first = average_precision([detections((5, 5, 0.99), (0, 0, 0.9), (10, 0, 0.8))], truth, (0.5,))
    at = np.interp(np.linspace(0, 1, 101), [0, 0.5, 1], [0, 0.5, 2 / 3])[11:]
    assert wrong_first["ap_0.5"] == pytest.approx(np.maximum(at - 0.1, 0).mean() / 0.9)


def test_a_centre_is_found_once_and_in_its_own_scene() -> None:
    twice = average_precision([detections((0, 0, 0.9), (0.1, 0, 0.8))], [points((0, 0), (50, 0))], (1.0,))
    # The second one takes nothing: at recall 1 / 2 precision falls to 1 / 2, up to there it is 1.
    assert twice["ap_1"] == pytest.approx((39 + 0.4 / 0.9) / 90)
    elsewhere = average_precision([detections((0, 0, 0.9)), detections()], [points(), points((0, 0))], (1.0,))
    assert elsewhere["ap_1"] == 0


def test_without_centres_there_is_no_precision_and_boxes_serve_as_centres() -> None:
    assert math.isnan(average_precision([detections((0, 0, 0.9))], [points()])["mean"])
    assert average_precision([detections()], [points((0, 0))])["mean"] == 0
    box = torch.tensor([[1.0, 2.0, 0.8, 4, 2, 1.5, 0.3]])
    assert average_precision([detections((1, 2, 0.9))], [box])["mean"] == 1
    with pytest.raises(InputError, match="2 scenes"):
        average_precision([detections(), detections()], [points()])


def reference(scenes: list[tuple[np.ndarray, np.ndarray, np.ndarray]], limit: float) -> float:
    """Average precision once more, from the definition, with lists and loops."""
    rows = sorted(
        ((-score, number, place) for number, (places, scores, _) in enumerate(scenes)
         for place, score in zip(places.tolist(), scores.tolist(), strict=True)),
        key=lambda row: row[0],
    )  # fmt: skip
    left = [truth.tolist() for _, _, truth in scenes]
    total, hits, curve = sum(map(len, left)), 0, []
    for count, (_, number, place) in enumerate(rows, 1):
        near = min(left[number], key=lambda truth: math.dist(truth, place), default=None)
        if near is not None and math.dist(near, place) < limit:
            left[number].remove(near)
            hits += 1
        curve.append((hits / total, hits / count))
    values = []
    for percent in range(11, 101):
        recall = percent / 100
        after = next((i for i, (r, _) in enumerate(curve) if r > recall), None)
        if after is None:
            value = curve[-1][1] if curve[-1][0] == recall else 0.0
        elif after == 0:
            value = curve[0][1]
        else:
            (r0, p0), (r1, p1) = curve[after - 1], curve[after]
            value = p0 + (p1 - p0) * (recall - r0) / (r1 - r0)
        values.append(max(value - 0.1, 0))
    return sum(values) / 90 / 0.9 if hits else 0.0


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_as_a_version_of_its_own_says(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scenes = []
    for _ in range(6):
        truth = generator.uniform(-20, 20, (generator.integers(0, 7), 2))
        near = truth + generator.normal(0, 0.6, truth.shape)
        places = np.concatenate([near[generator.random(len(near)) < 0.8], generator.uniform(-20, 20, (3, 2))])
        scenes.append((places, generator.random(len(places)), truth))
    found = average_precision(
        [Detections(torch.from_numpy(p), torch.from_numpy(s)) for p, s, _ in scenes],
        [torch.from_numpy(t) for *_, t in scenes],
    )
    for limit in (0.5, 1.0, 2.0, 4.0):
        assert found[f"ap_{limit:g}"] == pytest.approx(reference(scenes, limit), abs=1e-9)
    assert 0 < found["ap_0.5"] < found["ap_4"] < 1
