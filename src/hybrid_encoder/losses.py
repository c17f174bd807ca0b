"""Losses of language guidance: ordered patches (coarse), pixels among depth words (fine).

Near before far everywhere: patch 0 is the nearest, prompt 0 and depth bin 0 too. Sums are in float32 or finer whatever
the inputs are, and where nothing is there to compare (no lane, no valid pixel) a loss is zero and still carries a
gradient.

Source: Hybrid-depth, ICCV 2025, for the coarse stage. The published fine stage has no loss of its own; what is here
is a cross-entropy between the words and the depth of the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.errors import ConfigError, InputError

LOGIT_SCALE = 100.0  # of likeness between a pixel or patch and a prompt, as published
Sampling = Literal["cell", "box"]


# -- coarse: patches in the order of their depth ----------------------------------------------------------


def patch_ranking_loss(logits: Tensor, two_sided: bool = False) -> Tensor:
    """Hinge on every patch that looks more like a farther patch's word than that patch itself does.

    With S the logits, patch i against prompt j: the sum over i < j of max(0, S[i, j] - S[j, j]), over all lanes.

    Args:
        logits: (..., P, P), P patches from near to far against P prompts from near to far.
        two_sided: take the pairs i > j as well.

    Returns:
        A scalar, summed over the leading axes.

    Raises:
        InputError: not as many prompts as patches.

    Source: Hybrid-depth, ICCV 2025, its stage 1 (a margin ranking loss with margin 0).

    Example:
        >>> patch_ranking_loss(torch.tensor([[3.0, 2.0], [0.0, 1.0]]))
        tensor(1.)
    """
    if logits.ndim < 2 or logits.shape[-1] != logits.shape[-2]:
        raise InputError(
            f"logits is {tuple(logits.shape)}; (..., P, P) is needed: as many prompts as patches in a lane."
        )
    logits = _precise(logits)
    above = (logits - logits.diagonal(dim1=-2, dim2=-1)[..., None, :]).clamp(min=0)
    # The diagonal is zero by itself.
    return above.sum() if two_sided else above.triu(1).sum()


def patch_contrastive_loss(features: Tensor) -> Tensor:
    """Likeness of patches, weighted by how far apart in depth order they are.

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
    features = F.normalize(_precise(features), dim=-1)
    count = features.shape[-2]
    order = torch.arange(count, device=features.device, dtype=features.dtype)
    apart = (order[:, None] - order).abs() / max(1, count - 1)
    alike = (features @ features.transpose(-1, -2) * apart).sum((-2, -1)) / max(1, count) ** 2
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
    """The fused maps at patches, concatenated, resampled to the prompts' channels (nearest) and L2-normalised.

    Args:
        fused: maps (B, C_i, h, w) on one grid, of ``HybridDepthEncoder.forward_features``.
        points: centres of patches (L, P, 2) as (x, y) in pixels of the images, pixel centres at integers.
        index: which image a lane belongs to, (L,).
        image_size: (H, W) of the images.
        channels: D, of the prompts.
        sampling: the grid cell that holds the point, or ``"box"``, the mean of RoIAlign over a box around it.
        box: side of that box in pixels.

    Returns:
        (L, P, D).

    Raises:
        InputError: points or index of another shape.
        ConfigError: another sampling.
    """
    if points.ndim != 3 or points.shape[-1] != 2 or index.shape != points.shape[:1]:
        raise InputError(
            f"points is {tuple(points.shape)} and index {tuple(index.shape)}; (L, P, 2) and (L,) are needed: L lanes "
            "of P patches (x, y), and the image that each belongs to."
        )
    maps = torch.cat(list(fused), dim=1)
    lanes, patches, _ = points.shape
    height, width = maps.shape[-2:]
    scale = points.new_tensor([width / image_size[1], height / image_size[0]])
    if sampling == "cell":
        last = torch.tensor([width - 1, height - 1], device=points.device)
        x, y = ((points + 0.5) * scale).long().clamp(min=0).minimum(last).unbind(-1)
        found = maps[index[:, None], :, y, x]
    elif sampling == "box":
        from torchvision.ops import roi_align

        corners = torch.cat([points - (box - 1) / 2, points + (box + 1) / 2], dim=-1) * torch.cat([scale, scale])
        rows = torch.cat([index[:, None].expand(lanes, patches).unsqueeze(-1), corners], dim=-1).flatten(0, 1)
        # RoIAlign has no bf16 on every device.
        pooled = roi_align(_precise(maps), rows.to(_precise(maps).dtype), output_size=2, aligned=True)
        found = pooled.mean((-2, -1)).unflatten(0, (lanes, patches))
    else:
        raise ConfigError(f"sampling is {sampling!r}; it must be 'cell' or 'box'.")
    nearest = torch.arange(channels, device=maps.device) * maps.shape[1] // channels
    return F.normalize(_precise(found)[..., nearest], dim=-1)


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

    Source: Hybrid-depth, ICCV 2025, its stage 1.

    Example:
        >>> fused = [torch.rand(1, 8, 4, 4) for _ in range(4)]
        >>> points = torch.tensor([[[8.0, 60.0], [30.0, 20.0]]])  # a near and a far one, (x, y)
        >>> loss = CoarsePatchLoss()(fused, torch.eye(2, 32), points, torch.tensor([0]), (64, 64))
        >>> loss.logits.shape
        torch.Size([1, 2, 2])
    """

    def __init__(self, two_sided: bool = False, sampling: Sampling = "cell", box: float = 32.0) -> None:
        super().__init__()
        if sampling not in ("cell", "box"):
            raise ConfigError(f"sampling is {sampling!r}; it must be 'cell' or 'box'.")
        self.two_sided = two_sided
        self.sampling: Sampling = sampling
        self.box = box

    def forward(
        self, fused: Sequence[Tensor], prompts: Tensor, points: Tensor, index: Tensor, image_size: tuple[int, int]
    ) -> CoarseLoss:
        """Fused maps, prompt embeddings (P, D), and patches as in :func:`patch_features`.

        Raises:
            InputError: not as many prompts as patches in a lane.
        """
        features = patch_features(fused, points, index, image_size, prompts.shape[1], self.sampling, self.box)
        logits = LOGIT_SCALE * features @ prompts.to(features.dtype).T
        ranking = patch_ranking_loss(logits, self.two_sided) / max(1, len(fused[0]))
        contrastive = patch_contrastive_loss(features)
        return CoarseLoss(ranking + contrastive, ranking, contrastive, logits)


def patch_order_accuracy(logits: Tensor) -> float:
    """How often the nearer of two patches is said to be nearer in words.

    Every patch gets the mean position of its words under a softmax; of all pairs in a lane, the share in order.

    Args:
        logits: (..., P, n), patches from near to far against prompts from near to far.

    Returns:
        In [0, 1], one half by chance; NaN without a pair.

    Example:
        >>> patch_order_accuracy(torch.eye(3) * 9)
        1.0
    """
    logits = _precise(logits)
    place = torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    position = (logits.softmax(-1) * place).sum(-1)
    count = position.shape[-1]
    near, far = torch.triu_indices(count, count, 1, device=logits.device)
    ordered = position[..., near] < position[..., far]
    return float(ordered.double().mean()) if ordered.numel() else math.nan


# -- fine: every pixel among the depth words --------------------------------------------------------------


def pixel_language_loss(logits: Tensor, depth: Tensor, bin_centers: Tensor, mask: Tensor | None = None) -> Tensor:
    """Cross-entropy between the words of a pixel and its depth.

    The target is soft: log-depth falls between the logs of two bin centres, which share the weight as in linear
    interpolation; depth beyond the ends counts as the end. Where depth is finer than the logits, a cell's log-depth is
    the mean over its valid pixels.

    Args:
        logits: pixels against prompts from near to far, (B, n, h, w).
        depth: detached inside, (B, 1, H, W), in the unit of the bins.
        bin_centers: rising depths that the prompts stand for, (n,).
        mask: valid pixels, bool, (B, 1, H, W); by default where depth is positive and finite.

    Returns:
        A scalar, the mean over cells with a valid pixel; 0 without any.

    Raises:
        InputError: shapes that do not fit, or centres that do not rise from above 0.

    Example:
        >>> logits = torch.tensor([4.0, 0.0, 0.0]).view(1, 3, 1, 1)
        >>> pixel_language_loss(logits, torch.full((1, 1, 1, 1), 2.0), torch.tensor([2.0, 4.0, 8.0]))
        tensor(0.0360)
    """
    _check_pixels(logits, bin_centers)
    if depth.ndim != 4 or depth.shape[:2] != (len(logits), 1) or (mask is not None and mask.shape != depth.shape):
        shapes = f"{tuple(depth.shape)}" + ("" if mask is None else f" and mask {tuple(mask.shape)}")
        raise InputError(f"depth is {shapes}; (B, 1, H, W) is needed, for the {len(logits)} images of the logits.")
    logits = _precise(logits)
    depth = depth.detach()
    valid = (depth > 0) & depth.isfinite()
    if mask is not None:
        valid = valid & mask
    size = (logits.shape[-2], logits.shape[-1])
    share = F.adaptive_avg_pool2d(valid.to(logits.dtype), size)
    place = F.adaptive_avg_pool2d(torch.where(valid, depth, 1).to(logits.dtype).log() * valid, size)
    target = _among(place / share.clamp(min=1e-12), bin_centers.to(logits).log())
    loss = -(target * logits.log_softmax(1)).sum(1, keepdim=True)
    seen = share > 0
    return torch.where(seen, loss, 0).sum() / seen.sum().clamp(min=1)


def language_depth(logits: Tensor, bin_centers: Tensor) -> Tensor:
    """The depth that the words say: the mean of log-depth under a softmax over near-to-far prompts.

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
    _check_pixels(logits, bin_centers)
    logits = _precise(logits)
    place = bin_centers.to(logits).log()[:, None, None]
    return (logits.softmax(1) * place).sum(1, keepdim=True).exp()


def bin_centers(count: int, near: float = 0.1, far: float = 100.0) -> Tensor:
    """The depths that prompts stand for, from near to far and even in log-depth, (count,).

    Raises:
        ConfigError: fewer than 2, or not 0 < near < far.

    Example:
        >>> bin_centers(4, 1.0, 8.0)
        tensor([1., 2., 4., 8.])
    """
    if count < 2 or not 0 < near < far < math.inf:
        raise ConfigError(
            f"{count} bin centres from {near} to {far}; at least 2 and 0 < near < far are needed: near before far."
        )
    return torch.linspace(math.log(near), math.log(far), count, dtype=torch.float64).exp().float()


class PixelLanguageLoss(nn.Module):
    """:func:`pixel_language_loss` with bin centres of its own, even in log-depth.

    Args:
        count: n, of the prompts.
        near, far: the first and the last centre.
    """

    bin_centers: Tensor

    def __init__(self, count: int, near: float = 0.1, far: float = 100.0) -> None:
        super().__init__()
        self.register_buffer("bin_centers", bin_centers(count, near, far), persistent=False)

    def forward(self, logits: Tensor, depth: Tensor, mask: Tensor | None = None) -> Tensor:
        """As the function."""
        return pixel_language_loss(logits, depth, self.bin_centers, mask)

    def depth(self, logits: Tensor) -> Tensor:
        """:func:`language_depth` with these centres."""
        return language_depth(logits, self.bin_centers)


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _among(place: Tensor, centers: Tensor) -> Tensor:
    """Weights (B, n, h, w) of rising centres (n,) for places (B, 1, h, w): two share one, as in interpolation."""
    place = place.clamp(centers[0], centers[-1])
    upper = torch.searchsorted(centers, place.contiguous()).clamp(1, len(centers) - 1)
    low, high = centers[upper - 1], centers[upper]
    weight = (place - low) / (high - low)
    target = place.new_zeros(len(place), len(centers), *place.shape[2:])
    return target.scatter(1, upper - 1, 1 - weight).scatter(1, upper, weight)


def _check_pixels(logits: Tensor, bin_centers: Tensor) -> None:
    if logits.ndim != 4 or bin_centers.shape != logits.shape[1:2] or len(bin_centers) < 2:
        raise InputError(
            f"logits is {tuple(logits.shape)} and bin_centers {tuple(bin_centers.shape)}; (B, n, h, w) and (n,) are "
            "needed: a depth for every prompt, at least two."
        )
    # Looking at values stalls an accelerator, so that only centres on the CPU are looked at.
    if bin_centers.device.type == "cpu" and not (bin_centers[0] > 0 and (bin_centers.diff() > 0).all()):
        raise InputError(f"bin_centers is {bin_centers.tolist()}; they must rise from above 0: near before far.")
