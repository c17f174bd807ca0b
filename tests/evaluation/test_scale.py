"""The factor to metres: known factors are found again by lidar, camera height and stereo, and wrong ones are not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hybrid_encoder import HybridDepthModel, InputError
from hybrid_encoder.data import SyntheticDrive
from hybrid_encoder.evaluation import (
    MONODEPTH2_STEREO_SCALE,
    ScaleFit,
    evaluate_kitti,
    fit_kitti_scale,
    fit_scale,
    kitti_frames,
    scale_from_camera_height,
    scale_from_stereo,
)

UNIT = 7.0  # metres in the unit of depth of these tests
BASELINE = 0.5
SIZE = (64, 192)


@dataclass(frozen=True)
class ShiftedDrive(SyntheticDrive):
    """The same street from a second camera of a rectified pair, ``shift`` metres along the x axis of the first."""

    shift: float = 0.0

    def world_T_cam(self, index: int) -> Any:
        pose = super().world_T_cam(index).copy()
        pose[:3, 3] += self.shift * pose[:3, 0]
        return pose


class Scene:
    """Two streets as tensors: images of both cameras, depth in units of 7 m, and heights of the camera."""

    def __init__(self, shift: float = BASELINE) -> None:
        drives = [SyntheticDrive(seed, 2, *SIZE) for seed in (1, 7)]
        others = [ShiftedDrive(seed, 2, *SIZE, shift=shift) for seed in (1, 7)]
        self.images, self.others = (torch.from_numpy(np.stack([d[1].image for d in ds])) for ds in (drives, others))
        self.metres = torch.from_numpy(np.stack([drive[1].depth for drive in drives]))
        self.depth = self.metres / UNIT
        self.K = torch.from_numpy(drives[0].K)
        self.heights = [-drive.world_T_cam(1)[1, 3] for drive in drives]


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


@pytest.fixture(scope="module")
def lidar(scene: Scene) -> torch.Tensor:
    truth = torch.zeros_like(scene.metres)
    truth[..., 30::3, ::4] = scene.metres[..., 30::3, ::4]
    return truth


def noisy(depth: torch.Tensor, amount: float = 0.1) -> torch.Tensor:
    return depth * torch.exp(amount * torch.randn(depth.shape, generator=torch.Generator().manual_seed(0)))


def test_lidar_gives_the_factor(scene: Scene, lidar: torch.Tensor) -> None:
    fit = fit_scale(scene.depth, lidar)
    assert fit.factors == pytest.approx((UNIT, UNIT), rel=1e-6)
    assert fit.factor == pytest.approx(UNIT, rel=1e-6)
    assert fit.spread == pytest.approx(0, abs=1e-6) and fit.error == pytest.approx(0, abs=1e-6)
    fit = fit_scale(noisy(scene.depth), lidar)
    assert fit.factor == pytest.approx(UNIT, rel=0.01)
    assert fit.error == pytest.approx(0.0674, abs=0.01)  # the median of |x| where x is normal with sigma 0.1


def test_numbers_of_lidar_by_hand() -> None:
    depth = torch.tensor([[1.0, 1.0, 1.0, 9.0], [1.0, 2.0, 4.0, 4.0]])[:, None, None]
    truth = torch.tensor([[2.0, 3.0, 10.0, 0.0], [8.0, 16.0, math.nan, math.inf]])[:, None, None]
    fit = fit_scale(depth, truth)
    # Ratios 2, 3, 10, and 8, 8; differences |3 / r - 1| of 1/2, 0, 7/10, and 0, 0; population deviation 2.5 of 5.5.
    assert (fit.factor, fit.factors, fit.left_out) == (5.5, (3.0, 8.0), 0)
    assert (fit.spread, fit.error) == pytest.approx((2.5 / 5.5, 0.25))
    first = fit_scale(depth[0, 0], truth[0, 0], torch.tensor([[True, True, False, True]]))
    assert (first.factor, first.factors, first.spread) == (2.5, (2.5,), None)
    assert first.error == pytest.approx((0.25 + 1 / 6) / 2)
    assert fit_scale(depth[0, 0], truth[0, 0], max_depth=9.0).factor == 2.5


def test_random_depth_has_a_factor_and_an_error_that_tells(scene: Scene, lidar: torch.Tensor) -> None:
    random = 0.1 + torch.rand(scene.depth.shape, generator=torch.Generator().manual_seed(0))
    assert fit_scale(random, lidar).error > 0.4
    with pytest.raises(InputError, match="none of 2 images gives a scale: fewer than half of the pixels"):
        scale_from_camera_height(random, scene.K, 1.5)
    with pytest.raises(InputError, match="none of 1 images gives a scale: no factor makes depth explain"):
        scale_from_stereo(scene.images[:1], scene.others[:1], random[:1], scene.K, BASELINE)


def test_images_of_another_scale_show_in_the_spread(scene: Scene, lidar: torch.Tensor) -> None:
    depth = scene.depth * torch.tensor([1.0, 0.5])[:, None, None, None]
    fit = fit_scale(depth, lidar)
    assert fit.factors == pytest.approx((UNIT, 2 * UNIT), rel=1e-6)
    assert fit.spread == pytest.approx(0.5 / 1.5, rel=1e-6)


@pytest.mark.parametrize(("amount", "tolerance"), [(0.0, 0.01), (0.1, 0.03)])
def test_camera_height_gives_the_factor_and_a_wrong_one_a_wrong_factor(
    scene: Scene, amount: float, tolerance: float
) -> None:
    depth = noisy(scene.depth, amount)
    for index, height in enumerate(scene.heights):
        one = depth[index : index + 1]
        fit = scale_from_camera_height(one, scene.K, height)
        assert fit.factor == pytest.approx(UNIT, rel=tolerance)
        assert fit.spread is None and fit.left_out == 0
        assert scale_from_camera_height(one, scene.K, 1.3 * height).factor == pytest.approx(1.3 * fit.factor)
        assert scale_from_camera_height(one * 1000, scene.K, height).factor == pytest.approx(fit.factor / 1000)


def test_images_without_a_road_are_left_out(scene: Scene) -> None:
    depth = scene.depth.clone()
    depth[0] = 3.0
    fit = scale_from_camera_height(depth, scene.K.expand(2, 3, 3), scene.heights[1])
    assert fit.factors == pytest.approx([UNIT], rel=0.01) and fit.left_out == 1


@pytest.mark.parametrize(("amount", "tolerance"), [(0.0, 0.01), (0.1, 0.03)])
def test_a_stereo_pair_gives_the_factor(scene: Scene, amount: float, tolerance: float) -> None:
    fit = scale_from_stereo(scene.images, scene.others, noisy(scene.depth, amount), scene.K, BASELINE)
    assert fit.factors == pytest.approx([UNIT, UNIT], rel=tolerance)
    assert fit.spread is not None and fit.spread < 2 * tolerance and 0 < fit.error < 0.5


def test_stereo_backwards_and_with_wrong_baselines(scene: Scene) -> None:
    left = Scene(-BASELINE)
    one = slice(0, 1)
    pair = left.images[one], left.others[one], left.depth[one], left.K
    assert scale_from_stereo(*pair, -BASELINE).factor == pytest.approx(UNIT, rel=0.01)
    assert scale_from_stereo(*pair, -2 * BASELINE).factor == pytest.approx(2 * UNIT, rel=0.01)
    with pytest.raises(InputError, match="sign of the baseline"):
        scale_from_stereo(*pair, BASELINE)
    with pytest.raises(InputError, match="no factor"):  # no parallax at all: nothing to learn a scale from
        scale_from_stereo(left.images[one], left.images[one], left.depth[one], left.K, BASELINE)


def test_wide_pairs_are_compared_at_less_width() -> None:
    drives = [cls(3, 2, 64, 700, **kw) for cls, kw in ((SyntheticDrive, {}), (ShiftedDrive, {"shift": BASELINE}))]
    frame, other = (drive[1] for drive in drives)
    image, other_image, depth = (torch.from_numpy(x)[None] for x in (frame.image, other.image, frame.depth / UNIT))
    fit = scale_from_stereo(image, other_image, depth, torch.from_numpy(frame.K), BASELINE)
    assert fit.factor == pytest.approx(UNIT, rel=0.01)


def test_wrong_input_is_named(scene: Scene, lidar: torch.Tensor) -> None:
    images, others, depth, k = scene.images, scene.others, scene.depth, scene.K
    cases: list[tuple[Any, str]] = [
        (lambda: fit_scale(depth[:1], lidar), "resize the prediction"),
        (lambda: fit_scale(depth, lidar * 0), "image 0 of the batch has no known truth between 0.001 and 80 m"),
        (lambda: fit_scale(depth * 0, lidar), "image 0 of the batch has depth that is not positive and finite"),
        (lambda: fit_scale(depth * math.nan, lidar), "depth that is not positive and finite"),
        (lambda: fit_scale(-depth, lidar), "depth that is not positive and finite"),
        (lambda: fit_scale(depth, lidar, crop="wide"), "crop is 'wide'"),  # type: ignore[arg-type]
        (lambda: scale_from_camera_height(depth, k, 0), "the camera's height is 0 m"),
        (lambda: scale_from_camera_height(depth, k, math.nan), "the camera's height is nan m"),
        (lambda: scale_from_camera_height(depth[0], k, 1), r"depth is \(1, 64, 192\) and K \(3, 3\)"),
        (lambda: scale_from_camera_height(depth, k.expand(3, 3, 3), 1), r"K \(3, 3, 3\); \(B, 1, H, W\) and \(3, 3\)"),
        (lambda: scale_from_stereo(images, others, depth, k, 0), "the baseline is 0 m"),
        (lambda: scale_from_stereo(images, others[..., 1:], depth, k, 1), "the other"),
        (lambda: scale_from_stereo(images, others, depth * 0, k, 1), "depth is not positive and finite everywhere"),
        (lambda: ScaleFit.combine([]), "none of 0 images gives a scale: give at least one image"),
    ]
    for call, says in cases:
        with pytest.raises(InputError, match=says):
            call()


def test_the_scale_of_stereo_training_is_monodepth2s() -> None:
    assert pytest.approx(0.54 / 0.1) == MONODEPTH2_STEREO_SCALE


@pytest.mark.slow
def test_sources_of_scale_agree_for_a_trained_model() -> None:
    """On rendered streets, whose like the weights that ship with the package know, and have not seen these."""
    model = HybridDepthModel.from_pretrained("tiny")
    fits: dict[str, list[ScaleFit]] = {"lidar": [], "height": [], "stereo": []}
    for seed in range(5000, 5005):
        drive, other = SyntheticDrive(seed, num_frames=2), ShiftedDrive(seed, num_frames=2, shift=BASELINE)
        frame, k = drive[1], torch.from_numpy(drive.K)
        image, right = (torch.from_numpy(x.image)[None] for x in (frame, other[1]))
        depth = model.infer(image).relative_depth
        assert depth is not None
        fits["lidar"].append(fit_scale(depth, torch.from_numpy(frame.depth * frame.valid)[None]))
        fits["height"].append(scale_from_camera_height(depth, k, -drive.world_T_cam(1)[1, 3]))
        fits["stereo"].append(scale_from_stereo(image, right, depth, k, BASELINE))
    lidar, height, stereo = (ScaleFit.combine(found) for found in fits.values())
    assert stereo.factor == pytest.approx(lidar.factor, rel=0.08)
    assert height.factor == pytest.approx(lidar.factor, rel=0.15)
    assert all(fit.spread is not None and fit.spread < 0.25 for fit in (lidar, height, stereo))
    assert lidar.error < 0.1 and height.error < 0.05


@pytest.mark.slow
@pytest.mark.real_data
def test_sources_of_scale_agree_on_kitti(data: Path) -> None:
    """What ships with the package knows rendered streets: here, the road has another scale than what stands on it."""
    model = HybridDepthModel.from_pretrained("tiny")
    frames = kitti_frames(data / "kitti_mini", needs="stereo")
    assert [frame for _, frame in frames] == list(range(6))
    assert frames[0][0].baseline == pytest.approx(0.54, abs=0.01)
    assert frames[0][0].other.baseline == pytest.approx(-0.54, abs=0.01)
    lidar = fit_kitti_scale(model, frames, "lidar")
    stereo = fit_kitti_scale(model, frames[:3], "stereo")
    assert stereo.factor == pytest.approx(lidar.factor, rel=0.15)
    height = fit_kitti_scale(model, frames[:1], "camera-height")
    assert height.error < 0.05 and height.factor == pytest.approx(0.6 * lidar.factor, rel=0.1)
    model.set_metric_scale(lidar.factor)
    unscaled, scaled = (evaluate_kitti(model, frames, median_scaling=by_medians) for by_medians in (False, True))
    assert unscaled.rmse_log == pytest.approx(scaled.rmse_log, rel=0.1)
