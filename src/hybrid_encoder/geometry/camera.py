"""The pinhole camera: rays, projection, warping, intrinsics of resized images, disparity and depth.

Pixel centres are at integers, so that resizing by s takes x to (x + 0.5) s - 0.5. ``K`` is in pixels of the images.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder.errors import InputError

NEAREST = 1e-3  # depth below which a point counts as beside or behind the camera

Size = tuple[int, int]  # height, width


class Projected(NamedTuple):
    """Points seen by a camera.

    Attributes:
        x, y: in pixels.
        depth: not below ``NEAREST``; where it is not finite, ``x`` is NaN.
        inside: bool, whether a point lies in front of the camera and inside the image.
    """

    x: Tensor
    y: Tensor
    depth: Tensor
    inside: Tensor


def pixel_coordinates(height: int, width: int, device: torch.device) -> Tensor:
    """Return the homogeneous coordinates (x, y, 1) of all pixels, row by row, float32, (3, height * width)."""
    y, x = torch.meshgrid(*(torch.arange(n, device=device).float() for n in (height, width)), indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)]).flatten(1)


def unproject(depth: Tensor, K: Tensor) -> Tensor:
    """Return the point that each pixel sees.

    Args:
        depth: (B, 1, H, W).
        K: (B, 3, 3).

    Returns:
        (B, 3, H * W), in the unit of depth, camera axes x right, y down, z forward.

    Raises:
        InputError: intrinsics that cannot be inverted, such as a focal length of 0.
    """
    pixels = pixel_coordinates(depth.shape[-2], depth.shape[-1], depth.device)
    try:
        rays: Tensor = torch.linalg.solve(K, pixels.expand(len(depth), -1, -1))
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # torch does not list it
        raise InputError("K cannot be inverted; focal lengths must be above 0: check the calibration.") from None
    return rays * depth.flatten(2)


def transform(matrix: Tensor, points: Tensor) -> Tensor:
    """Apply rigid motions (B, 4, 4) to points (B, 3, N)."""
    return matrix[:, :3, :3] @ points + matrix[:, :3, 3:]


def project(points: Tensor, K: Tensor, size: Size) -> Projected:
    """Return where points of the camera fall in its image.

    Args:
        points: (B, 3, N).
        K: (B, 3, 3).
        size: (H, W) of the image.

    Returns:
        Each part is (B, N).
    """
    height, width = size
    fx, skew, fy, cx, cy = (K[:, i, j, None] for i, j in ((0, 0), (0, 1), (1, 1), (0, 2), (1, 2)))
    x, y, z = points.unbind(1)
    depth = z.clamp(min=NEAREST)
    # Zero, or NaN where depth is not finite: it would otherwise be projected to some pixel, as if nothing were wrong.
    unknown = z.detach() * 0
    x, y = (fx * x + skew * y) / depth + (cx + unknown), fy * y / depth + cy
    inside = (z > NEAREST) & (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return Projected(x, y, depth, inside)


def sample(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Read images between their pixels, bilinearly; beyond the border, what is on it.

    Args:
        images: (B, C, H, W).
        x, y: in pixels, (B, h, w).

    Returns:
        (B, C, h, w); NaN where a position is NaN or infinite.
    """
    height, width = images.shape[-2:]
    grid = torch.stack([2 * x / max(1, width - 1) - 1, 2 * y / max(1, height - 1) - 1], dim=-1)
    return read_grid(images, grid, padding_mode="border", align_corners=True)


def read_grid(images: Tensor, grid: Tensor, **options: Any) -> Tensor:
    """Call ``F.grid_sample``, and return NaN where the grid is NaN or infinite.

    By itself it would read some pixel there, and its backward pass would write outside of its memory.
    """
    read = F.grid_sample(images, grid.nan_to_num(0, 0, 0), **options)
    unknown = (grid.detach() * 0).sum(-1)  # zero, or NaN
    return read + unknown[:, None].to(read.dtype)


def warp(source: Tensor, depth: Tensor, K: Tensor, source_T_target: Tensor) -> tuple[Tensor, Tensor]:
    """Return a source view as the target camera would see it.

    Args:
        source: (B, C, H, W).
        depth: of the target view, (B, 1, H, W).
        K: intrinsics of both, (B, 3, 3).
        source_T_target: takes points of the target camera to the source camera, (B, 4, 4), in the unit of depth.

    Returns:
        The warped view (B, C, H, W), bilinear, its border continued, and which pixels fall into the source view, bool
        (B, 1, H, W). Gradients reach source, depth and pose. Where depth, pose or intrinsics are NaN or infinite, the
        view is NaN.

    Raises:
        InputError: shapes that do not fit, or intrinsics that cannot be inverted.
    """
    batch, _, height, width = source.shape
    for name, value, shape in (
        ("depth", depth, (batch, 1, height, width)),
        ("K", K, (batch, 3, 3)),
        ("source_T_target", source_T_target, (batch, 4, 4)),
    ):
        if tuple(value.shape) != shape:
            raise InputError(
                f"{name} is {tuple(value.shape)}; {shape} is needed for a source of {tuple(source.shape)}."
            )
    K, source_T_target, depth = K.float(), source_T_target.float(), depth.float()
    seen = project(transform(source_T_target, unproject(depth, K)), K, (height, width))
    x, y, inside = (part.unflatten(1, (height, width)) for part in (seen.x, seen.y, seen.inside))
    return sample(source.float(), x, y).to(source.dtype), inside[:, None]


def resized_intrinsics(K: Tensor, before: Size, after: Size) -> Tensor:
    """Return intrinsics (..., 3, 3) in pixels of images resized from ``before`` to ``after``, (H, W) each."""
    x, y = after[1] / before[1], after[0] / before[0]
    return K.new_tensor([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]]) @ K


def intrinsics_from_fov(fov: float, size: Size) -> Tensor:
    """Return ``K``, (3, 3), of a camera that sees an angle from the left to the right border of its images.

    Pixels are square, and the axis goes through the middle of the image.

    Args:
        fov: horizontal field of view, in degrees.
        size: (H, W) of the images.

    Raises:
        InputError: a field of view that is not between 0 and 180 degrees.
    """
    if not 0 < fov < 180:
        raise InputError(f"fov is {fov}; the horizontal field of view in degrees lies between 0 and 180.")
    height, width = size
    focal = width / 2 / math.tan(math.radians(fov) / 2)  # the borders are half a pixel beyond the outer centres
    return torch.tensor([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def disparity_to_depth(disparity: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """Return depth = 1 / (1 / max_depth + (1 / min_depth - 1 / max_depth) x disparity), as Monodepth2 defines it."""
    low, high = 1 / max_depth, 1 / min_depth
    return 1 / (low + (high - low) * disparity)


def depth_to_disparity(depth: float, min_depth: float, max_depth: float) -> float:
    """Return the disparity whose depth this is, the inverse of :func:`disparity_to_depth`."""
    low, high = 1 / max_depth, 1 / min_depth
    return (1 / depth - low) / (high - low)
