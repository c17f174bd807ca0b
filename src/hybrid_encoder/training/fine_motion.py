"""The camera's motion in the fine stage: predicted, aligned with the images, and known between two views."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.geometry.alignment import follow_intrinsics, refine_pose
from hybrid_encoder.geometry.camera import resized_intrinsics
from hybrid_encoder.geometry.pose import pose_matrix


def predict_motions(network: nn.Module, target: Tensor, sources: Iterable[Tensor], offsets: Sequence[int]) -> Tensor:
    """Predict the motion from the target camera to every source camera.

    Args:
        network: takes two frames in temporal order, or what stands for them, to axis-angle and translation.
        target: what the network reads of the target, (B, ...).
        sources: the same of every source.
        offsets: of the sources from the target, in frames; none of them 0.

    Returns:
        (B, N, 4, 4).
    """
    found = []
    for source, offset in zip(sources, offsets, strict=True):
        later = offset > 0
        # Networks see frames in temporal order: cars mostly drive forward.
        axis_angle, translation = network(*((target, source) if later else (source, target)))
        found.append(pose_matrix(axis_angle, translation, invert=not later))
    return torch.stack(found, dim=1)


def align_motions(
    images: Tensor, depth: Tensor, K: Tensor, motions: Tensor, levels: Sequence[int], steps: int
) -> Tensor:
    """Refine motions by direct alignment, from the smallest images to the largest of the levels.

    Args:
        images: (B, 1 + N, 3, H, W), the target first; what comes after the sources is not read.
        depth: of the target, (B, 1, H, W).
        K: intrinsics, (B, 3, 3).
        motions: where to start, (B, N, 4, 4); no gradient reaches them.
        levels: sizes of the images, 1 / 2**level.
        steps: of Gauss and Newton on every level.

    Returns:
        (B, N, 4, 4); with a gradient to ``K`` where that is learned.
    """
    num_sources = motions.shape[1]
    images = images[:, : 1 + num_sources]
    found = motions.detach().flatten(0, 1)
    for level in sorted(levels, reverse=True):
        frames, intrinsics = shrink(images, K, 2**level)
        small = F.interpolate(depth, frames.shape[-2:], mode="area").repeat_interleave(num_sources, 0)
        target = frames[:, :1].expand_as(frames[:, 1:]).flatten(0, 1)
        sources, intrinsics = frames[:, 1:].flatten(0, 1), intrinsics.repeat_interleave(num_sources, 0)
        found = refine_pose(target, sources, small, intrinsics, found, steps)
    if K.requires_grad:
        found = follow_intrinsics(target, sources, small, intrinsics, found)
    return found.reshape(-1, num_sources, 4, 4)


def motion_to_right_view(baseline: Tensor | float, images: Tensor) -> Tensor:
    """Return the motion (B, 1, 4, 4) from the target camera to that of the right view, a baseline to the right."""
    motion = torch.eye(4, device=images.device).repeat(len(images), 1, 1, 1)
    motion[:, 0, 0, 3] = -torch.as_tensor(baseline, dtype=motion.dtype, device=images.device)
    return motion


def shrink(images: Tensor, K: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Average images (B, N, 3, H, W) down to 1 / factor of their size, with intrinsics (B, 3, 3) in the new pixels."""
    if factor == 1:
        return images, K
    size = (images.shape[-2] // factor, images.shape[-1] // factor)
    small = F.interpolate(images.flatten(0, 1), size, mode="area").unflatten(0, images.shape[:2])
    return small, resized_intrinsics(K, (images.shape[-2], images.shape[-1]), size)
