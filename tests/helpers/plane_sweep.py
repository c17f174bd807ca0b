"""Cameras, motions and features for tests of matching."""

from __future__ import annotations

import torch
from torch import Tensor

from hybrid_encoder.geometry.plane_sweep import depth_bins
from hybrid_encoder.geometry.pose import pose_matrix


def intrinsics(height: int, width: int, focal: float = 0.6, batch: int = 1) -> Tensor:
    K = torch.eye(4)
    K[0, 0] = K[1, 1] = focal * width
    K[0, 2], K[1, 2] = (width - 1) / 2, (height - 1) / 2
    return K.repeat(batch, 1, 1)


def motions(batch: int, frames: int, size: float = 0.1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    turn, shift = (size * torch.randn(batch, frames, 3, generator=generator) for _ in range(2))
    return pose_matrix(0.3 * turn, shift)


def scene(
    batch: int = 2, frames: int = 2, channels: int = 5, height: int = 12, width: int = 16, bins: int = 6, seed: int = 0
) -> dict[str, Tensor]:
    """Random features with true geometry around them."""
    generator = torch.Generator().manual_seed(seed)
    K = intrinsics(height, width, batch=batch)
    return {
        "current": torch.randn(batch, channels, height, width, generator=generator),
        "lookup": torch.randn(batch, frames, channels, height, width, generator=generator),
        "poses": motions(batch, frames, seed=seed),
        "K": K,
        "inv_K": K.inverse(),
        "depth_bins": depth_bins(0.5, 8, bins),
    }
