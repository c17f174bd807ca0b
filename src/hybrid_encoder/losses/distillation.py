"""The loss that follows a teacher: two disparity maps compared whatever the scale and shift of each."""

from __future__ import annotations

import torch
from torch import Tensor

from hybrid_encoder.errors import InputError

GRADIENT_SCALES = 4  # 1, 1/2, 1/4 and 1/8 of the size, as MiDaS compares
GRADIENT_WEIGHT = 0.5  # as in MiDaS
_FLAT = 1e-6  # a mean deviation below this is rounding: the map is constant


def distillation_loss(disparity: Tensor, teacher_disparity: Tensor) -> Tensor:
    """Return how far a disparity map is from a teacher's, once scale and shift of both are taken away.

    As in MiDaS (Ranftl et al., TPAMI 2020): each map is centred by its median and divided by its mean absolute
    deviation from it; the loss is the mean absolute difference, and half that of the gradients along both axes, summed
    over four sizes of the map. A map that is constant has no scale, and stays at zero after the centring.

    Args:
        disparity: the student's, (B, 1, H, W).
        teacher_disparity: (B, 1, H, W), of any scale and shift; no gradient reaches it.

    Returns:
        A scalar, zero where one map is the other one scaled by a positive factor and shifted.

    Raises:
        InputError: maps of different shapes.
    """
    if disparity.shape != teacher_disparity.shape:
        raise InputError(
            f"disparity is {tuple(disparity.shape)} and the teacher's {tuple(teacher_disparity.shape)}; they must have "
            "one shape: resize the teacher's."
        )
    difference = normalised(disparity.float()) - normalised(teacher_disparity.detach().float())
    loss = difference.abs().mean()
    for scale in range(GRADIENT_SCALES):
        small = difference[..., :: 2**scale, :: 2**scale]
        loss = loss + GRADIENT_WEIGHT * mean_gradient(small)
    return loss


def normalised(disparity: Tensor) -> Tensor:
    """Return each map of (B, 1, H, W) minus its median, divided by its mean absolute deviation from it."""
    flat = disparity.flatten(1)
    centred = flat - flat.median(1, keepdim=True).values
    deviation = centred.abs().mean(1, keepdim=True)
    size = flat.detach().abs().amax(1, keepdim=True)
    # The gradient of x / x.abs().mean() at zero is infinite; a constant map has a gradient of its own, finite.
    scale = torch.where(deviation > _FLAT * size, deviation, torch.ones_like(deviation))
    return (centred / scale).view_as(disparity)


def mean_gradient(difference: Tensor) -> Tensor:
    """Return the mean absolute step to the next pixel, along both axes together; zero where there is no next one."""
    total = difference.new_zeros(())
    for axis in (-1, -2):
        if difference.shape[axis] > 1:
            total = total + difference.diff(dim=axis).abs().mean()
    return total
