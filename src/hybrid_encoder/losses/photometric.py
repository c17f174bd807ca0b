"""The losses of view synthesis: how self-supervised depth learns from neighbouring frames.

Sources: Godard et al., "Unsupervised Monocular Depth Estimation with Left-Right Consistency", CVPR 2017 (SSIM and L1,
edge-aware smoothness); Godard et al., "Digging Into Self-Supervised Monocular Depth Estimation", ICCV 2019 (minimum
reprojection, auto-masking); Zhou et al., "Unsupervised Learning of Depth and Ego-Motion from Video", CVPR 2017.

Pixel centres are at integers. ``K`` is in pixels of the images.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder.errors import InputError
from hybrid_encoder.geometry.camera import warp

SSIM_SHARE = 0.85
C1, C2 = 0.01**2, 0.03**2  # of SSIM, for values in [0, 1]
TIE = 1e-5  # identical errors (a static scene) go to the identity, whatever rounding says


class Reprojection(NamedTuple):
    """What the reprojection loss is made of.

    Attributes:
        loss: a scalar.
        error: the least photometric error over the sources, (B, 1, H, W).
        identity: the same for the sources as they are: what a still camera would reach, without any depth.
        moved: where the warped error is the smaller one, and the only one that counts, bool (B, 1, H, W).
    """

    loss: Tensor
    error: Tensor
    identity: Tensor
    moved: Tensor


def photometric_error(one: Tensor, other: Tensor) -> Tensor:
    """Return 0.85 x (1 - SSIM) / 2 + 0.15 x absolute difference, the mean over channels.

    SSIM is taken over 3 x 3 windows of equal weights, reflected at the border.

    Args:
        one, other: images in [0, 1], (B, C, H, W).

    Returns:
        (B, 1, H, W), in [0, 1].

    Raises:
        InputError: other shapes, less than 2 pixels high or wide, or images of whole numbers.
    """
    check_images(one, other)
    one, other = (x.float() for x in (one, other))
    windows = F.pad(torch.cat([one, other, one * one, other * other, one * other], dim=1), (1, 1, 1, 1), "reflect")
    mean_one, mean_other, square_one, square_other, product = F.avg_pool2d(windows, 3, 1).chunk(5, dim=1)
    both = mean_one * mean_other
    squares = mean_one**2 + mean_other**2
    ssim = (2 * both + C1) * (2 * (product - both) + C2) / ((squares + C1) * (square_one + square_other - squares + C2))
    dissimilar = ((1 - ssim) / 2).clamp(0, 1)
    return (SSIM_SHARE * dissimilar + (1 - SSIM_SHARE) * (one - other).abs()).mean(1, keepdim=True)


def reprojection_loss(
    target: Tensor, sources: Tensor, depth: Tensor, K: Tensor, source_T_target: Tensor, automask: bool = True
) -> Reprojection:
    """Return the photometric error of the best source, where camera motion explains it better than none.

    Args:
        target: images in [0, 1], (B, 3, H, W).
        sources: N neighbouring frames, (B, N, 3, H, W).
        depth: of the target, (B, 1, H, W).
        K: (B, 3, 3).
        source_T_target: (B, N, 4, 4).
        automask: leave out pixels that an unmoved source explains better: a static camera, or things that move along
            with it.

    Returns:
        Its loss is the mean over all pixels; those left out count with their identity error, which has no gradient.
        Where depth, pose or intrinsics are NaN or infinite, the loss is NaN.

    Raises:
        InputError: shapes that do not fit, no source, or images of whole numbers.
    """
    if sources.ndim != 5 or not sources.shape[1] or sources[:, 0].shape != target.shape:
        raise InputError(
            f"target is {tuple(target.shape)} and sources {tuple(sources.shape)}; (B, 3, H, W) and (B, N, 3, H, W) are "
            "needed, with N at least 1."
        )
    frames = sources.shape[1]
    errors, identities = [], []
    for frame in range(frames):
        source = sources[:, frame]
        warped, _ = warp(source, depth, K, source_T_target[:, frame])
        errors.append(photometric_error(warped, target))
        with torch.no_grad():
            identities.append(photometric_error(source, target))
    error, identity = (torch.cat(parts, dim=1).amin(1, keepdim=True) for parts in (errors, identities))
    # An error of NaN is not less than anything: put this way round, it counts.
    moved = ~(error + TIE >= identity)
    loss = torch.where(moved, error, identity).mean() if automask else error.mean()
    return Reprojection(loss, error, identity, moved)


def smoothness_loss(disparity: Tensor, image: Tensor) -> Tensor:
    """Return the mean slope of mean-normalised disparity, weighted down where the image has an edge.

    Args:
        disparity: (B, 1, H, W), positive.
        image: (B, 3, H, W), of the same size.

    Returns:
        A scalar; an axis with a single pixel has no slope and adds nothing.

    Raises:
        InputError: other shapes, or an image of whole numbers.
    """
    shapes = tuple(disparity.shape), tuple(image.shape)
    if len(shapes[0]) != 4 or len(shapes[1]) != 4 or shapes[0] != (shapes[1][0], 1, *shapes[1][2:]):
        raise InputError(f"disparity is {shapes[0]} and image {shapes[1]}; (B, 1, H, W) and (B, 3, H, W) are needed.")
    _check_fractions(image)
    disparity, image = disparity.float(), image.float()
    disparity = disparity / disparity.mean((-2, -1), keepdim=True).clamp(min=1e-7)
    total = disparity.new_zeros(())
    for axis in (-1, -2):
        if disparity.shape[axis] < 2:
            continue
        edge = image.diff(dim=axis).abs().mean(1, keepdim=True)
        total = total + (disparity.diff(dim=axis).abs() * torch.exp(-edge)).mean()
    return total


def check_images(one: Tensor, other: Tensor) -> None:
    """Raise InputError unless two images can be compared: alike in shape, of fractions, 2 x 2 pixels at least."""
    if one.ndim != 4 or one.shape != other.shape or min(one.shape[-2:]) < 2:
        raise InputError(
            f"the images are {tuple(one.shape)} and {tuple(other.shape)}; (B, C, H, W) is needed for both, with at "
            "least 2 x 2 pixels."
        )
    _check_fractions(one)
    _check_fractions(other)


def _check_fractions(image: Tensor) -> None:
    if not image.is_floating_point():
        raise InputError(f"an image is of {image.dtype}; numbers in [0, 1] are needed: divide by 255.")
