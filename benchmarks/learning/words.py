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


def words_apart(logits: Tensor) -> float:
    """Return how far apart the words of a cell are, over how far apart cells are: near 0, all words say one thing.

    Args:
        logits: (N, n, h, w).
    """
    logits = logits.double()
    return float(logits.std(1).mean() / logits.mean(1).std())


def words_explained(logits: Tensor, maps: Tensor) -> float:
    """Return what share of the logits' variance over cells is a linear function of the map beside them (R squared).

    The function is fitted, by least squares, to every other image, and judged on those between.

    Args:
        logits: (N, n, h, w), of two images at least.
        maps: (N, C, h, w).

    Returns:
        At most 1, where a decoder could work the logits out itself; at 0 and below they are all news to it.
    """
    wanted, given = (x.double().movedim(1, -1) for x in (logits, maps))
    given = torch.cat([given, torch.ones_like(given[..., :1])], -1)
    weights = torch.linalg.lstsq(given[::2].flatten(0, 2), wanted[::2].flatten(0, 2)).solution
    judged = wanted[1::2].flatten(0, 2)
    error = given[1::2].flatten(0, 2) @ weights - judged
    return float(1 - error.square().sum() / (judged - judged.mean(0)).square().sum())


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
