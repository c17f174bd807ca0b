"""The pinhole camera, on scenes where the answer is known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_encoder import HybridDepthConfig, InputError
from hybrid_encoder.data import SyntheticDrive, synthetic_batch
from hybrid_encoder.geometry import (
    depth_to_disparity,
    disparity_to_depth,
    intrinsics_from_fov,
    pixel_coordinates,
    project,
    resized_intrinsics,
    sample,
    unproject,
    warp,
)

K = torch.tensor([[[20.0, 0, 15], [0, 22.0, 6], [0, 0, 1]]])


def test_no_motion_gives_the_source_back() -> None:
    drive = synthetic_batch([SyntheticDrive(seed=seed, num_frames=3, height=64, width=192) for seed in (3, 4)], (1,))
    warped, inside = warp(drive.images, drive.depth, drive.K, torch.eye(4).expand(2, 4, 4))
    torch.testing.assert_close(warped, drive.images, atol=1e-3, rtol=0)
    assert inside[:, :, 1:-1, 1:-1].all()


def test_a_step_sideways_shifts_by_the_disparity() -> None:
    source = torch.rand(1, 3, 12, 30, generator=torch.Generator().manual_seed(0))
    K = torch.tensor([[[20.0, 0, 15], [0, 20.0, 6], [0, 0, 1]]])
    pose = torch.eye(4)[None].clone()
    pose[0, 0, 3] = -0.5  # at depth 5 that is 20 * 0.5 / 5 = 2 pixels
    warped, inside = warp(source, torch.full((1, 1, 12, 30), 5.0), K, pose)
    torch.testing.assert_close(warped[..., 2:], source[..., :-2], atol=1e-4, rtol=0)
    assert inside[..., 3:].all() and not inside[..., :2].any()


def test_what_does_not_fit_is_named() -> None:
    image, depth = torch.rand(2, 3, 8, 8), torch.ones(2, 1, 8, 8)
    K, pose = torch.eye(3).repeat(2, 1, 1), torch.eye(4).repeat(2, 1, 1)
    with pytest.raises(InputError, match=r"depth is \(2, 8, 8\); \(2, 1, 8, 8\) is needed"):
        warp(image, depth[:, 0], K, pose)
    with pytest.raises(InputError, match=r"K is \(2, 4, 4\)"):
        warp(image, depth, pose, pose)
    with pytest.raises(InputError, match=r"source_T_target is \(4, 4\)"):
        warp(image, depth, K, pose[0])


def test_pixels_are_numbered_row_by_row_at_their_centres() -> None:
    assert pixel_coordinates(2, 3, torch.device("cpu")).T.tolist() == [
        [0, 0, 1],
        [1, 0, 1],
        [2, 0, 1],
        [0, 1, 1],
        [1, 1, 1],
        [2, 1, 1],
    ]


def test_projection_undoes_unprojection() -> None:
    depth = torch.rand(1, 1, 12, 30, generator=torch.Generator().manual_seed(0)) * 9 + 1
    points = unproject(depth, K)
    torch.testing.assert_close(points[:, 2], depth.flatten(2)[:, 0])
    seen = project(points, K, (12, 30))
    pixels = pixel_coordinates(12, 30, depth.device)
    torch.testing.assert_close(torch.stack([seen.x[0], seen.y[0]]), pixels[:2], atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.depth, points[:, 2])
    assert not project(-points, K, (12, 30)).inside.any(), "what lies behind the camera is not seen"


def test_sampling_at_pixels_and_between_them() -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4)
    y, x = torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij")
    torch.testing.assert_close(sample(image, x[None], y[None]), image)
    torch.testing.assert_close(sample(image, x[None, :, :3] + 0.5, y[None, :, :3]), image[..., :3] + 0.5)
    torch.testing.assert_close(sample(image, x[None] - 9, y[None])[..., 0], image[..., 0], msg="the border goes on")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 90), st.integers(1, 90))
def test_intrinsics_follow_their_image(h: int, w: int, new_h: int, new_w: int) -> None:
    resized = resized_intrinsics(K, (h, w), (new_h, new_w))
    point = torch.tensor([0.3, -0.2, 1.0])
    u, v, _ = (K[0] @ point).tolist()
    expected = ((u + 0.5) * new_w / w - 0.5, (v + 0.5) * new_h / h - 0.5)
    assert (resized[0] @ point)[:2].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    torch.testing.assert_close(resized_intrinsics(resized, (new_h, new_w), (h, w)), K, rtol=1e-4, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1))
def test_disparity_and_depth(disparity: float) -> None:
    config = HybridDepthConfig()
    depth = disparity_to_depth(torch.tensor(disparity, dtype=torch.float64), config.min_depth, config.max_depth).item()
    assert depth == pytest.approx(1 / (0.01 + 9.99 * disparity))
    assert depth_to_disparity(depth, config.min_depth, config.max_depth) == pytest.approx(disparity, abs=1e-12)


def test_skewed_pixels_are_projected_where_they_came_from() -> None:
    skewed = K + torch.tensor([[0.0, 3, 0], [0, 0, 0], [0, 0, 0]])
    depth = torch.rand(1, 1, 12, 30, generator=torch.Generator().manual_seed(0)) * 9 + 1
    seen = project(unproject(depth, skewed), skewed, (12, 30))
    pixels = pixel_coordinates(12, 30, depth.device)
    torch.testing.assert_close(torch.stack([seen.x[0], seen.y[0]]), pixels[:2], atol=1e-4, rtol=0)


def test_a_field_of_view_spans_the_borders() -> None:
    """Of 4 pixels that see 90 degrees, the borders lie at 45 degrees, half a pixel beyond the outer centres."""
    K = intrinsics_from_fov(90, (2, 4))
    torch.testing.assert_close(K, torch.tensor([[2.0, 0, 1.5], [0, 2.0, 0.5], [0, 0, 1]]))
    left, right = (unproject(torch.ones(1, 1, 1, 1), K[None] - shift)[0, :, 0] for shift in _shifts(-0.5, 3.5))
    torch.testing.assert_close(torch.stack([left[0], right[0]]), torch.tensor([-1.0, 1.0]))


def _shifts(*pixels: float) -> list[torch.Tensor]:
    """What moves these columns of an image to its first pixel."""
    return [torch.tensor([[[0.0, 0, x], [0, 0, 0], [0, 0, 0]]]) for x in pixels]


def test_a_field_of_view_stays_when_images_are_resized() -> None:
    for before, after in (((375, 1242), (192, 640)), ((192, 640), (96, 320))):
        K = resized_intrinsics(intrinsics_from_fov(82, before), before, after)
        expected = intrinsics_from_fov(82, after)
        torch.testing.assert_close(K[0], expected[0])


@pytest.mark.parametrize("fov", [0, -20, 180, 361, float("nan"), float("inf")])
def test_no_camera_sees_everything(fov: float) -> None:
    with pytest.raises(InputError, match=rf"fov is {fov}; the horizontal field of view"):
        intrinsics_from_fov(fov, (10, 20))
