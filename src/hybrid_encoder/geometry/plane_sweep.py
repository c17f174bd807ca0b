"""ManyDepth's plane sweep: lookup frames matched against the current one at a set of depths.

Source: Watson et al., "The Temporal Opportunist: Self-Supervised Multi-Frame Monocular Depth" (ManyDepth), CVPR 2021.
Depth bins go from near to far. Poses are ``lookup_T_current``: they take points of the current camera to a lookup
camera. ``K`` and ``inv_K`` are in pixels of the feature map (ManyDepth's scale 2 for maps at a quarter of the image).
"""

from __future__ import annotations

import math
import warnings
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.geometry.camera import pixel_coordinates

Spacing = Literal["linear", "inverse"]

BORDER = 2  # pixels along the edge of a feature map that zero padding has influenced
CHUNK = {"cpu": 2**21}  # warped numbers held at once: what a processor's cache can hold
CHUNK_ELSEWHERE = 2**25
FEW_CHANNELS = 32  # with fewer, the sampling positions need more memory than the samples


def depth_bins(min_depth: float, max_depth: float, num_bins: int, spacing: Spacing = "linear") -> Tensor:
    """Return the depths to try, near to far, (num_bins,).

    Args:
        min_depth, max_depth: the first and the last of them, in the unit of the poses.
        num_bins: how many, from 2 up.
        spacing: even steps in depth (``"linear"``) or in 1 / depth (``"inverse"``).

    Raises:
        InputError: the range is not positive and finite.
        ConfigError: another spacing, or fewer than 2 bins.
    """
    try:
        low, high = float(min_depth), float(max_depth)
    except (TypeError, ValueError):
        raise InputError(f"the depth bins go from {min_depth!r} to {max_depth!r}; two numbers are needed.") from None
    if not 0 < low < high < math.inf:
        raise InputError(
            f"the depth bins go from {low:.4g} to {high:.4g}; 0 < min_depth < max_depth is needed: near before far."
        )
    if num_bins < 2:
        raise ConfigError(f"the number of depth bins is {num_bins}; it must be at least 2.")
    if spacing == "linear":
        return torch.linspace(low, high, num_bins, dtype=torch.float64).float()
    if spacing == "inverse":
        return (1 / torch.linspace(1 / low, 1 / high, num_bins, dtype=torch.float64)).float()
    raise ConfigError(f"the spacing of depth bins is {spacing!r}; it must be 'linear' or 'inverse'.")


def plane_sweep_cost_volume(
    current: Tensor, lookup: Tensor, poses: Tensor, K: Tensor, inv_K: Tensor, depth_bins: Tensor
) -> tuple[Tensor, Tensor]:
    """Return how badly lookup frames, warped into the current view, fit it at each depth.

    An entry is the mean absolute difference of the features, averaged over the lookup frames that see the pixel at
    that depth: it lies in front of the lookup camera, and at least 2 pixels inside both views. Entries that no frame
    sees take the pixel's largest cost. Nothing carries a gradient, and sums are in float32 whatever the features are.

    Args:
        current: features, (B, C, h, w).
        lookup: features of N >= 1 lookup frames, (B, N, C, h, w).
        poses: ``lookup_T_current``, (B, N, 4, 4); a matrix of zeros marks a frame that is missing.
        K, inv_K: intrinsics in pixels of the features and their inverse, (B, 4, 4).
        depth_bins: rising depths, (D,), or (B, D) with bins for each item.

    Returns:
        The cost, float32, and which entries no frame sees, bool; both (B, D, h, w).

    Raises:
        InputError: shapes that do not fit each other, NaN, bins that do not rise, an ``inv_K`` that is not the inverse
            of ``K``. On an accelerator, checking these values waits for it once.

    Warns:
        UserWarning: the principal point lies outside the feature map, so ``K`` is of another scale.
    """
    check_features(current, lookup)
    check_geometry(poses, K, inv_K, depth_bins, lookup.shape[:2], current.shape[-2:])
    return sweep(current, lookup, poses, K, inv_K, depth_bins)


@torch.no_grad()
def sweep(
    current: Tensor, lookup: Tensor, poses: Tensor, K: Tensor, inv_K: Tensor, depth_bins: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute ``plane_sweep_cost_volume`` of inputs that have been checked before."""
    (batch, frames, channels, height, width), device = lookup.shape, lookup.device
    size = height * width
    table = rearrange(lookup, "b n c h w -> (b n h w) c").float().contiguous()
    here = current.flatten(2).transpose(1, 2)
    bins = depth_bins.to(device, torch.float32).expand(batch, -1)
    projection = _product(K[:, None], poses)
    unprojection = inv_K[:, :3, :3].float()

    cost = torch.zeros(batch * size, bins.shape[1], device=device)
    missing = torch.ones_like(cost, dtype=torch.bool)
    pixels = pixel_coordinates(height, width, device).T
    inner = torch.arange(batch * size, device=device).view(batch, height, width)
    inner = inner[:, BORDER:-BORDER, BORDER:-BORDER].flatten()
    block = CHUNK.get(device.type, CHUNK_ELSEWHERE) // (frames * bins.shape[1] * max(channels, FEW_CHANNELS))
    # Pixel by pixel: the depths of one pixel lie along one line of each lookup frame, which then stays in the cache.
    for index in inner.split(max(1, block)):
        item, pixel = index // size, index % size
        direction = (unprojection[item] * pixels[pixel][:, None]).sum(-1)
        x, y, z = _project(projection[item], direction[..., None] * bins[item][:, None])
        x, y = _rounded(x / z, width), _rounded(y / z, height)
        seen = (z > 0) & (x >= BORDER) & (x <= width - BORDER) & (y >= BORDER) & (y <= height - BORDER)
        x, y = (torch.where(seen, value, BORDER) for value in (x, y))
        warped = _sample(table, (item[:, None] * frames + torch.arange(frames, device=device)) * size, x, y, width)
        warped -= here[item, pixel][:, None, None]
        total = warped.abs_().mean(-1).where(seen, 0).sum(1)
        count = seen.sum(1)
        unseen = count == 0
        mean = total / count.clamp(min=1)
        cost[index] = torch.where(unseen, mean.amax(1, keepdim=True), mean)
        missing[index] = unseen

    def to_volume(rows: Tensor) -> Tensor:
        return rearrange(rows, "(b h w) d -> b d h w", h=height, w=width).contiguous()

    return to_volume(cost), to_volume(missing)


def lowest_cost_disparity(cost: Tensor, depth_bins: Tensor) -> Tensor:
    """Return 1 / depth of the cheapest bin, the nearest one where several are equal.

    Args:
        cost: (B, D, h, w).
        depth_bins: (D,) or (B, D).

    Returns:
        (B, h, w).
    """
    cheapest = cost.argmin(1)
    bins = depth_bins.to(cost.device).expand(len(cost), -1)
    return 1 / bins.gather(1, cheapest.flatten(1)).view_as(cheapest)


def confidence_mask(missing: Tensor) -> Tensor:
    """Return where every depth was seen, 1 or 0: bool (B, D, h, w) to float32 (B, h, w)."""
    return (~missing.any(1)).float()


def check_features(current: Tensor, lookup: Tensor, names: tuple[str, str] = ("current", "lookup")) -> None:
    """Raise InputError unless there are one or more lookup maps (B, N, C, h, w) for the maps (B, C, h, w)."""
    check_tensors(**dict(zip(names, (current, lookup), strict=True)))
    one, many = (tuple(x.shape) for x in (current, lookup))
    if len(one) != 4 or len(many) != 5 or one != (many[0], *many[2:]):
        raise InputError(
            f"{names[0]} has the shape {one} and {names[1]} {many}; (B, C, H, W) and (B, N, C, H, W) are needed: "
            "the same items and sizes, with N lookup frames."
        )
    if many[1] == 0:
        raise InputError(
            f"{names[1]} has no frame (its shape is {many}); at least one is needed: "
            "mark a missing frame by a pose matrix of zeros."
        )


def check_tensors(**values: object) -> None:
    """Raise InputError unless all of these are tensors of real numbers."""
    for name, value in values.items():
        if not isinstance(value, Tensor) or value.is_complex():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{name} is of the type {kind}; a tensor of real numbers is needed.")


def check_geometry(
    poses: Tensor, K: Tensor, inv_K: Tensor, depth_bins: Tensor, frames: tuple[int, ...], size: tuple[int, ...]
) -> None:
    """Raise InputError, or warn, about geometry that cannot be right.

    Args:
        frames: items and lookup frames, (B, N).
        size: of the feature map, (h, w).
    """
    check_tensors(poses=poses, K=K, inv_K=inv_K, depth_bins=depth_bins)
    batch, (height, width) = frames[0], size
    for name, value, *shapes in (
        ("poses", poses, (*frames, 4, 4)),
        ("K", K, (batch, 4, 4)),
        ("inv_K", inv_K, (batch, 4, 4)),
        ("depth_bins", depth_bins, depth_bins.shape[-1:], (batch, *depth_bins.shape[-1:])),
    ):
        if tuple(value.shape) not in [tuple(shape) for shape in shapes] or not value.ndim or not value.numel():
            needed = "(D,) or (B, D)" if name == "depth_bins" else shapes[0]
            raise InputError(f"{name} has the shape {tuple(value.shape)}; {needed} is needed for these frames.")
    if torch.compiler.is_compiling() or poses.is_meta:
        return
    with torch.no_grad():
        bins = depth_bins.float()
        facts = (
            poses.isfinite().all(),
            (bins.diff(dim=-1) > 0).all() & (bins > 0).all() & bins.isfinite().all(),
            (_product(K, inv_K) - torch.eye(4, device=K.device)).abs().amax(),
            *K[:, :2, 2].float().aminmax(dim=0),
        )
        # In one tensor, so that an accelerator is waited for once.
        answers = torch.cat([fact.to(poses.device).float().flatten() for fact in facts]).tolist()
    finite, rising, apart, left, top, right, bottom = answers
    if not finite:
        raise InputError("poses holds NaN or infinite values; finite ones are needed: look at what predicts the poses.")
    if not rising:
        raise InputError("depth_bins does not rise from above 0; bins go from near to far: sort them, all positive.")
    if not apart < 0.5:
        raise InputError(
            f"inv_K is not the inverse of K (their product is {apart:.4g} away from the identity); give both at the "
            "scale of the features."
        )
    if not (left >= 1 and right <= width - 1 and top >= 1 and bottom <= height - 1):
        warnings.warn(
            f"K has its principal point at ({right:.4g}, {bottom:.4g}), outside the {width} x {height} feature map; K "
            "must be in pixels of the features: multiply its first two rows by the feature size over the size they "
            "are for.",
            stacklevel=3,
        )


def _project(projection: Tensor, points: Tensor) -> list[Tensor]:
    """Multiply points (Q, 3, D) by N matrices each, (Q, N, 4, 4); return x z, y z and z, each (Q, N, D)."""
    right, down, ahead = points[:, None].unbind(2)
    return [
        row[..., :1] * right + row[..., 1:2] * down + row[..., 2:3] * ahead + row[..., 3:]
        for row in projection[:, :, :3].unbind(2)
    ]


def _rounded(x: Tensor, size: int) -> Tensor:
    """Take pixels to [-1, 1] and back, as grid_sample does: its rounding decides between bins that are almost
    equal, and without it another bin than the published one may be the cheapest."""
    return ((x / (size - 1) - 0.5) * 2 + 1) / 2 * (size - 1)


def _sample(table: Tensor, start: Tensor, x: Tensor, y: Tensor, width: int) -> Tensor:
    """Sample maps whose pixels are rows of a table, bilinearly, inside their borders.

    Args:
        table: (rows, C).
        start: the row where each map begins, (Q, N).
        x, y: in pixels, (Q, N, D).

    Returns:
        (Q, N, D, C).
    """
    left, top = x.floor(), y.floor()
    right, down = x - left, y - top
    row = start[..., None] + (top * width + left).long()
    rows = torch.stack([row, row + 1, row + width, row + width + 1], dim=-1)
    weights = torch.stack([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down], dim=-1)
    # A weighted bag of four rows reads all channels of a pixel at once, where grid_sample reads channel by channel.
    samples = F.embedding_bag(rows.view(-1, 4), table, per_sample_weights=weights.view(-1, 4), mode="sum")
    return samples.view(*x.shape, table.shape[1])


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices in full float32: autocast and TF32 would move pixels by tenths."""
    return (a.float()[..., None] * b.float()[..., None, :, :]).sum(-2)
