"""The order that words and depth give to pairs of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.learning.worlds import HeldOut


def word_positions(logits: Sequence[Tensor], measured: HeldOut) -> Tensor:
    """Return where on the scale of words, from near to far, the pixels of all pairs are, (P, 2).

    A position is the mean index of the words under a softmax of the levels' mean, in the cell that holds the pixel.

    Args:
        logits: of all held-out frames, four (N, n, h, w).
        measured: whose pairs are read.
    """
    position = mean_word(torch.stack(list(logits)).mean(0), 1)
    height, width = measured.images.shape[-2:]
    return at_pixels(position, measured, (position.shape[-2] / height, position.shape[-1] / width))


def mean_word(logits: Tensor, dim: int) -> Tensor:
    """Return the mean index of the words under a softmax over one axis, in float64, without that axis."""
    scores = logits.double().movedim(dim, -1).softmax(-1)
    return (scores * torch.arange(scores.shape[-1], dtype=scores.dtype)).sum(-1)


def at_pixels(maps: Tensor, measured: HeldOut, scale: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """Read maps (N, h, w) at the pixels of all pairs, (P, 2); ``scale`` is cells over pixels, down and across."""
    x = ((measured.pairs[..., 0] + 0.5) * scale[1]).long().clamp(0, maps.shape[-1] - 1)
    y = ((measured.pairs[..., 1] + 0.5) * scale[0]).long().clamp(0, maps.shape[-2] - 1)
    return maps[measured.index[:, None], y, x]


def order_shares(values: Tensor, row_wrong: Tensor) -> tuple[float, float]:
    """Return how often the nearer pixel has the smaller value: over all pairs, and over those whose row is wrong.

    Equal values count one half, as a coin would give: a constant is at one half.

    Args:
        values: (P, 2), the nearer pixel first.
        row_wrong: bool, (P,).

    Returns:
        Two shares in [0, 1]; NaN where there is no pair.
    """
    right = (values[:, 0] < values[:, 1]).double() + 0.5 * (values[:, 0] == values[:, 1]).double()
    return float(right.mean()), float(right[row_wrong].mean())
