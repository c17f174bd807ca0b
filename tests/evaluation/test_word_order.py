"""The order of random pairs: shares worked out by hand, controls, and what an evaluation says of words."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hybrid_encoder import HybridDepthModel, InputError
from hybrid_encoder.config import HybridDepthConfig, HybridEncoderConfig
from hybrid_encoder.evaluation import (
    FunctionPredictor,
    MatchingPredictor,
    ModelPredictor,
    Prediction,
    Predictor,
    Protocol,
    Sample,
    WordOrder,
    evaluate,
    evaluate_baselines,
    measure_word_order,
    random_pairs,
    word_order,
    write_report,
)
from hybrid_encoder.evaluation.ordering import order_shares
from hybrid_encoder.evaluation.tables import order_rows, tables
from hybrid_encoder.losses import patch_order_accuracy
from hybrid_encoder.models import HybridMatchingModel

WHOLE = Protocol("whole", "for tests", "lidar")
NAN = math.nan


def words_of(depth: Tensor, count: int = 7) -> Tensor:
    """Logits (n, h, w) whose place among the words rises with depth."""
    place = (depth.log() - depth.log().min()) / (depth.log().max() - depth.log().min()) * (count - 1)
    return -4 * (torch.arange(count)[:, None, None] - place).square()


def road(height: int = 24, width: int = 48) -> Tensor:
    """Depth of a road that is nearer the lower it is, with a near wall at the upper left."""
    depth = torch.linspace(50, 2, height)[:, None].repeat(1, width)
    depth[: height // 2, : width // 3] = 1.0
    return depth


def test_shares_on_pairs_by_hand() -> None:
    values = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0], [0.0, 5.0]])
    wrong = torch.tensor([False, True, True, False])
    assert order_shares(values, wrong) == ((1 + 0 + 0.5 + 1) / 4, (0 + 0.5) / 2)
    every, none = order_shares(values, torch.zeros(4, dtype=torch.bool))
    assert every == 2.5 / 4 and math.isnan(none)
    assert all(map(math.isnan, order_shares(None, wrong)))
    with pytest.raises(InputError, match=r"1 of 2 values to be put in order are not finite"):
        order_shares(torch.tensor([[1.0, NAN]]), torch.tensor([True]))


def test_words_that_are_right_and_words_that_are_turned_round() -> None:
    truth = road()
    right = word_order(words_of(truth), truth, depth=truth)
    assert (right.words, right.words_row_wrong, right.depth, right.depth_row_wrong) == (1, 1, 1, 1)
    # Two of three columns of the upper half and the lower half are in the order of rows; the wall is not.
    assert 0.2 < right.num_row_wrong / right.num_pairs < 0.6 and right.num_pairs == 1000
    turned = word_order(words_of(truth).flip(0), truth, depth=1 / truth)
    assert (turned.words, turned.words_row_wrong, turned.depth, turned.depth_row_wrong) == (0, 0, 0, 0)
    assert turned.row == right.row  # the pairs are the same


def test_the_row_alone_is_right_where_it_is_and_nowhere_else() -> None:
    truth = road()
    rows = torch.arange(24.0, 0, -1)[:, None].expand(24, 48)  # lower is nearer
    found = word_order(words_of(rows, 30), truth, depth=rows)
    assert found.depth == found.row and found.depth_row_wrong == 0
    assert found.words == pytest.approx(found.row) and found.words_row_wrong == 0
    constant = word_order(torch.zeros(7, 3, 5), truth, depth=torch.ones(24, 48))
    assert (constant.words, constant.words_row_wrong, constant.depth, constant.depth_row_wrong) == (0.5,) * 4


def test_a_pixel_has_the_words_of_the_cell_that_holds_it() -> None:
    """Cells of 2 x 3 over 4 x 6 pixels; only one pair of pixels is known."""
    truth = torch.zeros(4, 6)
    truth[1, 1], truth[2, 5] = 1.0, 3.0
    words = torch.zeros(2, 2, 3)
    words[0, 0, 0], words[1, 1, 2] = 5.0, 5.0  # near in the cell at the upper left, far at the lower right
    found = word_order(words, truth, pairs=10)
    assert (found.words, found.words_row_wrong, found.num_row_wrong, found.row) == (1, 1, 10, 0)
    truth[2, 5], truth[1, 5] = 0.0, 3.0  # one row up, another cell: its words say nothing, and near is still nearer
    assert word_order(words, truth, pairs=10).words == 1
    truth[1, 5], truth[0, 0] = 0.0, 3.0  # both in one cell: a tie
    assert word_order(words, truth, pairs=10).words == 0.5
    assert math.isnan(word_order(words, truth, pairs=10).depth)


def test_without_a_pair_nothing_is_claimed() -> None:
    for truth in (torch.zeros(8, 8), torch.full((8, 8), 3.0), torch.full((8, 8), math.inf)):
        found = word_order(torch.zeros(2, 4, 4), truth, depth=torch.ones(8, 8))
        assert (found.num_pairs, found.num_row_wrong) == (0, 0)
        shares = (found.words, found.words_row_wrong, found.depth, found.depth_row_wrong, found.row)
        assert all(map(math.isnan, shares)) and not found.has_words
        assert found.as_dict() == {"words": None, "words_row_wrong": None, "depth": None, "depth_row_wrong": None,
                                   "row": None, "num_pairs": 0, "num_row_wrong": 0}  # fmt: skip
    falling = torch.linspace(50, 2, 8)[:, None].expand(8, 8)
    found = word_order(torch.zeros(2, 4, 4), falling)
    assert found.row == 1 and math.isnan(found.words_row_wrong) and found.words == 0.5


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.floats(1.05, 3.0), st.integers(1, 60), st.floats(0.02, 1.0))
def test_pairs_are_valid_apart_and_the_same_for_one_seed(seed: int, ratio: float, pairs: int, known: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(20, 30, generator=generator) * 79 + 1
    truth[torch.rand(20, 30, generator=generator) > known] = 0
    points = random_pairs(truth, pairs, ratio, seed)
    assert torch.equal(points, random_pairs(truth, pairs, ratio, seed)) and points.shape[1:] == (2, 2)
    x, y = points.long().unbind(-1)
    depth = truth[y, x].double()
    assert (depth > 0).all() and (depth[:, 1] >= ratio * depth[:, 0] * (1 - 1e-6)).all()


def test_pairs_depend_on_the_name_of_an_image_alone() -> None:
    truth = road()
    assert torch.equal(random_pairs(truth, seed="a 1"), random_pairs(truth, seed="a 1"))
    assert not torch.equal(random_pairs(truth, seed="a 1"), random_pairs(truth, seed="a 2"))


def test_the_mean_is_over_pairs() -> None:
    one = WordOrder(1.0, 1.0, 0.5, 0.25, 0.9, 300, 4)
    two = WordOrder(0.0, NAN, 0.5, NAN, 1.0, 100, 0)
    empty = WordOrder(NAN, NAN, NAN, NAN, NAN, 0, 0)
    assert WordOrder.pooled([one, two, empty]) == WordOrder(0.75, 1.0, 0.5, 0.25, 0.925, 400, 4)
    silent = WordOrder(NAN, NAN, 0.5, NAN, 1.0, 100, 0)  # pairs, but no words: the mean is not one over the others
    assert math.isnan(WordOrder.pooled([one, silent]).words) and WordOrder.pooled([one, silent]).depth == 0.5
    assert WordOrder.pooled([]).num_pairs == 0 and math.isnan(WordOrder.pooled([]).row)


def test_wrong_input_is_told() -> None:
    truth = road()
    with pytest.raises(InputError, match=r"logits is \(1, 7, 3, 5\) .* \(n, h, w\): take one image"):
        word_order(torch.zeros(1, 7, 3, 5), truth)
    with pytest.raises(InputError, match=r"depth is \(24, 47\) and truth \(24, 48\); both must have one size"):
        word_order(None, truth, depth=torch.ones(24, 47))
    with pytest.raises(InputError, match=r"ratio is 1\.0; .* must be above 1"):
        word_order(None, truth, ratio=1.0)
    with pytest.raises(InputError, match="2000 of 2000 values to be put in order"):
        word_order(torch.full((7, 3, 5), NAN), truth)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"pairs": 0}, "pairs is 0; it must be a whole number of at least 1"),
        ({"pairs": 2.5}, "pairs is 2.5"),
        ({"seed": 2**70}, "seed is 1180591620717411303424; it must be a name, or"),
        ({"seed": 1.5}, "seed is 1.5"),
    ],
)
def test_wrong_options_are_told_by_their_name(option: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        word_order(None, torch.arange(1.0, 5).view(2, 2), **option)


def test_it_agrees_with_the_coarse_stage_on_the_same_pairs() -> None:
    truth, logits = road(), torch.randn(5, 24, 48, generator=torch.Generator().manual_seed(1)) * 3
    points = random_pairs(truth, 200, seed=3).long()
    patches = logits[:, points[..., 1], points[..., 0]].permute(1, 2, 0)
    assert word_order(logits, truth, pairs=200, seed=3).words == pytest.approx(patch_order_accuracy(patches))


# -- models and evaluations ---------------------------------------------------------------------------------


def sample(index: int, seed: int = 0) -> Sample:
    image = np.random.default_rng(index + seed).integers(0, 255, (48, 96, 3), dtype=np.uint8)
    truth = road(48, 96).numpy() + index
    K = torch.tensor([[80.0, 0, 47.5], [0, 80, 23.5], [0, 0, 1]])
    return Sample(f"frame {index}", index, lambda: image, lambda: truth, lambda: image, K, f"drive {index}", 0)


SAMPLES = [sample(index) for index in range(3)]


def silent_model() -> HybridDepthModel:
    encoder = HybridEncoderConfig.preset("tiny").replace(prompts=None)
    return HybridDepthModel(HybridDepthConfig.preset("tiny").replace(encoder=encoder), pretrained=False)


def test_a_model_s_words_are_those_of_its_pass(tiny_model: HybridDepthModel) -> None:
    tiny_model.eval()
    predictor = ModelPredictor(tiny_model, (64, 96))
    pixels = predictor._pixels(SAMPLES[0])
    with torch.no_grad():
        features = tiny_model.encoder.forward_features(pixels)
        assert features.logits is not None
        mean = torch.stack(list(features.logits)).mean(0)
        mirrored = torch.stack(list(tiny_model.encoder.forward_features(pixels.flip(-1)).logits or [])).mean(0)
        disparity = tiny_model(pixels)
        both, said = tiny_model.forward_words(pixels)
    assert torch.equal(both, disparity) and said is not None and torch.equal(said, mean)
    found = predictor.predict(SAMPLES[0]).logits
    assert found is not None
    torch.testing.assert_close(found, mean[0])
    flipped = ModelPredictor(tiny_model, (64, 96), flip=True).predict(SAMPLES[0]).logits
    assert flipped is not None
    torch.testing.assert_close(flipped, (mean[0] + mirrored[0].flip(-1)) / 2, atol=1e-3, rtol=1e-4)


def test_a_multi_frame_model_has_words_too() -> None:
    torch.manual_seed(0)
    model = HybridMatchingModel("tiny", pretrained=False)
    pose = (torch.zeros(1, 3), torch.zeros(1, 3))
    found = MatchingPredictor(model, lambda before, now: pose, (64, 96)).predict(SAMPLES[0])
    assert model.config.encoder.encoder.prompts is not None
    assert found.logits is not None and found.logits.shape[0] == model.config.encoder.encoder.prompts.num_prompts
    assert evaluate(MatchingPredictor(model, lambda before, now: pose, (64, 96)), SAMPLES, WHOLE).order is not None


def test_an_evaluation_of_a_model_without_words_says_nothing_of_them(tmp_path: Path) -> None:
    predictor = ModelPredictor(silent_model(), (64, 96))
    found = evaluate(predictor, SAMPLES, WHOLE)
    assert found.order is None and found.images[0].order is None
    assert order_rows(found, []) == [] and "words" not in tables(found, [], WHOLE)
    write_report(tmp_path / "report", found, SAMPLES, predictor, WHOLE, examples=0)
    assert "words" not in (tmp_path / "report" / "images.csv").read_text()
    assert "order" not in json.loads((tmp_path / "report" / "report.json").read_text())
    asked = evaluate(predictor, SAMPLES, WHOLE, order=True).order
    assert asked is not None and not asked.has_words and 0 <= asked.depth <= 1
    row_wise = FunctionPredictor(lambda images: torch.linspace(0.02, 0.5, 48)[:, None].expand(48, 96), "disparity")
    by_row = evaluate(row_wise, SAMPLES, WHOLE, order=True).order
    assert by_row is not None and by_row.depth == by_row.row and by_row.depth_row_wrong == 0


class Right(Predictor):
    """Says the truth in words, and depth that is turned round."""

    name = "right | words"

    def predict(self, sample: Sample) -> Prediction:
        truth = torch.from_numpy(sample.read_truth())
        return Prediction((1 / truth).numpy(), "depth", words_of(truth))


def test_a_report_holds_the_order_beside_its_controls(tmp_path: Path) -> None:
    found = evaluate(Right(), SAMPLES, WHOLE)
    beside, _ = evaluate_baselines(SAMPLES, WHOLE, median_scaling=True, order=True)
    write_report(tmp_path / "report", found, SAMPLES, Right(), WHOLE, baselines=beside, examples=0)
    order = found.order
    assert order is not None and (order.words, order.words_row_wrong, order.depth) == (1, 1, 0)
    assert order.num_pairs == 3000 and order == WordOrder.pooled([i.order for i in found.images if i.order])
    said = json.loads((tmp_path / "report" / "report.json").read_text())
    assert said["order"] == order.as_dict() and said["images"][1]["order"]["num_pairs"] == 1000
    assert said["baselines"]["constant"]["order"]["words"] is None
    assert said["baselines"]["constant"]["order"]["depth"] == 0.5
    rows = list(csv.DictReader(io.StringIO((tmp_path / "report" / "images.csv").read_text())))
    assert rows[2]["words"] == "1.0" and rows[2]["num_pairs"] == "1000" and 0 < float(rows[2]["row"]) < 1
    table = (tmp_path / "report" / "table.md").read_text()
    assert "pairs of pixels in the right order: 3,000, row wrong" in table
    assert "| right \\| words | 100.0% | 100.0% | 0.0% | 0.0% |" in table
    assert "| constant | no words | no words | 50.0% | 50.0% |" in table
    assert f"| lower is nearer | {order.row:.1%} | 0.0% | {order.row:.1%} | 0.0% |" in table
    assert "| a guess | 50.0% | 50.0% | 50.0% | 50.0% |" in table


def test_a_model_is_measured_in_one_call(tiny_model: HybridDepthModel) -> None:
    images = [torch.rand(3, 48, 96, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    truths = [road(48, 96), road(30, 60)]  # the second one at another size of the same view
    found = measure_word_order(tiny_model, images, truths, pairs=100)
    expected = []
    for index, (image, truth) in enumerate(zip(images, truths, strict=True)):
        prediction = tiny_model.infer(image, words=True)
        assert prediction.words is not None
        size = (truth.shape[0], truth.shape[1])
        depth = torch.nn.functional.interpolate(prediction.depth[None], size, mode="nearest-exact")[0, 0]
        expected.append(word_order(prediction.words.logits, truth, depth=depth, pairs=100, seed=index))
    assert found == WordOrder.pooled(expected) and found.num_pairs == 200
    with pytest.raises(InputError, match="there are 2 images and 1 truths"):
        measure_word_order(tiny_model, images, truths[:1])
    with pytest.raises(InputError, match="the model has no prompts"):
        measure_word_order(silent_model(), images, truths)
