"""Motion found from two images and a depth map, on drives where it is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder.data import SyntheticDrive, synthetic_batch
from hybrid_encoder.geometry.alignment import refine_pose
from hybrid_encoder.geometry.pose import pose_matrix
from hybrid_encoder.training.fine_motion import shrink

SEEDS = range(6)


@pytest.fixture(scope="module")
def steps() -> dict[str, Tensor]:
    """Frame 1 of six drives, frame 0 as the source, at a quarter and an eighth of the size, and the truth."""
    drives = [SyntheticDrive(seed=seed, num_frames=2, height=96, width=320) for seed in SEEDS]
    first, second = (synthetic_batch(drives, (i,)) for i in range(2))
    true = np.stack([np.linalg.inv(d.world_T_cam(0)) @ d.world_T_cam(1) for d in drives])
    return {
        "images": torch.stack([second.images, first.images], dim=1),
        "depth": second.depth,
        "K": torch.from_numpy(np.stack([d.K for d in drives])).float(),
        "true": torch.from_numpy(true).float(),
    }


def _align(steps: dict[str, Tensor], guess: Tensor, scale: float = 1.0, iterations: int = 5) -> Tensor:
    found = guess
    for level in (3, 2, 1):
        frames, K = shrink(steps["images"], steps["K"], 2**level)
        depth = scale * F.interpolate(steps["depth"], frames.shape[-2:], mode="area")
        found = refine_pose(frames[:, 0], frames[:, 1], depth, K, found, iterations)
    return found


def _off(found: Tensor, true: Tensor) -> Tensor:
    off: Tensor = (found - true)[:, :3, 3].norm(dim=1) / true[:, :3, 3].norm(dim=1)
    return off


def test_true_depth_gives_the_true_motion_from_none(steps: dict[str, Tensor]) -> None:
    still = torch.eye(4).expand(len(SEEDS), 4, 4)
    found = _align(steps, still)
    off = _off(found, steps["true"])
    assert off.median() < 0.1, off
    assert (off < 0.3).sum() >= len(SEEDS) - 1, off  # the largest step may be too far
    turned = (found - steps["true"])[:, :3, :3].flatten(1).norm(dim=1)
    assert turned.median() < 0.01, turned


def test_motion_is_in_the_unit_of_depth(steps: dict[str, Tensor]) -> None:
    still = torch.eye(4).expand(len(SEEDS), 4, 4)
    torch.testing.assert_close(
        _align(steps, still, scale=0.01)[:, :3, 3], 0.01 * _align(steps, still)[:, :3, 3], atol=1e-3, rtol=1e-2
    )


def test_a_bad_guess_is_dropped_for_no_motion(steps: dict[str, Tensor]) -> None:
    count = len(SEEDS)
    back = pose_matrix(torch.full((count, 3), 0.3), torch.full((count, 3), -5.0))
    still = torch.eye(4).expand(count, 4, 4)
    torch.testing.assert_close(_align(steps, back), _align(steps, still))


def test_a_good_guess_is_kept_where_nothing_improves_it(steps: dict[str, Tensor]) -> None:
    torch.testing.assert_close(_align(steps, steps["true"], iterations=0), steps["true"])
    assert _off(_align(steps, steps["true"]), steps["true"]).median() < 0.1


def test_images_without_structure_leave_the_camera_still() -> None:
    grey, depth = torch.full((2, 3, 24, 80), 0.5), torch.full((2, 1, 24, 80), 5.0)
    K = torch.tensor([[40.0, 0, 40], [0, 40.0, 12], [0, 0, 1]]).expand(2, 3, 3)
    still = torch.eye(4).expand(2, 4, 4)
    assert torch.equal(refine_pose(grey, grey, depth, K, still), still)
    assert refine_pose(grey, grey, depth * float("nan"), K, still).isfinite().all()
