"""Camera motion straight from two images and a depth map, by Gauss-Newton steps on their difference.

Source: direct image alignment, as in Engel et al., "LSD-SLAM: Large-Scale Direct Monocular SLAM", ECCV 2014; inside
self-supervised training, Wang et al., "Learning Depth from Monocular Videos using Direct Methods", CVPR 2018.

Pixel centres are at integers. ``K`` is in pixels of the images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder.pose import pose_matrix
from hybrid_encoder.training.photometric import NEAREST

HUBER = 0.05  # difference of grey above which a pixel counts less: what is hidden or moves by itself
DAMPING = 1e-3
UNSEEN = 2 * HUBER  # what a pixel counts that is warped out of the view, or leaving it would pay
LARGEST = 0.2  # radians, and share of the mean depth: steps that lead farther have lost their way


@torch.no_grad()
def align(
    target: Tensor, source: Tensor, depth: Tensor, K: Tensor, source_T_target: Tensor, iterations: int = 5
) -> Tensor:
    """The motion near a first guess that makes the warped source look most like the target.

    Args:
        target, source: (B, 3, H, W) in [0, 1]; small ones, as motions of more than a few pixels are not found.
        depth: of the target, (B, 1, H, W).
        K: (B, 3, 3).
        source_T_target: the guess, (B, 4, 4), in the unit of depth.
        iterations: Gauss-Newton steps.

    Returns:
        (B, 4, 4), without gradient. The guess, or no motion where that is better, is where the steps begin, and where
        they end if they have not improved it.
    """
    batch, _, height, width = target.shape
    depth, K, guess = depth.float(), K.float(), source_T_target.float()
    grey = source.float().mean(1, keepdim=True)
    goal = target.float().mean(1).flatten(1)
    padded = F.pad(grey, (1, 1, 1, 1), "replicate")
    slope_x = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    slope_y = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    layers = torch.cat([grey, slope_x, slope_y], dim=1)
    v, u = torch.meshgrid(*(torch.arange(n, device=depth.device).float() for n in (height, width)), indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)]).flatten(1)
    points = torch.linalg.solve(K, pixels.expand(batch, -1, -1)) * depth.flatten(2)
    fx, fy, cx, cy = (K[:, i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    identity = torch.eye(6, device=depth.device)

    def look(motion: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        points_there = motion[:, :3, :3] @ points + motion[:, :3, 3:]
        x, y, z = points_there.unbind(1)
        near = z.clamp(min=NEAREST)
        u, v = fx * x / near + cx, fy * y / near + cy
        inside = (z > NEAREST) & (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
        grid = torch.stack([2 * u / (width - 1) - 1, 2 * v / (height - 1) - 1], dim=-1).view(batch, height, width, 2)
        seen = F.grid_sample(layers, grid, padding_mode="border", align_corners=True).flatten(2)
        error = seen[:, 0] - goal
        size = error.abs()
        costs = torch.where(size < HUBER, size.square() / HUBER, 2 * size - HUBER)
        return points_there, inside, seen, error, torch.where(inside, costs, UNSEEN).mean(1)

    still = torch.eye(4, device=depth.device).expand_as(guess)
    costs = torch.stack([look(guess)[-1], look(still)[-1]])
    first = costs.amin(0)
    start = torch.where((costs[1] < costs[0])[:, None, None], still, guess)
    motion = start
    for _ in range(iterations):
        points_there, inside, seen, error, _ = look(motion)
        x, y, z = points_there.unbind(1)
        near = z.clamp(min=NEAREST)
        # How the error changes with the point, and the point with the motion (a left perturbation: t + w x point).
        a, b = seen[:, 1] * fx / near, seen[:, 2] * fy / near
        c = -(a * x + b * y) / near
        jacobian = torch.stack([a, b, c, c * y - b * z, a * z - c * x, b * x - a * y], dim=-1)
        pull = (jacobian * (inside * HUBER / error.abs().clamp(min=HUBER))[..., None]).transpose(1, 2)
        normal = pull @ jacobian
        normal = normal + DAMPING * normal.diagonal(dim1=1, dim2=2).diag_embed() + 1e-9 * identity
        change = -torch.linalg.solve(normal, pull @ error[..., None])[..., 0]
        motion = pose_matrix(change[:, 3:], change[:, :3]) @ motion
    change = motion - start
    small = change[:, :3, :3].flatten(1).norm(dim=1) < LARGEST
    small &= change[:, :3, 3].norm(dim=1) < LARGEST * depth.mean((1, 2, 3))
    better = (look(motion)[-1] < first) & small  # False where a number is not finite
    return torch.where(better[:, None, None], motion, start)
