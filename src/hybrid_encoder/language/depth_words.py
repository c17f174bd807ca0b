"""The depths that prompts stand for, and the depth that the words say."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybrid_encoder.errors import ConfigError
from hybrid_encoder.losses.pixel_language import check_logits_and_bins
from hybrid_encoder.similarity import at_least_float32


def bin_centers(num_bins: int, near: float = 0.1, far: float = 100.0) -> Tensor:
    """Return the depths that prompts stand for, near to far and evenly spaced in log-depth, (num_bins,).

    Args:
        num_bins: how many, from 2 up; one for each prompt.
        near, far: the first and the last of them.

    Raises:
        ConfigError: fewer than 2, or not 0 < near < far.

    Example:
        >>> bin_centers(4, 1.0, 8.0)
        tensor([1., 2., 4., 8.])
    """
    numbers = isinstance(num_bins, int) and all(isinstance(depth, (int, float)) for depth in (near, far))
    if not numbers or num_bins < 2 or not 0 < near < far < math.inf:
        raise ConfigError(
            f"{num_bins} bin centres from {near} to {far}; at least 2 and 0 < near < far are needed: near before far."
        )
    return torch.linspace(math.log(near), math.log(far), num_bins, dtype=torch.float64).exp().float()


def language_depth(logits: Tensor, bin_centers: Tensor) -> Tensor:
    """Return the depth that the words say: the mean of log-depth under a softmax over near-to-far prompts.

    Args:
        logits: (B, n, h, w).
        bin_centers: rising depths that the prompts stand for, (n,).

    Returns:
        (B, 1, h, w), in the unit of the bins and between the first and the last of them.

    Raises:
        InputError: shapes that do not fit, or centres that do not rise from above 0.

    Example:
        >>> language_depth(torch.zeros(1, 3, 1, 1), torch.tensor([1.0, 10.0, 100.0])).item()
        10.0
    """
    check_logits_and_bins(logits, bin_centers)
    logits = at_least_float32(logits)
    place = bin_centers.to(logits).log()[:, None, None]
    return (logits.softmax(1) * place).sum(1, keepdim=True).exp()
