"""The depths that prompts stand for, and the depth that the words say."""

from __future__ import annotations

import pytest
import torch

from hybrid_encoder import ConfigError, InputError
from hybrid_encoder.language import bin_centers, language_depth

from helpers.tensors import random_tensor


def test_language_depth_lies_among_the_bins_near_before_far() -> None:
    bins = torch.tensor([0.5, 2.0, 30.0])
    sure = torch.full((1, 3, 1, 3), -50.0)
    for k in range(3):
        sure[0, k, 0, k] = 50.0
    torch.testing.assert_close(language_depth(sure, bins).flatten(), bins)


def test_gradients_are_right() -> None:
    pixels, bins = random_tensor(2, 5, 3, 4).requires_grad_(), torch.tensor([1.0, 2, 4, 8, 16], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: language_depth(x, bins), pixels)


def test_what_does_not_fit_is_named() -> None:
    bins = torch.tensor([1.0, 2.0, 4.0])
    with pytest.raises(InputError, match=r"bin_centers is \[4\.0, 2\.0, 1\.0\]; they must rise"):
        language_depth(torch.zeros(1, 3, 1, 1), bins.flip(0))
    with pytest.raises(InputError, match=r"bin_centers \(3,\); \(B, n, h, w\) and \(n,\)"):
        language_depth(torch.zeros(1, 4, 1, 1), bins)
    with pytest.raises(ConfigError, match=r"4 bin centres from 5 to 2; .* near before far"):
        bin_centers(4, 5, 2)
