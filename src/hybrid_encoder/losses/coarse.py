"""The coarse stage's losses: patches in the order of their depth, compared with depth words.

Near before far: patch 0 and prompt 0 are the nearest. Sums are in float32 or finer whatever the inputs are, and without
a lane a loss is zero and still carries a gradient.

Source: Hybrid-depth, ICCV 2025, its stage 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.similarity import LOGIT_SCALE, at_least_float32, nearest_channels

Sampling = Literal["cell", "box"]


def patch_ranking_loss(logits: Tensor, two_sided: bool = False, margin: float = 0.0) -> Tensor:
    """Penalise every patch that is more similar to a farther patch's word than that patch itself is.

    With S the logits, patch i against prompt j: the sum over i < j of max(0, S[i, j] - S[j, j] + m[i, j]), over all
    lanes, with m[i, j] = margin x |i - j| / (P - 1). With a margin of 0 the loss vanishes, too, where all logits shrink
    towards one value, which is easier than an order.

    Args:
        logits: (..., P, P), P patches from near to far against P prompts from near to far.
        two_sided: take the pairs i > j as well.
        margin: by how much a patch at one end of a lane must be more similar to its word than the patch at the other
            end is, in units of the logits; patches nearer to each other in order, by their share of it.

    Returns:
        A scalar, summed over the leading axes.

    Raises:
        InputError: not as many prompts as patches.
        ConfigError: a margin below 0, or infinite.

    Source: Hybrid-depth, ICCV 2025, its stage 1 (a margin ranking loss with margin 0).

    Example:
        >>> patch_ranking_loss(torch.tensor([[3.0, 2.0], [0.0, 1.0]]))
        tensor(1.)
    """
    if logits.ndim < 2 or logits.shape[-1] != logits.shape[-2]:
        raise InputError(
            f"logits is {tuple(logits.shape)}; (..., P, P) is needed: as many prompts as patches in a lane."
        )
    _check_margin(margin)
    logits = at_least_float32(logits)
    needed = margin * _apart(logits.shape[-1], logits)
    above = (logits - logits.diagonal(dim1=-2, dim2=-1)[..., None, :] + needed).clamp(min=0)
    # The diagonal is zero by itself.
    return above.sum() if two_sided else above.triu(1).sum()


def _check_margin(margin: float) -> None:
    if not 0 <= margin < math.inf:
        raise ConfigError(f"margin is {margin}; it must be 0 or more, and finite.")


def _apart(count: int, like: Tensor) -> Tensor:
    """Return how far apart in order the patches of a lane are, (P, P), as a share of the largest distance."""
    order = torch.arange(count, device=like.device, dtype=like.dtype)
    return (order[:, None] - order).abs() / max(1, count - 1)


def patch_contrastive_loss(features: Tensor) -> Tensor:
    """Penalise the similarity of patches, the more the farther apart in depth order they are.

    The sum over i, j of |i - j| / (P - 1) x cos(patch_i, patch_j), divided by P squared; the mean over lanes.

    Args:
        features: (..., P, C), patches of a lane from near to far.

    Returns:
        A scalar in [-1, 1]; 0 without a lane.

    Source: Hybrid-depth, ICCV 2025, its stage 1.

    Example:
        >>> patch_contrastive_loss(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        tensor(0.5000)
    """
    if features.ndim < 2:
        raise InputError(f"features is {tuple(features.shape)}; (..., P, C) is needed.")
    features = F.normalize(at_least_float32(features), dim=-1)
    count = features.shape[-2]
    alike = (features @ features.transpose(-1, -2) * _apart(count, features)).sum((-2, -1)) / max(1, count) ** 2
    return alike.sum() / max(1, alike.numel())


def patch_features(
    fused: Sequence[Tensor],
    points: Tensor,
    index: Tensor,
    image_size: tuple[int, int],
    channels: int,
    sampling: Sampling = "cell",
    box: float = 32.0,
) -> Tensor:
    """Read the fused maps at patches: concatenated, resampled to the prompts' channels (nearest), L2-normalised.

    Args:
        fused: maps (B, C_i, h, w) on one grid, of ``HybridDepthEncoder.forward_features``.
        points: centres of patches (L, P, 2) as (x, y) in pixels of the images, pixel centres at integers.
        index: which image a lane belongs to, (L,).
        image_size: (H, W) of the images.
        channels: D, of the prompts.
        sampling: the grid cell that holds the point, or ``"box"``, the mean of RoIAlign over a box around it.
        box: side of that box in pixels.

    Returns:
        (L, P, D). On an accelerator, where looking at values would stall it, a patch at NaN or of an image that does
        not exist is NaN; on the CPU it is an error.

    Raises:
        InputError: points or index of another shape, points that are NaN or infinite, or an index of no image.
        ConfigError: another sampling.
    """
    if points.ndim != 3 or points.shape[-1] != 2 or index.shape != points.shape[:1]:
        raise InputError(
            f"points is {tuple(points.shape)} and index {tuple(index.shape)}; (L, P, 2) and (L,) are needed: L lanes "
            "of P patches (x, y), and the image that each belongs to."
        )
    if not points.is_floating_point() or index.is_floating_point() or index.dtype == torch.bool:
        raise InputError(
            f"points is of {points.dtype} and index of {index.dtype}; fractions and whole numbers are needed: points "
            "in pixels, and the image that each lane belongs to."
        )
    maps = torch.cat(list(fused), dim=1)
    lanes, patches, _ = points.shape
    known = (index >= 0) & (index < len(maps)) & points.isfinite().all(-1).all(-1)
    if known.device.type == "cpu" and not torch.compiler.is_compiling() and not known.all():
        lane = int((~known).nonzero()[0])
        raise InputError(
            f"lane {lane} has index {index[lane].item()} and points {points[lane].tolist()}; an index from 0 to "
            f"{len(maps) - 1} and finite points are needed."
        )
    index = index.where(known, 0).long()
    points = points.where(known[:, None, None], 0)
    height, width = maps.shape[-2:]
    if sampling == "cell":
        x, y = patch_cells(points, image_size, (height, width)).unbind(-1)
        found = maps[index[:, None], :, y, x]
    elif sampling == "box":
        from torchvision.ops import roi_align

        scale = points.new_tensor([width / image_size[1], height / image_size[0]])
        corners = torch.cat([points - (box - 1) / 2, points + (box + 1) / 2], dim=-1) * torch.cat([scale, scale])
        rows = torch.cat([index[:, None].expand(lanes, patches).unsqueeze(-1), corners], dim=-1).flatten(0, 1)
        # RoIAlign has no bf16 on every device.
        pooled = roi_align(at_least_float32(maps), rows.to(at_least_float32(maps).dtype), output_size=2, aligned=True)
        found = pooled.mean((-2, -1)).unflatten(0, (lanes, patches))
    else:
        raise ConfigError(f"sampling is {sampling!r}; it must be 'cell' or 'box'.")
    found = found.where(known[:, None, None], math.nan)
    nearest = nearest_channels(maps.shape[1], channels, maps.device)
    return F.normalize(at_least_float32(found)[..., nearest], dim=-1)


def patch_cells(points: Tensor, image_size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return which cells of a grid over an image hold these points; points outside have the nearest cell.

    Args:
        points: (..., 2) as (x, y) in pixels of the image, pixel centres at integers.
        image_size: (H, W) of the image.
        grid: (h, w), how many cells it is divided into.

    Returns:
        (..., 2), int64, (column, row).
    """
    scale = points.new_tensor([grid[1] / image_size[1], grid[0] / image_size[0]])
    last = torch.tensor([grid[1] - 1, grid[0] - 1], device=points.device)
    return ((points + 0.5) * scale).long().clamp(min=0).minimum(last)


class CoarseLoss(NamedTuple):
    """The coarse stage's loss and its parts, scalars; ``logits`` are those of patches against prompts, (L, P, P)."""

    total: Tensor
    ranking: Tensor
    contrastive: Tensor
    logits: Tensor


class CoarsePatchLoss(nn.Module):
    """Patches in the order of their depth, compared with the depth words and with each other.

    Ranking loss, summed over lanes and divided by the number of images, plus contrastive loss, the mean over lanes.

    Args:
        two_sided: of the ranking loss.
        sampling: how patches are read off the maps: ``"cell"`` or ``"box"`` (see :func:`patch_features`).
        box: side of a patch in pixels, for ``"box"``.
        margin: of :func:`patch_ranking_loss`, in units of the logits, which are 100 times a cosine over the square
            root of the number of prompts, as ``DepthPrompts`` scales these.

    Source: Hybrid-depth, ICCV 2025, its stage 1.

    Example:
        >>> fused = [torch.rand(1, 8, 4, 4) for _ in range(4)]
        >>> points = torch.tensor([[[8.0, 60.0], [30.0, 20.0]]])  # a near and a far one, (x, y)
        >>> loss = CoarsePatchLoss()(fused, torch.eye(2, 32), points, torch.tensor([0]), (64, 64))
        >>> loss.logits.shape
        torch.Size([1, 2, 2])
    """

    def __init__(
        self, two_sided: bool = False, sampling: Sampling = "cell", box: float = 32.0, margin: float = 0.0
    ) -> None:
        super().__init__()
        if sampling not in ("cell", "box"):
            raise ConfigError(f"sampling is {sampling!r}; it must be 'cell' or 'box'.")
        if not 0 < box < math.inf:
            raise ConfigError(f"box is {box}; it must be above 0 and finite.")
        _check_margin(margin)
        self.two_sided = two_sided
        self.sampling: Sampling = sampling
        self.box = box
        self.margin = margin

    def forward(
        self, fused: Sequence[Tensor], prompts: Tensor, points: Tensor, index: Tensor, image_size: tuple[int, int]
    ) -> CoarseLoss:
        """Fused maps, prompt embeddings (P, D), and patches as in :func:`patch_features`.

        Raises:
            InputError: not as many prompts as patches in a lane.
        """
        features = patch_features(fused, points, index, image_size, prompts.shape[1], self.sampling, self.box)
        logits = LOGIT_SCALE * features @ prompts.to(features.dtype).T
        ranking = patch_ranking_loss(logits, self.two_sided, self.margin) / max(1, len(fused[0]))
        contrastive = patch_contrastive_loss(features)
        return CoarseLoss(ranking + contrastive, ranking, contrastive, logits)

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any


def patch_order_accuracy(logits: Tensor) -> float:
    """Return how often the words put two patches in the right order.

    A patch's position is the mean index of its words under a softmax; counted is the share of all pairs in a lane
    whose positions are in order. A tie counts one half.

    Args:
        logits: (..., P, n), patches from near to far against prompts from near to far.

    Returns:
        In [0, 1], one half by chance; NaN without a pair, or where logits are not finite.

    Example:
        >>> patch_order_accuracy(torch.eye(3) * 9)
        1.0
        >>> patch_order_accuracy(torch.zeros(3, 3))
        0.5
    """
    position = word_positions(logits)
    count = position.shape[-1]
    near, far = torch.triu_indices(count, count, 1, device=logits.device)
    ordered = in_order(position[..., near], position[..., far])
    return float(ordered.mean()) if ordered.numel() else math.nan


def in_order(near: Tensor, far: Tensor) -> Tensor:
    """Return 1 where a value is less than the other, 0 where it is greater, one half where both are equal.

    Args:
        near, far: of one shape, or such that fit together.

    Returns:
        float64; NaN where a value is NaN.
    """
    ordered = (near < far).double() + 0.5 * (near == far).double()
    return torch.where(near.isnan() | far.isnan(), math.nan, ordered)


def word_positions(logits: Tensor) -> Tensor:
    """Return where on the scale of the words a patch is, from 0, the nearest, to n - 1: the mean index under a softmax.

    Args:
        logits: (..., n), against prompts from near to far.

    Returns:
        (...), float32 or finer.

    Example:
        >>> word_positions(torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])).round(decimals=2)
        tensor([1., 0.])
    """
    logits = at_least_float32(logits)
    place = torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    return (logits.softmax(-1) * place).sum(-1)
