"""What the words say about the order of depth, on random pairs of pixels, beside what the image's row alone says.

On a street, the lower of two pixels is mostly the nearer one, so that whoever knows nothing but the row puts most pairs
in order. What is learned shows on the pairs whose row is wrong: their nearer pixel lies higher in the image. A guess is
right in half of either.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hybrid_encoder.data.ordered import ordered_points_from_depth
from hybrid_encoder.errors import InputError
from hybrid_encoder.losses.coarse import in_order, patch_cells, word_positions

if TYPE_CHECKING:
    from hybrid_encoder.models.depth import HybridDepthModel
    from hybrid_encoder.models.sizes import WorkingSize

PAIRS = 1000  # of one image
RATIO = 1.1  # of the two depths of a pair, at least


@dataclass(frozen=True)
class WordOrder:
    """How often random pairs of pixels are put in the right order; a tie counts one half, as a coin would give.

    A share of no pairs is NaN, and so is that of words or depth that were not given.

    Args:
        words: share of all pairs whose nearer pixel is nearer in words.
        words_row_wrong: the same over the pairs whose nearer pixel lies higher in the image.
        depth, depth_row_wrong: the same by the depth that was predicted.
        row: share of all pairs whose nearer pixel lies lower in the image. Over the pairs whose row is wrong it is 0.
        num_pairs, num_row_wrong: how many pairs there are.
    """

    words: float
    words_row_wrong: float
    depth: float
    depth_row_wrong: float
    row: float
    num_pairs: int
    num_row_wrong: int

    @property
    def has_words(self) -> bool:
        """Whether words were given, and pairs for them."""
        return not math.isnan(self.words)

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the numbers by name, as JSON has them: None where there is none."""
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}

    @classmethod
    def pooled(cls, orders: Iterable[WordOrder]) -> WordOrder:
        """Return the order of all pairs of several images; every pair has the same weight."""
        found = list(orders)
        pairs = [order.num_pairs for order in found]
        wrong = [order.num_row_wrong for order in found]
        return cls(
            _mean([order.words for order in found], pairs),
            _mean([order.words_row_wrong for order in found], wrong),
            _mean([order.depth for order in found], pairs),
            _mean([order.depth_row_wrong for order in found], wrong),
            _mean([order.row for order in found], pairs),
            sum(pairs),
            sum(wrong),
        )


def word_order(
    logits: Tensor | None,
    truth: Tensor,
    *,
    depth: Tensor | None = None,
    pairs: int = PAIRS,
    ratio: float = RATIO,
    seed: int | str = 0,
) -> WordOrder:
    """Measure the order of random pairs of one image's pixels.

    A pixel's words are those of the grid cell that holds it, as in the coarse stage; its place among them is the mean
    index of the prompts under a softmax.

    Args:
        logits: of the image, (n, h, w), against prompts from near to far; None without words.
        truth: depth of any scale, (H, W), dense or sparse; a pixel is valid where it is positive and finite.
        depth: what was predicted, of any scale, (H, W).
        pairs: how many to draw.
        ratio: of the two depths of a pair, at least; above 1.
        seed: of the draw: a number, or a name to make one of. Equal seeds and truths give equal pairs.

    Returns:
        Its shares are NaN where the truth has no such pair.

    Raises:
        InputError: maps of another shape, or an option out of its range.

    Example:
        >>> truth = torch.tensor([[9.0, 9.0], [3.0, 1.0]])
        >>> words = torch.tensor([[[0.0, 0.0], [1.0, 2.0]], [[2.0, 2.0], [1.0, 0.0]]])  # "near" and "far"
        >>> found = word_order(words, truth)
        >>> found.words, found.row > 0.5, found.num_row_wrong
        (1.0, True, 0)
    """
    points = random_pairs(truth, pairs, ratio, seed)
    size = (truth.shape[0], truth.shape[1])
    rows = points[..., 1]
    wrong = rows[:, 0] < rows[:, 1]
    said: Tensor | None = None
    if logits is not None:
        if logits.ndim != 3 or not logits.is_floating_point():
            raise InputError(
                f"logits is {tuple(logits.shape)} of {logits.dtype}; those of one image are needed, (n, h, w): take "
                "one image of a batch."
            )
        position = word_positions(logits.detach().cpu().movedim(0, -1))
        x, y = patch_cells(points, size, (position.shape[0], position.shape[1])).unbind(-1)
        said = position[y, x]
    seen: Tensor | None = None
    if depth is not None:
        if depth.shape != truth.shape:
            raise InputError(
                f"depth is {tuple(depth.shape)} and truth {size}; both must have one size: resize the prediction."
            )
        x, y = points.long().unbind(-1)
        seen = depth.detach().cpu()[y, x]
    words, words_wrong = order_shares(said, wrong)
    by_depth, by_depth_wrong = order_shares(seen, wrong)
    row, _ = order_shares(-rows, wrong)
    return WordOrder(words, words_wrong, by_depth, by_depth_wrong, row, len(points), int(wrong.sum()))


def measure_word_order(
    model: HybridDepthModel,
    images: Sequence[Any],
    truths: Sequence[Tensor],
    size: WorkingSize = None,
    *,
    pairs: int = PAIRS,
    ratio: float = RATIO,
    seed: int = 0,
) -> WordOrder:
    """Measure the order of a model's words and of its depth, over all pairs of several images.

    Args:
        model: with prompts.
        images: pictures, as ``infer`` takes them.
        truths: their depth, (H, W) each, at the size of the picture or of another size of the same view.
        size: to work at, as for ``infer``.
        pairs: to draw of each image.
        ratio: as for :func:`word_order`.
        seed: of the first image; the others have the numbers that follow.

    Raises:
        InputError: a model without prompts, another number of truths than of images, or a picture that cannot be read.
    """
    if len(images) != len(truths) or not len(images):
        raise InputError(f"there are {len(images)} images and {len(truths)} truths; give each image its depth.")
    found = []
    for index, (image, truth) in enumerate(zip(images, truths, strict=True)):
        prediction = model.infer(image, size, words=True)
        assert prediction.words is not None  # it was asked for
        height, width = truth.shape[-2:]
        depth = torch.nn.functional.interpolate(prediction.depth[None].cpu(), (height, width), mode="nearest-exact")
        said = prediction.words.logits
        found.append(word_order(said, truth, depth=depth[0, 0], pairs=pairs, ratio=ratio, seed=seed + index))
    return WordOrder.pooled(found)


def random_pairs(truth: Tensor, pairs: int = PAIRS, ratio: float = RATIO, seed: int | str = 0) -> Tensor:
    """Draw pairs of pixels with known depth, the nearer one first; all pairs that are far enough apart are equally
    likely.

    Args:
        truth, pairs, ratio, seed: as for :func:`word_order`.

    Returns:
        (P, 2, 2), float32, (x, y) on the CPU; (0, 2, 2) where there is no such pair.

    Raises:
        InputError: as :func:`word_order`.
    """
    number = zlib.crc32(seed.encode()) if isinstance(seed, str) else seed
    if type(pairs) is not int or pairs < 1:
        raise InputError(f"pairs is {pairs}; it must be a whole number of at least 1.")
    if type(number) is not int or not 0 <= number < 2**63:
        raise InputError(f"seed is {seed}; it must be a name, or a whole number from 0 to 2**63 - 1.")
    generator = torch.Generator().manual_seed(number)
    return ordered_points_from_depth(truth.cpu(), 2, pairs, ratio, generator)


def order_shares(values: Tensor | None, row_wrong: Tensor) -> tuple[float, float]:
    """Return how often the nearer pixel has the smaller value: over all pairs, and over those whose row is wrong.

    Args:
        values: (P, 2), the nearer pixel first; None where there are none.
        row_wrong: bool, (P,).

    Returns:
        Two shares in [0, 1], a tie counted as one half; NaN where there is no pair, or no value.
    """
    if values is None:
        return math.nan, math.nan
    if not values.isfinite().all():
        raise InputError(
            f"{int((~values.isfinite()).sum())} of {values.numel()} values to be put in order are not finite; all must "
            "be: the logits or the depth hold NaN or infinity."
        )
    right = in_order(values[:, 0], values[:, 1])
    return float(right.mean()), float(right[row_wrong].mean())


def _mean(shares: Sequence[float], counts: Sequence[int]) -> float:
    """Return the mean of shares by how many pairs each is of; NaN where there is no pair."""
    known = [(share, count) for share, count in zip(shares, counts, strict=True) if count]
    total = sum(count for _, count in known)
    return sum(share * count for share, count in known) / total if total else math.nan
