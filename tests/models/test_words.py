"""What the words say of a picture: kept by ``infer``, and drawn with a legend that is right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hybrid_encoder import HybridDepthModel, InputError
from hybrid_encoder.config import PromptConfig
from hybrid_encoder.data.images import colorize
from hybrid_encoder.language.depth_words import bin_centers
from hybrid_encoder.models.word_pictures import LONGEST, draw_words, legend_rows
from hybrid_encoder.models.words import DepthWords, prompt_names

from helpers.published_layout import small_config


def words_of(logits: Tensor, *, metric: bool = False) -> DepthWords:
    count = len(logits)
    names = prompt_names(PromptConfig(num_tokens=count))
    image = torch.zeros(3, 16 * logits.shape[-2], 16 * logits.shape[-1])
    return DepthWords(logits, image, names, "depth is {}", bin_centers(count, 0.1, 100.0), metric)


@pytest.fixture(scope="module")
def model() -> HybridDepthModel:
    torch.manual_seed(0)
    return HybridDepthModel(small_config(prompts=PromptConfig(num_tokens=6)), pretrained=False).eval()


def test_infer_keeps_the_mean_logits_of_the_same_pass(model: HybridDepthModel) -> None:
    image = torch.rand(3, 64, 96)
    plain, found = model.infer(image, "native"), model.infer(image, "native", words=True)
    assert plain.words is None
    assert found.words is not None
    torch.testing.assert_close(found.disparity, plain.disparity)
    with torch.inference_mode():
        logits = model.encoder.forward_features(image[None]).logits
    assert logits is not None
    torch.testing.assert_close(found.words.logits, torch.stack(list(logits)).mean(0)[0])
    assert found.words.names == tuple(f"prompt {k}" for k in range(1, 7))
    assert float(found.words.confidence.min()) >= 1 / 6


def test_of_a_batch_every_picture_has_its_own_words(model: HybridDepthModel) -> None:
    images = torch.rand(3, 3, 64, 96)
    batch = model.infer(images, "native", words=True, batch_size=2)
    assert batch.words is not None and batch.words.is_batch
    for index, image in enumerate(images):
        alone, part = model.infer(image, "native", words=True).words, batch[index].words
        assert alone is not None and part is not None
        torch.testing.assert_close(part.logits, alone.logits)
        torch.testing.assert_close(part.image, image)
    with pytest.raises(InputError, match=r"words of 3 pictures; draw those of one: draw_words\(words\[0\]\)"):
        draw_words(batch.words)
    with pytest.raises(IndexError, match="words of one picture"):
        batch.words[0][0]


def test_a_model_without_prompts_says_so_before_it_runs() -> None:
    silent = HybridDepthModel(small_config(prompts=None), pretrained=False)
    assert not silent.has_words
    with pytest.raises(InputError, match="no prompts"):
        silent.infer(torch.rand(3, 64, 96), words=True)
    prediction = silent.infer(torch.rand(3, 64, 96))
    with pytest.raises(InputError, match=r"ask for them: infer\(\.\.\., words=True\)"):
        prediction.save("unused", words=True)


def test_the_colour_of_every_cell_is_that_of_its_prompt_in_the_legend() -> None:
    logits = torch.full((3, 2, 3), -30.0)
    chosen = torch.tensor([[0, 1, 2], [2, 2, 0]])
    logits.scatter_(0, chosen[None], 30.0)
    words = words_of(logits)
    rows = legend_rows(words)
    drawn = draw_words(words).astype(int)
    side = LONGEST // 3
    assert drawn.shape[1] == LONGEST
    assert len(drawn) > 2 * side  # the legend is below
    for row in range(2):
        for column in range(3):
            expected = 0.85 * np.array(rows[int(chosen[row, column])].colour)  # over black
            seen = drawn[row * side + side // 2, column * side + side // 2]
            assert np.abs(seen - expected).max() <= 2
            assert drawn[row * side, column * side].max() == 0  # the picture, between the squares
    brightness = [sum(row.colour) for row in rows]
    assert brightness == sorted(brightness, reverse=True)  # near is bright
    assert [row.share for row in rows] == pytest.approx([2 / 6, 1 / 6, 3 / 6])
    assert [row.name for row in rows] == ["prompt 1", "prompt 2", "prompt 3"]


def test_a_square_is_the_larger_the_surer_its_prompt() -> None:
    logits = torch.zeros(4, 1, 3)
    logits[1, 0] = torch.tensor([0.01, 2.0, 30.0])
    drawn = draw_words(words_of(logits))[: LONGEST // 3]
    covered = [int((drawn[:, part * 320 : (part + 1) * 320].max(-1) > 0).sum()) for part in range(3)]
    share = np.sqrt(np.array(covered)) / 320
    sure = (np.exp(2) / (np.exp(2) + 3) - 0.25) / 0.75
    np.testing.assert_allclose(share, [0.3, 0.3 + 0.66 * sure, 0.96], atol=0.01)


@pytest.mark.parametrize("metric", [False, True])
def test_the_legend_tells_the_bins_in_metres_only_where_they_are(metric: bool) -> None:
    rows = legend_rows(words_of(torch.zeros(4, 2, 2), metric=metric))
    unit = " m" if metric else ""
    assert [row.depth for row in rows] == [f"0.1{unit}", f"1{unit}", f"10{unit}", f"100{unit}"]


def test_of_many_prompts_a_row_stands_for_several_and_none_is_lost() -> None:
    torch.manual_seed(0)
    words = words_of(torch.randn(100, 12, 40))
    rows = legend_rows(words)
    assert len(rows) == 16
    assert rows[0].name == "prompt 1 to 7"
    assert rows[-1].name == "prompt 95 to 100"
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert draw_words(words).shape[1] == LONGEST


def test_the_drawing_has_the_aspect_of_the_picture_and_another_colour_map() -> None:
    words = words_of(torch.randn(5, 4, 4))
    tall = draw_words(words, (200, 100), "viridis")
    assert tall.shape[1] >= LONGEST // 2
    first = legend_rows(words, "viridis")[0].colour
    near: np.ndarray = colorize(torch.tensor([[0.97]]), 0, 1, "viridis")[0, 0]
    assert first == tuple(int(value) for value in near)
    with pytest.raises(InputError):
        draw_words(words, colormap="no such map")
