"""The fine stage's language loss beside a plain numpy evaluation, its gradients, and empty input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_encoder import InputError
from hybrid_encoder.language import bin_centers, language_depth
from hybrid_encoder.losses import PixelLanguageLoss, pixel_language_loss

from helpers.tensors import random_tensor as _random

prompts = st.integers(2, 9)


@settings(max_examples=30, deadline=None)
@given(prompts, st.integers(0, 99), st.booleans())
def test_the_pixel_loss_is_a_cross_entropy_with_shared_targets(count: int, seed: int, masked: bool) -> None:
    logits = _random(2, count, 3, 4, seed=seed)
    bins = torch.linspace(math.log(0.5), math.log(40), count, dtype=torch.float64).exp()
    generator = torch.Generator().manual_seed(seed)
    depth = torch.rand(2, 1, 3, 4, generator=generator, dtype=torch.float64) * 60 - 5
    mask = torch.rand(2, 1, 3, 4, generator=generator) > 0.3
    values = []
    for b, _, y, x in np.ndindex(2, 1, 3, 4):
        z = depth[b, 0, y, x].item()
        if z <= 0 or (masked and not mask[b, 0, y, x]):
            continue
        centers = np.log(bins.numpy())  # np.interp holds the ends by itself
        target = [np.interp(np.log(z), centers, np.eye(count)[k]) for k in range(count)]
        row = logits[b, :, y, x].numpy()
        values.append(-float(np.dot(target, row - np.log(np.exp(row).sum()))))
    expected = float(np.mean(values)) if values else 0.0
    loss = pixel_language_loss(logits, depth, bins, mask if masked else None)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_finer_depth_counts_by_its_mean_in_log() -> None:
    logits, bins = _random(1, 3, 1, 1), torch.tensor([1.0, 4.0, 16.0], dtype=torch.float64)
    fine = torch.tensor([[1.0, 16.0], [4.0, 0.0]], dtype=torch.float64)[None, None]  # 0: unknown
    whole = torch.full((1, 1, 1, 1), 4.0, dtype=torch.float64)
    torch.testing.assert_close(pixel_language_loss(logits, fine, bins), pixel_language_loss(logits, whole, bins))


def test_no_valid_pixel_is_zero_with_a_gradient() -> None:
    logits, bins = _random(1, 3, 2, 2).requires_grad_(), torch.tensor([1.0, 2, 4])
    for depth in (0.0, math.nan, math.inf, -1.0):
        loss = pixel_language_loss(logits, torch.full((1, 1, 4, 4), depth), bins)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss == 0 and not gradient.any()


def test_depth_gets_no_gradient_and_low_precision_stays_finite() -> None:
    depth = torch.rand(1, 1, 4, 4).requires_grad_()
    bins = torch.tensor([0.1, 1.0, 10.0])
    logits = (100 * _random(1, 3, 2, 2, dtype=torch.float32)).to(torch.bfloat16).requires_grad_()
    loss = pixel_language_loss(logits, depth, bins)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert depth.grad is None and logits.grad is not None and logits.grad.isfinite().all()


def test_minimising_the_pixel_loss_makes_the_words_say_the_depth() -> None:
    bins = bin_centers(16, 0.5, 80.0)
    loss = PixelLanguageLoss(bins)
    depth = torch.rand(1, 1, 6, 8, generator=torch.Generator().manual_seed(0)) * 60 + 1
    logits = torch.zeros(1, 16, 6, 8, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.5)
    for _ in range(300):
        optimizer.zero_grad()
        loss(logits, depth).backward()
        optimizer.step()
    assert ((language_depth(logits, bins) / depth).log().abs() < 0.02).all()


def test_gradients_are_right() -> None:
    pixels, bins = _random(2, 5, 3, 4).requires_grad_(), torch.tensor([1.0, 2, 4, 8, 16], dtype=torch.float64)
    depth = torch.rand(2, 1, 6, 8, dtype=torch.float64) * 20
    assert torch.autograd.gradcheck(lambda x: pixel_language_loss(x, depth, bins), pixels)


def test_what_does_not_fit_is_named() -> None:
    bins = torch.tensor([1.0, 2.0, 4.0])
    with pytest.raises(InputError, match=r"depth is \(1, 4, 4\); \(B, 1, H, W\) is needed"):
        pixel_language_loss(torch.zeros(1, 3, 1, 1), torch.ones(1, 4, 4), bins)
    with pytest.raises(InputError, match=r"bin_centers is \[4\.0, 2\.0, 1\.0\]; they must rise"):
        pixel_language_loss(torch.zeros(1, 3, 1, 1), torch.ones(1, 1, 4, 4), bins.flip(0))
