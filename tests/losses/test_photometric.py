"""View synthesis on synthetic drives, where depth and motion are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hybrid_encoder.data import SyntheticDrive, synthetic_batch
from hybrid_encoder.losses.photometric import (
    photometric_error,
    reprojection_loss,
    smoothness_loss,
)


@pytest.fixture(scope="module")
def drive() -> dict[str, Any]:
    """Frame 1 of two drives as the target, frames 0 and 2 as sources, and the truth about them."""
    drives = [SyntheticDrive(seed=seed, num_frames=3, height=64, width=192) for seed in (3, 4)]
    frames = [synthetic_batch(drives, (i,)) for i in range(3)]
    poses = [[np.linalg.inv(d.world_T_cam(i)) @ d.world_T_cam(1) for i in (0, 2)] for d in drives]
    return {
        "target": frames[1].images,
        "sources": torch.stack([frames[0].images, frames[2].images], dim=1),
        "depth": frames[1].depth,
        "K": torch.from_numpy(np.stack([d.K for d in drives])).float(),
        "source_T_target": torch.from_numpy(np.array(poses)).float(),
    }


def test_true_depth_and_motion_explain_the_neighbours(drive: dict[str, Any]) -> None:
    true = reprojection_loss(**drive)
    assert true.error.mean() < 0.6 * true.identity.mean()
    for factor in (0.6, 1.7):
        wrong = reprojection_loss(**{**drive, "depth": drive["depth"] * factor})
        assert wrong.error.mean() > 1.2 * true.error.mean()
    back = reprojection_loss(**{**drive, "source_T_target": drive["source_T_target"].inverse()})
    assert back.error.mean() > 1.2 * true.error.mean()
    assert true.loss <= true.error.mean() and true.loss <= true.identity.mean()


def test_depth_is_found_by_descent(drive: dict[str, Any]) -> None:
    scale = torch.tensor(0.6, requires_grad=True)
    optimizer = torch.optim.Adam([scale], 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        reprojection_loss(**{**drive, "depth": drive["depth"] * scale}, automask=False).loss.backward()
        optimizer.step()
    assert abs(scale.item() - 1) < 0.1


def test_a_still_camera_is_masked_out(drive: dict[str, Any]) -> None:
    still = {**drive, "sources": drive["target"][:, None].repeat(1, 2, 1, 1, 1)}
    depth = drive["depth"].clone().requires_grad_()
    found = reprojection_loss(**{**still, "depth": depth})
    assert not found.moved.any() and found.loss == 0
    assert reprojection_loss(**{**still, "depth": depth}, automask=False).loss > 0.01


def test_gradients_reach_depth_and_pose_behind_the_camera_too(drive: dict[str, Any]) -> None:
    depth = drive["depth"].clone().requires_grad_()
    poses = drive["source_T_target"].clone()
    poses[0, 0, 2, 3] = -1000.0  # everything lies behind that source
    poses.requires_grad_()
    reprojection_loss(**{**drive, "depth": depth, "source_T_target": poses}).loss.backward()
    assert depth.grad is not None and depth.grad.isfinite().all() and depth.grad.any()
    assert poses.grad is not None and poses.grad.isfinite().all() and poses.grad.any()


def test_the_error_is_the_formula() -> None:
    one, other = torch.rand(2, 1, 2, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    error = photometric_error(one, other)[0, 0].numpy()
    x, y = (F.pad(z, (1, 1, 1, 1), "reflect")[0].numpy() for z in (one, other))
    for i, j in ((0, 0), (3, 4), (5, 6)):
        total = 0.0
        for c in range(2):
            a, b = x[c, i : i + 3, j : j + 3], y[c, i : i + 3, j : j + 3]
            covariance = (a * b).mean() - a.mean() * b.mean()
            ssim = (2 * a.mean() * b.mean() + 1e-4) * (2 * covariance + 9e-4)
            ssim /= (a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (a.var() + b.var() + 9e-4)
            total += 0.85 * np.clip((1 - ssim) / 2, 0, 1) + 0.15 * abs(one[0, c, i, j] - other[0, c, i, j]).item()
        assert error[i, j] == pytest.approx(total / 2, abs=1e-5)
    assert photometric_error(one, one).abs().max() < 1e-6


def test_smoothness_spares_edges_and_ignores_scale() -> None:
    ramp = torch.linspace(0.1, 1, 20).expand(1, 1, 10, 20)
    flat, step = torch.full((1, 3, 10, 20), 0.5), torch.zeros(1, 3, 10, 20)
    step[..., 10:] = 1
    jump = torch.full((1, 1, 10, 20), 0.1)
    jump[..., 10:] = 1
    assert smoothness_loss(torch.full_like(ramp, 3.0), flat) == 0
    torch.testing.assert_close(smoothness_loss(ramp, flat), smoothness_loss(7 * ramp, flat))
    assert smoothness_loss(jump, step) < 0.5 * smoothness_loss(jump, flat)
