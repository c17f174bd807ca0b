"""Camera motion straight from two images and a depth map, by Gauss-Newton steps on their difference.

Source: direct image alignment, as in Engel et al., "LSD-SLAM: Large-Scale Direct Monocular SLAM", ECCV 2014; inside
self-supervised training, Wang et al., "Learning Depth from Monocular Videos using Direct Methods", CVPR 2018.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder.geometry.camera import Projected, project, sample, transform, unproject
from hybrid_encoder.geometry.pose import pose_matrix

HUBER = 0.05  # grey difference above which a pixel counts less: it is hidden, or moves by itself
DAMPING = 1e-3
UNSEEN_COST = 2 * HUBER  # of a pixel that leaves the view; were it less, leaving would lower the total
LARGEST_CHANGE = 0.2  # in radians, and as a share of the mean depth; a larger change is taken for divergence


class _Problem(NamedTuple):
    """What stays the same from step to step."""

    layers: Tensor  # (B, 3, H, W): grey of the source, and its slopes along x and y
    goal: Tensor  # (B, H * W): grey of the target
    points: Tensor  # (B, 3, H * W): of the target
    K: Tensor  # (B, 3, 3)


class _Comparison(NamedTuple):
    """The source as one motion shows it, compared with the target."""

    points: Tensor  # (B, 3, N), in the source camera
    projected: Projected
    slopes: tuple[Tensor, Tensor]  # of the source along x and y, (B, N) each
    error: Tensor  # (B, N)
    cost: Tensor  # (B,)


@torch.no_grad()
def refine_pose(
    target: Tensor, source: Tensor, depth: Tensor, K: Tensor, source_T_target: Tensor, iterations: int = 5
) -> Tensor:
    """Return the motion near a first guess with which the warped source is most similar to the target.

    Args:
        target, source: (B, 3, H, W) in [0, 1]; small ones, as motions of more than a few pixels are not found.
        depth: of the target, (B, 1, H, W).
        K: (B, 3, 3), in pixels of the images.
        source_T_target: the guess, (B, 4, 4), in the unit of depth.
        iterations: Gauss-Newton steps.

    Returns:
        (B, 4, 4), without gradient. The steps begin at the guess, or at no motion where that fits better, and their
        result is kept only where it fits better still.
    """
    depth, K, guess = depth.float(), K.float(), source_T_target.float()
    problem = _Problem(_with_slopes(source), target.float().mean(1).flatten(1), unproject(depth, K), K)
    still = torch.eye(4, device=depth.device).expand_as(guess)
    costs = torch.stack([_compare(problem, guess).cost, _compare(problem, still).cost])
    start = torch.where((costs[1] < costs[0])[:, None, None], still, guess)
    motion = start
    for _ in range(iterations):
        change = _gauss_newton_step(problem, _compare(problem, motion))
        motion = pose_matrix(change[:, 3:], change[:, :3]) @ motion
    change = motion - start
    small = change[:, :3, :3].flatten(1).norm(dim=1) < LARGEST_CHANGE
    small &= change[:, :3, 3].norm(dim=1) < LARGEST_CHANGE * depth.mean((1, 2, 3))
    better = (_compare(problem, motion).cost < costs.amin(0)) & small  # False where a number is not finite
    return torch.where(better[:, None, None], motion, start)


def follow_intrinsics(target: Tensor, source: Tensor, depth: Tensor, K: Tensor, source_T_target: Tensor) -> Tensor:
    """Return an aligned motion as it is, with the gradient by which alignment would follow a change of intrinsics.

    By the implicit function theorem at the minimum that :func:`refine_pose` looks for. Most of what another focal
    length does to a view, another rotation undoes: at a fixed motion, the gradient of a view's error with respect to
    ``K`` says little about which focal length fits best with the motion that belongs to it.

    Args:
        target, source, depth, source_T_target: of :func:`refine_pose`; no gradient reaches them.
        K: (B, 3, 3), in pixels of the images.

    Returns:
        (B, 4, 4).
    """
    depth, motion, K = depth.detach().float(), source_T_target.detach().float(), K.float()
    goal = target.detach().float().mean(1).flatten(1)
    problem = _Problem(_with_slopes(source.detach()), goal, unproject(depth, K), K)
    compared = _compare(problem, motion)
    with torch.no_grad():
        weighted, normal = _normal_equations(problem, compared)
    change = -torch.linalg.solve(normal, weighted @ compared.error[..., None])[..., 0]
    change = change - change.detach()
    return pose_matrix(change[:, 3:], change[:, :3]) @ motion


def _with_slopes(images: Tensor) -> Tensor:
    grey = images.float().mean(1, keepdim=True)
    padded = F.pad(grey, (1, 1, 1, 1), "replicate")
    slope_x = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    slope_y = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    return torch.cat([grey, slope_x, slope_y], dim=1)


def _compare(problem: _Problem, motion: Tensor) -> _Comparison:
    size = (problem.layers.shape[-2], problem.layers.shape[-1])
    points = transform(motion, problem.points)
    projected = project(points, problem.K, size)
    seen = sample(problem.layers, projected.x.unflatten(1, size), projected.y.unflatten(1, size)).flatten(2)
    error = seen[:, 0] - problem.goal
    distance = error.abs()
    costs = torch.where(distance < HUBER, distance.square() / HUBER, 2 * distance - HUBER)
    cost = torch.where(projected.inside, costs, UNSEEN_COST).mean(1)
    return _Comparison(points, projected, (seen[:, 1], seen[:, 2]), error, cost)


def _gauss_newton_step(problem: _Problem, compared: _Comparison) -> Tensor:
    """Return the change of motion that lowers the cost, (B, 6): translation, then axis-angle."""
    weighted, normal = _normal_equations(problem, compared)
    change: Tensor = torch.linalg.solve(normal, weighted @ compared.error[..., None])
    return -change[..., 0]


def _normal_equations(problem: _Problem, compared: _Comparison) -> tuple[Tensor, Tensor]:
    """Return the error's slopes by motion, times the pixels' weights, (B, 6, N), and the damped normal matrix."""
    x, y, z = compared.points.unbind(1)
    near, inside = compared.projected.depth, compared.projected.inside
    fx, fy = problem.K[:, 0, 0, None], problem.K[:, 1, 1, None]
    # How the error changes with the point, and the point with the motion (a left perturbation: t + w x point).
    a, b = compared.slopes[0] * fx / near, compared.slopes[1] * fy / near
    c = -(a * x + b * y) / near
    jacobian = torch.stack([a, b, c, c * y - b * z, a * z - c * x, b * x - a * y], dim=-1)
    weights = inside * HUBER / compared.error.abs().clamp(min=HUBER)
    weighted = (jacobian * weights[..., None]).transpose(1, 2)
    normal = weighted @ jacobian
    # Levenberg-Marquardt damping, and a constant, so that the system has a solution for an image without slopes too.
    normal = normal + DAMPING * normal.diagonal(dim1=1, dim2=2).diag_embed() + 1e-9 * torch.eye(6, device=x.device)
    return weighted, normal
