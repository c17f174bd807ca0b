"""The road as a plane: found in a depth map by RANSAC, and how far the camera is above it.

A plane is m . p = 1 for its points p, with m the unit normal divided by the distance. For any other point, m . p is its
depth as a share of the plane's on the same ray: one tolerance holds near and far and in any unit, and it is stated as
predicted depth errs, in shares.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hybrid_encoder.errors import InputError
from hybrid_encoder.geometry.camera import unproject

ROAD = (0.65, 1.0, 0.3, 0.7)  # top, bottom, left, right as shares of height and width: what lies before a car
TOLERANCE = 0.1  # of depth, by which a point may miss the plane and still count
MIN_SUPPORT = 0.5  # share of the region's pixels that must lie on the plane
MAX_TILT = 10.0  # degrees, of the plane's normal from the camera's y axis: pitch, roll, and the road's slope
NUM_TRIALS, MIN_POINTS, MAX_POINTS = 256, 32, 4096
REFITS = 5


class Ground(NamedTuple):
    """A plane under the camera.

    Attributes:
        distance: of the camera from it, in the unit of depth.
        normal: unit normal, pointing down, (3,); (0, 1, 0) for a level camera.
        support: share of the pixels of known depth that lie on it.
        error: median of the relative difference of their depth from the plane's.
    """

    distance: float
    normal: Tensor
    support: float
    error: float


@torch.no_grad()
def fit_ground(
    depth: Tensor,
    K: Tensor,
    *,
    region: tuple[float, float, float, float] = ROAD,
    tolerance: float = TOLERANCE,
    max_tilt: float = MAX_TILT,
) -> Ground | None:
    """Fit a plane to the lower middle of an image, where a car's camera sees the road.

    Three points at a time are drawn, always the same ones, and the plane on which most points lie is fitted to those by
    least squares of relative depth (Fischler and Bolles 1981, "Random Sample Consensus").

    Args:
        depth: (1, H, W), in any unit; 0 or not finite where unknown.
        K: (3, 3), in pixels of ``depth``.
        region: top, bottom, left, right of where to look, as shares of height and width.
        tolerance: largest relative difference of depth from the plane's for a point to lie on it.
        max_tilt: of the plane from level, in degrees.

    Returns:
        None where fewer than half of the known pixels, or fewer than 32, agree on a plane that is level enough.

    Raises:
        InputError: depth or intrinsics of another shape, or intrinsics that cannot be inverted.
    """
    points = _points(depth, K, region)
    if len(points) < MIN_POINTS:
        return None
    generator = torch.Generator().manual_seed(0)
    points = points[torch.randperm(len(points), generator=generator)[:MAX_POINTS]]
    drawn = torch.randint(len(points), (NUM_TRIALS, 3), generator=generator)
    planes = _solve(points[drawn])
    planes = planes[_tilts(planes) < max_tilt]
    if not len(planes):
        return None
    plane = planes[(points @ planes.T - 1).abs().lt(tolerance).sum(0).argmax()]
    for _ in range(REFITS):
        near = points[(points @ plane - 1).abs() < tolerance]
        if len(near) < max(3, MIN_SUPPORT * len(points)):
            return None
        plane = torch.linalg.lstsq(near, near.new_ones(len(near), 1)).solution[:, 0]
    errors = (points @ plane - 1).abs()
    near = errors[errors < tolerance]
    if len(near) < MIN_SUPPORT * len(points) or not _tilts(plane) < max_tilt:
        return None
    length = float(plane.norm())
    return Ground(1 / length, (plane / length).float(), len(near) / len(points), float(near.median()))


def _points(depth: Tensor, K: Tensor, region: tuple[float, float, float, float]) -> Tensor:
    """Return the points of known depth that the region shows, float64, (N, 3)."""
    if depth.ndim != 3 or depth.shape[0] != 1 or tuple(K.shape) != (3, 3):
        raise InputError(f"depth is {tuple(depth.shape)} and K {tuple(K.shape)}; (1, H, W) and (3, 3) are needed.")
    height, width = depth.shape[-2:]
    top, bottom, left, right = region
    seen = unproject(depth[None].float().cpu(), K[None].float().cpu()).unflatten(-1, (height, width))[0]
    window = seen[:, int(top * height) : int(bottom * height), int(left * width) : int(right * width)]
    points: Tensor = window.flatten(1).T.double()
    return points[points.isfinite().all(1) & (points[:, 2] > 0)]


def _solve(points: Tensor) -> Tensor:
    """Return the planes through three points each, (N, 3, 3) to (M, 3); points on one line have none."""
    solution, failed = torch.linalg.solve_ex(points, torch.ones(len(points), 3, 1, dtype=points.dtype))
    planes: Tensor = solution[..., 0]
    return planes[(failed == 0) & planes.isfinite().all(1)]


def _tilts(planes: Tensor) -> Tensor:
    """Return the angle of each plane from one that lies level under the camera, in degrees; (..., 3) to (...)."""
    cosines: Tensor = planes[..., 1] / planes.norm(dim=-1)
    return torch.rad2deg(torch.acos(cosines.clamp(-1, 1)))
