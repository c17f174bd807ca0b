"""The coarse stage's losses beside a plain numpy evaluation of their formulas, their gradients, and empty input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_encoder import ConfigError, HybridDepthEncoder, InputError
from hybrid_encoder.losses import (
    CoarsePatchLoss,
    Sampling,
    patch_contrastive_loss,
    patch_features,
    patch_order_accuracy,
    patch_ranking_loss,
)

from helpers.tensors import random_tensor as _random

lanes, prompts = st.integers(0, 5), st.integers(2, 9)


@settings(max_examples=40, deadline=None)
@given(lanes, prompts, st.booleans(), st.sampled_from([0.0, 0.25, 4.0]), st.integers(0, 99))
def test_ranking_is_the_sum_over_pairs(count: int, patches: int, two_sided: bool, margin: float, seed: int) -> None:
    logits = _random(count, patches, patches, seed=seed)
    expected = 0.0
    for S in logits.numpy():
        for i in range(patches):
            for j in range(patches):
                if i < j or (two_sided and i > j):
                    expected += max(0.0, S[i, j] - S[j, j] + margin * abs(i - j) / (patches - 1))
    assert patch_ranking_loss(logits, two_sided, margin).item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(lanes, prompts, st.integers(1, 7), st.integers(0, 99))
def test_contrast_is_the_weighted_similarity(count: int, patches: int, channels: int, seed: int) -> None:
    features = _random(count, patches, channels, seed=seed)
    total = 0.0
    for lane in features.numpy():
        unit = lane / np.linalg.norm(lane, axis=1, keepdims=True)
        for i in range(patches):
            for j in range(patches):
                total += abs(i - j) / (patches - 1) * float(unit[i] @ unit[j]) / patches**2
    expected = total / count if count else 0.0
    assert patch_contrastive_loss(features).item() == pytest.approx(expected, abs=1e-6)


def test_gradients_are_right() -> None:
    logits = _random(2, 4, 4).requires_grad_()
    features = _random(2, 4, 3).requires_grad_()
    for two_sided in (False, True):
        assert torch.autograd.gradcheck(lambda x, both=two_sided: patch_ranking_loss(x, both), logits)
    assert torch.autograd.gradcheck(patch_contrastive_loss, features)
    maps = [_random(2, 3, 4, 5, seed=i).requires_grad_() for i in range(4)]
    points, index = torch.rand(3, 2, 2, dtype=torch.float64) * 40 + 8, torch.tensor([0, 1, 1])
    for sampling in ("cell", "box"):
        assert torch.autograd.gradcheck(
            lambda *fused, how=sampling: patch_features(fused, points, index, (56, 70), 6, how), tuple(maps)
        )


def test_words_in_the_order_of_the_patches_cost_nothing() -> None:
    ordered = 10 * torch.eye(7)
    assert patch_ranking_loss(ordered) == 0 and patch_ranking_loss(ordered, two_sided=True) == 0
    assert patch_ranking_loss(ordered.flip(1)) > 0
    assert patch_order_accuracy(ordered) == 1 and patch_order_accuracy(ordered.flip(1)) == 0
    assert math.isnan(patch_order_accuracy(torch.zeros(0, 7, 7)))
    chance = patch_order_accuracy(_random(400, 7, 7, dtype=torch.float32))
    assert 0.45 < chance < 0.55


def test_without_a_margin_shrinking_the_logits_pays_and_with_one_it_does_not() -> None:
    logits = _random(3, 7, 7)
    logits.diagonal(dim1=-2, dim2=-1).add_(1.0)  # mostly in order, with mistakes
    small, large = logits / 1000, 30 * logits
    assert patch_ranking_loss(small, True) < patch_ranking_loss(logits, True) / 100
    assert patch_ranking_loss(6 * torch.eye(7), True, margin=6.0) == 0
    needed = sum(abs(i - j) for i in range(7) for j in range(7))
    assert patch_ranking_loss(torch.zeros(7, 7), True, margin=6.0) == needed
    assert patch_ranking_loss(small, True, 6.0) > 0.99 * 3 * needed and patch_ranking_loss(large, True) > 0
    for wrong in (-1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match=rf"margin is {wrong}"):
            patch_ranking_loss(logits, margin=wrong)
        with pytest.raises(ConfigError, match=rf"margin is {wrong}"):
            CoarsePatchLoss(margin=wrong)


@pytest.mark.parametrize("sampling", ["cell", "box"])
def test_patches_are_read_where_they_lie(sampling: Sampling) -> None:
    # Channel 0 holds the column and channel 1 the row of every cell, the others tell the maps apart.
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    maps = [torch.stack([columns + 1, rows + 1, torch.full_like(rows, level)])[None] for level in range(4)]
    points = torch.tensor([[[5 * 14 + 6.5, 2 * 14 + 6.5], [1 * 14 + 6.5, 4 * 14 + 6.5]]])
    found = patch_features(maps, points, torch.tensor([0]), (84, 112), 12, sampling, box=14.0)[0]
    for patch, (column, row) in zip(found, ((5, 2), (1, 4)), strict=True):
        expected = torch.tensor([n for level in range(4) for n in (column + 1.0, row + 1.0, float(level))])
        torch.testing.assert_close(patch, expected / expected.norm(), atol=1e-4, rtol=1e-4)


def test_the_concatenated_maps_are_resampled_to_the_prompts() -> None:
    maps = [_random(1, 2, 1, 1, seed=i, dtype=torch.float32) for i in range(4)]
    point, index = torch.zeros(1, 1, 2), torch.zeros(1, dtype=torch.long)
    whole = torch.cat(maps, 1).flatten()
    for channels, nearest in ((4, [0, 2, 4, 6]), (16, [i // 2 for i in range(16)])):
        expected = whole[nearest] / whole[nearest].norm()
        torch.testing.assert_close(patch_features(maps, point, index, (14, 14), channels)[0, 0], expected)


@settings(max_examples=15, deadline=None)
@given(lanes, prompts, st.sampled_from(["cell", "box"]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_any_number_of_lanes(count: int, patches: int, sampling: Sampling, dtype: torch.dtype) -> None:
    maps = [_random(2, 3, 4, 5, seed=i, dtype=dtype).requires_grad_() for i in range(4)]
    words = _random(patches, 8, dtype=dtype).requires_grad_()
    points = torch.rand(count, patches, 2) * 50
    index = torch.arange(count) % 2
    loss = CoarsePatchLoss(sampling=sampling)(maps, words, points, index, (56, 70))
    assert loss.total.isfinite() and loss.total.dtype == torch.float32
    assert loss.logits.shape == (count, patches, patches)
    torch.testing.assert_close(loss.total, loss.ranking + loss.contrastive)
    loss.total.backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (*maps, words))
    if not count:
        assert loss.total == 0


def test_the_coarse_loss_teaches_an_encoder_the_order(tiny: HybridDepthEncoder) -> None:
    config = tiny.config.prompts
    assert config is not None
    points = torch.tensor([[[48.0, 60.0 - 8 * i] for i in range(7)]]).repeat(2, 1, 1)
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    loss = CoarsePatchLoss()
    optimizer = torch.optim.AdamW([p for p in tiny.parameters() if p.requires_grad], 1e-3)
    seen = []
    for _ in range(12):
        full = tiny.forward_features(images)
        assert full.prompt_embeddings is not None
        result = loss(full.fused, full.prompt_embeddings[:7], points, torch.tensor([0, 1]), (64, 96))
        optimizer.zero_grad()
        result.total.backward()
        optimizer.step()
        seen.append(result.total.item())
    assert seen[-1] < seen[0] - 0.1


def test_words_that_say_nothing_are_a_guess_and_what_is_not_finite_is_no_number() -> None:
    assert patch_order_accuracy(torch.zeros(2, 7, 7)) == 0.5
    assert patch_order_accuracy(torch.eye(7)) == 1 and patch_order_accuracy(torch.eye(7).flip(0)) == 0
    two_alike = torch.tensor([[9.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    assert patch_order_accuracy(two_alike) == pytest.approx(2.5 / 3)
    assert math.isnan(patch_order_accuracy(torch.full((1, 3, 3), math.nan)))
    assert math.isnan(patch_order_accuracy(torch.zeros(0, 3, 3)))


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(InputError, match=r"logits is \(2, 3\); \(\.\.\., P, P\) is needed"):
        patch_ranking_loss(torch.zeros(2, 3))
    with pytest.raises(InputError, match="as many prompts"):
        maps = [torch.rand(1, 2, 2, 2)] * 4
        CoarsePatchLoss()(maps, torch.rand(3, 8), torch.zeros(1, 7, 2), torch.zeros(1, dtype=torch.long), (28, 28))
    with pytest.raises(InputError, match=r"points is \(1, 7, 2\) and index \(2,\)"):
        patch_features([torch.rand(1, 2, 2, 2)], torch.zeros(1, 7, 2), torch.zeros(2, dtype=torch.long), (28, 28), 4)
    with pytest.raises(ConfigError, match="sampling is 'point'"):
        CoarsePatchLoss(sampling="point")  # type: ignore[arg-type]
