"""The order that words and depth give to pairs of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.learning.worlds import HeldOut
from hybrid_encoder.losses import coarse


def word_positions(logits: Sequence[Tensor], measured: HeldOut) -> Tensor:
    """Return where on the scale of words, from near to far, the pixels of all pairs are, (P, 2).

    A position is the mean index of the words under a softmax of the levels' mean, in the cell that holds the pixel.

    Args:
        logits: of all held-out frames, four (N, n, h, w).
        measured: whose pairs are read.
    """
    return at_pixels(mean_word(torch.stack(list(logits)).mean(0), 1), measured)


def words_apart(logits: Tensor) -> float:
    """Return how far apart the words of a cell are, over how far apart cells are: near 0, all words say one thing.

    Args:
        logits: (N, n, h, w).
    """
    logits = logits.double()
    return float(logits.std(1).mean() / logits.mean(1).std())


def words_spread(logits: Tensor) -> float:
    """Return how much the cells of all images differ: the standard deviation of a word's logits, mean over the words.

    Args:
        logits: (N, n, h, w).
    """
    return float(logits.double().movedim(1, 0).flatten(1).std(1).mean())


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
    return coarse.word_positions(logits.double().movedim(dim, -1))


def at_pixels(maps: Tensor, measured: HeldOut) -> Tensor:
    """Read maps over the whole images, (N, h, w), in the cells that hold the pixels of all pairs, (P, 2)."""
    size, grid = ((x.shape[-2], x.shape[-1]) for x in (measured.images, maps))
    x, y = coarse.patch_cells(measured.pairs, size, grid).unbind(-1)
    return maps[measured.index[:, None], y, x]
