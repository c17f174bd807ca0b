"""Camera motion from two frames' DINO class tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SCALE = 0.01  # keeps the first predicted motions small, as Monodepth2's pose network does


class ClassTokenPoseHead(nn.Module):
    """One linear layer from two class tokens to six numbers of motion (as published).

    Args:
        channels: of one class token.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * channels, 6)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Class tokens (B, C) of two frames in temporal order to axis-angle and translation, both (B, 3)."""
        motion = SCALE * self.linear(torch.cat([first, second], dim=-1))
        return motion[..., :3], motion[..., 3:]


def pose_matrix(axis_angle: Tensor, translation: Tensor, invert: bool = False) -> Tensor:
    """The rigid motion x -> R x + t as a matrix.

    Args:
        axis_angle: rotation axis times angle in radians, (..., 3).
        translation: (..., 3).
        invert: give the inverse motion, x -> R^T (x - t).

    Returns:
        (..., 4, 4).
    """
    x, y, z = axis_angle.float().unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    # Rodrigues' formula. torch.sinc is smooth at no rotation, where the axis is not defined; matrix_exp loses two
    # digits at some angles.
    turns = torch.linalg.vector_norm(axis_angle.float(), dim=-1)[..., None, None] / torch.pi
    rotation = torch.eye(3, device=skew.device) + turns.sinc() * skew + 0.5 * (turns / 2).sinc() ** 2 * (skew @ skew)
    shift = translation.float()[..., None]
    if invert:
        rotation = rotation.transpose(-1, -2)
        shift = -rotation @ shift
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], device=rotation.device).expand(*rotation.shape[:-2], 1, 4)
    return torch.cat([torch.cat([rotation, shift], dim=-1), last], dim=-2)
