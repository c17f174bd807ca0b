"""Rigid motion as a matrix."""

from __future__ import annotations

import torch
from torch import Tensor


def pose_matrix(axis_angle: Tensor, translation: Tensor, invert: bool = False) -> Tensor:
    """Return the rigid motion x -> R x + t as a matrix.

    Args:
        axis_angle: rotation axis times angle in radians, (..., 3).
        translation: (..., 3).
        invert: return the inverse motion, x -> R^T (x - t).

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
