"""The plane sweep against a plain loop, and against known depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hybrid_encoder import ConfigError, InputError
from hybrid_encoder.data import SyntheticBatch, SyntheticDrive, synthetic_batch
from hybrid_encoder.geometry import plane_sweep
from hybrid_encoder.geometry.plane_sweep import (
    confidence_mask,
    depth_bins,
    lowest_cost_disparity,
    plane_sweep_cost_volume,
)
from hybrid_encoder.geometry.pose import pose_matrix

from helpers.plane_sweep import motions, scene


def project(K: Tensor, pose: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Where pixels of given depth (h, w) land in a lookup frame, (2, h, w), and their depth there, (h, w)."""
    v, u = torch.meshgrid(*(torch.arange(n, dtype=K.dtype) for n in depth.shape), indexing="ij")
    points = torch.linalg.inv(K[:3, :3]) @ (torch.stack([u, v, torch.ones_like(u)]) * depth).flatten(1)
    x, y, z = (K[:3, :3] @ (pose[:3, :3] @ points + pose[:3, 3:])).view(3, *depth.shape)
    return torch.stack([x / z, y / z]), z


def sample(maps: Tensor, place: Tensor, mode: str = "bilinear") -> Tensor:
    """Maps (C, h, w) at pixels (2, h, w)."""
    height, width = maps.shape[-2:]
    grid = torch.stack([2 * place[0] / (width - 1) - 1, 2 * place[1] / (height - 1) - 1], dim=-1)
    return F.grid_sample(maps[None], grid[None], mode=mode, align_corners=True)[0]


def loop(
    current: Tensor, lookup: Tensor, poses: Tensor, K: Tensor, inv_K: Tensor, depth_bins: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The sweep in double precision, one depth of one frame of one item at a time.

    Also which pixels no rounding can move across a border, (B, h, w).
    """
    batch, frames, _, height, width = lookup.shape
    cost = torch.zeros(batch, depth_bins.shape[-1], height, width, dtype=torch.float64)
    count = torch.zeros_like(cost)
    clear = torch.ones(batch, height, width, dtype=torch.bool)
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[2:-2, 2:-2] = True
    for b in range(batch):
        for n in range(frames):
            if not poses[b, n].any():
                continue
            for d, depth in enumerate(depth_bins.expand(batch, -1)[b].double()):
                place, z = project(K[b].double(), poses[b, n].double(), depth.expand(height, width))
                margin = torch.stack([place[0] - 2, width - 2 - place[0], place[1] - 2, height - 2 - place[1], z])
                seen = inside & (margin >= 0).all(0)
                clear[b] &= (margin.abs() > 1e-3).all(0)
                warped = sample(lookup[b, n].double(), place.nan_to_num(0, 0, 0))
                difference = (warped - current[b].double()).abs().mean(0)
                cost[b, d] += torch.where(seen, difference, 0)
                count[b, d] += seen
    mean, missing = cost / count.clamp(min=1), count == 0
    return torch.where(missing, mean.amax(1, keepdim=True), mean).float(), missing, clear


class TestAgainstALoop:
    @settings(max_examples=40, deadline=None)
    @given(
        batch=st.integers(1, 3), frames=st.integers(1, 3), channels=st.integers(1, 9), height=st.integers(3, 13),
        width=st.integers(3, 13), bins=st.integers(2, 6), seed=st.integers(0, 99), per_item=st.booleans(),
        dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), missing=st.booleans(),
        size=st.sampled_from([0.02, 0.3, 1.0]), chunk=st.sampled_from([1, 300, 2**20]),
    )  # fmt: skip
    def test_any_shapes(
        self, batch: int, frames: int, channels: int, height: int, width: int, bins: int, seed: int, per_item: bool,
        dtype: torch.dtype, missing: bool, size: float, chunk: int,
    ) -> None:  # fmt: skip
        given = scene(batch, frames, channels, height, width, bins, seed)
        given["poses"] = motions(batch, frames, size, seed)
        if missing:
            given["poses"][seed % batch, seed % frames] = 0
        if per_item:
            given["depth_bins"] = torch.stack([(1 + i) * given["depth_bins"] for i in range(batch)])
        for name in ("current", "lookup"):
            given[name] = given[name].to(dtype)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(plane_sweep.CHUNK, "cpu", chunk)
            cost, unseen = plane_sweep_cost_volume(**given)
        expected, expected_unseen, clear = loop(**given)
        assert cost.dtype == torch.float32 and unseen.dtype == torch.bool
        assert cost.shape == unseen.shape == (batch, bins, height, width)
        clear = clear[:, None].expand_as(unseen)
        assert torch.equal(unseen[clear], expected_unseen[clear])
        torch.testing.assert_close(cost[clear], expected[clear], rtol=1e-4, atol=2e-3 if size == 1 else 2e-4)

    def test_what_the_loop_sees_is_not_nothing(self) -> None:
        _, missing, clear = loop(**scene())
        assert 0.1 < missing.float().mean() < 0.9 and clear.float().mean() > 0.9

    def test_no_tensor_holds_every_bin_of_every_channel(self) -> None:
        class Largest(TorchDispatchMode):
            numel = 0

            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                result = func(*args, **(kwargs or {}))
                for x in result if isinstance(result, (tuple, list)) else [result]:
                    self.numel = max(self.numel, x.numel() if isinstance(x, Tensor) else 0)
                return result

        given = scene(1, 2, 64, 40, 40, 64)
        with Largest() as largest, pytest.MonkeyPatch.context() as patch:  # type: ignore[no-untyped-call]
            patch.setitem(plane_sweep.CHUNK, "cpu", 2**18)
            plane_sweep_cost_volume(**given)
        assert largest.numel <= 2**18 < 64 * given["current"].numel() / 20

    def test_autocast_moves_no_pixel(self) -> None:
        given = scene()
        expected = plane_sweep_cost_volume(**given)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(plane_sweep_cost_volume(**given), expected, rtol=0, atol=0)


@pytest.fixture(scope="module")
def drives() -> list[tuple[SyntheticBatch, Tensor]]:
    """Frame 5 and its neighbours 3, 4, 6, 7 of three drives, with poses out of frame 5."""
    frames, found = (5, 3, 4, 6, 7), []
    for seed in range(3):
        batch = synthetic_batch([SyntheticDrive(seed)], frames)
        # A pixel is the mean over its area, as a camera has it, where the renderer looks through its centre alone.
        twice = synthetic_batch([SyntheticDrive(seed, height=192, width=640)], frames)
        world_T_cam = batch.world_T_cam.double()
        poses = torch.linalg.inv(world_T_cam[1:]) @ world_T_cam[0]
        found.append((batch._replace(images=F.avg_pool2d(twice.images, 2)), poses.float()))
    return found


class TestTruth:
    def test_the_cheapest_bin_is_the_true_depth(self, drives: list[tuple[SyntheticBatch, Tensor]]) -> None:
        """Within one of 24 bins in 97.2 % of the textured pixels that all frames see; these are 30 % of all pixels."""
        bins, hits, pixels = depth_bins(2, 40, 24, "inverse"), 0, 0
        for batch, poses in drives:
            features = _patches(batch.images)
            K = torch.eye(4)[None].clone()
            K[:, :3, :3] = batch.K[:1]
            cost, missing = plane_sweep_cost_volume(features[:1], features[None, 1:], poses[None], K, K.inverse(), bins)
            depth = batch.depth[0, 0]
            step = 1 / bins[0] - 1 / bins[1]
            off = (1 / depth - lowest_cost_disparity(cost, bins)[0]).abs() / step
            checked = _textured(batch.images[0], depth, step) & batch.valid[0, 0] & (depth > 2) & (depth < 40)
            for n, pose in enumerate(poses, 1):
                place, z = project(K[0], pose, depth)
                for mode in ("bilinear", "nearest"):
                    checked &= (sample(batch.depth[n], place, mode)[0] / z - 1).abs() < 0.02
            checked &= ~missing[0].gather(0, (1 / depth[..., None] - 1 / bins).abs().argmin(-1)[None])[0]
            hits, pixels = hits + int((off < 1.5)[checked].sum()), pixels + int(checked.sum())
        assert pixels > 0.25 * 3 * 96 * 320
        assert hits > 0.965 * pixels

    def test_without_motion_no_depth_is_better(self) -> None:
        given = scene(frames=1, height=16, width=20)
        given["lookup"] = given["current"][:, None]
        given["poses"] = torch.eye(4).repeat(2, 1, 1, 1)
        cost, missing = plane_sweep_cost_volume(**given)
        assert cost.isfinite().all() and cost.max() < 1e-4
        assert not missing[:, :, 3:-3, 3:-3].any()
        assert lowest_cost_disparity(cost, given["depth_bins"]).isfinite().all()

    def test_a_missing_frame_changes_nothing_for_the_others(self) -> None:
        given = scene(frames=3)
        given["poses"][1, 1] = 0
        cost, missing = plane_sweep_cost_volume(**given)
        given["lookup"][1, 1] = float("nan")  # whatever stands in its place
        two = {**given, "lookup": given["lookup"][:, [0, 2]], "poses": given["poses"][:, [0, 2]]}
        cost_of_two, missing_of_two = plane_sweep_cost_volume(**two)
        torch.testing.assert_close(cost[1], cost_of_two[1])
        assert torch.equal(missing[1], missing_of_two[1])
        given["poses"][1, 1] = motions(1, 1)[0, 0]
        given["lookup"][1, 1] = 0
        torch.testing.assert_close(plane_sweep_cost_volume(**given)[0][0], cost[0], rtol=0, atol=0)

    def test_what_stands_in_a_missing_frame_is_not_read(self) -> None:
        given = scene(frames=2)
        given["poses"][:, 1] = 0
        expected, _ = plane_sweep_cost_volume(**given)
        given["lookup"][:, 1] = float("nan")
        torch.testing.assert_close(plane_sweep_cost_volume(**given)[0], expected, rtol=0, atol=0)

    def test_with_every_frame_missing_nothing_is_seen(self) -> None:
        given = scene()
        given["poses"][0] = 0
        cost, missing = plane_sweep_cost_volume(**given)
        assert missing[0].all() and not missing[1].all()
        assert not cost[0].any()
        assert not confidence_mask(missing)[0].any()
        torch.testing.assert_close(lowest_cost_disparity(cost, given["depth_bins"])[0], torch.full((12, 16), 2.0))

    def test_what_lies_behind_a_lookup_camera_is_not_seen(self) -> None:
        given = scene(1, 1, height=20, width=20)
        given["poses"] = pose_matrix(torch.zeros(1, 1, 3), torch.tensor([[[0.0, 0.0, -4.0]]]))
        _, missing = plane_sweep_cost_volume(**{**given, "depth_bins": torch.tensor([1.0, 2.0, 12.0])})
        assert missing[0, :2].all() and not missing[0, 2].all()

    def test_swapping_two_lookup_frames_changes_nothing(self) -> None:
        given = scene()
        swapped = {**given, "lookup": given["lookup"].flip(1), "poses": given["poses"].flip(1)}
        torch.testing.assert_close(plane_sweep_cost_volume(**swapped), plane_sweep_cost_volume(**given))

    @pytest.mark.parametrize("scale", [0.25, 3.7, 100.0])
    def test_scaling_poses_and_bins_together_changes_nothing(self, scale: float) -> None:
        given = scene()
        scaled = {**given, "poses": given["poses"].clone(), "depth_bins": scale * given["depth_bins"]}
        scaled["poses"][..., :3, 3] *= scale
        cost, missing = plane_sweep_cost_volume(**given)
        scaled_cost, scaled_missing = plane_sweep_cost_volume(**scaled)
        torch.testing.assert_close(scaled_cost, cost, rtol=1e-4, atol=1e-4)
        assert torch.equal(scaled_missing, missing)

    def test_nothing_carries_a_gradient(self) -> None:
        given = scene()
        given["current"].requires_grad_(), given["poses"].requires_grad_(), given["K"].requires_grad_()
        assert not plane_sweep_cost_volume(**given)[0].requires_grad


def _patches(images: Tensor) -> Tensor:
    """Every pixel's 5 x 5 surroundings in grey as its features, (B, 25, H, W)."""
    padded = F.pad(images.mean(1, keepdim=True), [2] * 4, mode="replicate")
    patches: Tensor = F.unfold(padded, 5).unflatten(-1, images.shape[-2:])
    return patches


def _textured(image: Tensor, depth: Tensor, step: Tensor) -> Tensor:
    """Where a patch has contrast and lies on one surface, (H, W)."""
    grey = image.mean(0, keepdim=True)
    contrast = (F.avg_pool2d(grey**2, 5, 1, 2) - F.avg_pool2d(grey, 5, 1, 2) ** 2).clamp(min=0).sqrt()[0]
    low, high = -F.max_pool2d(-1 / depth[None], 5, 1, 2)[0], F.max_pool2d(1 / depth[None], 5, 1, 2)[0]
    return (contrast > 0.02) & (high - low < 1.5 * step)


class TestBins:
    def test_near_to_far(self) -> None:
        torch.testing.assert_close(depth_bins(1, 5, 5), torch.tensor([1.0, 2, 3, 4, 5]))
        torch.testing.assert_close(1 / depth_bins(0.5, 4, 8, "inverse"), torch.linspace(2, 0.25, 8))

    @pytest.mark.parametrize(
        ("given", "error", "says"),
        [
            ((5.0, 1.0, 8), InputError, "from 5 to 1; 0 < min_depth < max_depth"),
            ((0.0, 1.0, 8), InputError, "0 < min_depth"),
            ((float("nan"), 1.0, 8), InputError, "0 < min_depth"),
            ((1.0, float("inf"), 8), InputError, "0 < min_depth"),
            ((1.0, 2.0, 1), ConfigError, "is 1; it must be at least 2"),
            ((1.0, 2.0, 8, "log"), ConfigError, "'log'; it must be 'linear' or 'inverse'"),
        ],
    )
    def test_refusals(self, given: Any, error: type[Exception], says: str) -> None:
        with pytest.raises(error, match=says):
            depth_bins(*given)

    def test_disparity_of_bins_for_each_item(self) -> None:
        cost = torch.rand(2, 4, 3, 5)
        bins = torch.stack([depth_bins(1, 4, 4), depth_bins(2, 8, 4)])
        both = lowest_cost_disparity(cost, bins)
        torch.testing.assert_close(both[0], lowest_cost_disparity(cost, bins[0])[0])
        torch.testing.assert_close(both[1], 1 / bins[1][cost[1].argmin(0)])
        assert (lowest_cost_disparity(torch.zeros(1, 4, 1, 1), bins[0]) == 1).all()  # the nearest of equals


class TestBadInput:
    @pytest.mark.parametrize(
        ("name", "change", "says"),
        [
            ("poses", lambda x: x[:, :1], r"poses has the shape \(2, 1, 4, 4\); \(2, 2, 4, 4\) is needed"),
            ("poses", lambda x: x[..., :3, :], r"poses has the shape \(2, 2, 3, 4\)"),
            ("poses", lambda x: x.masked_fill(torch.eye(4, dtype=torch.bool), float("nan")), "poses holds NaN"),
            ("K", lambda x: x[:1], r"K has the shape \(1, 4, 4\); \(2, 4, 4\)"),
            ("inv_K", lambda x: x[:, :3, :3], r"inv_K has the shape \(2, 3, 3\)"),
            ("inv_K", lambda x: 2 * x, "inv_K is not the inverse of K"),
            ("K", lambda x: x * float("nan"), "inv_K is not the inverse of K"),
            ("depth_bins", lambda x: x.flip(0), "depth_bins does not rise"),
            ("depth_bins", lambda x: x - 3, "depth_bins does not rise from above 0"),
            ("depth_bins", lambda x: x.repeat(3, 1), r"depth_bins has the shape \(3, 6\); \(D,\) or \(B, D\)"),
            ("depth_bins", lambda x: x[:0], r"depth_bins has the shape \(0,\)"),
            ("depth_bins", lambda x: x[0], r"depth_bins has the shape \(\)"),
            ("lookup", lambda x: x[:, :0], r"lookup has no frame.*at least one is needed"),
            ("lookup", lambda x: x[..., 1:], r"current has the shape .*12, 16\) and lookup .*12, 15\).*same"),
            ("lookup", lambda x: x[:, 0], "current has the shape"),
            ("current", lambda x: x[:1], "the same items and sizes"),
        ],
    )
    def test_one_sentence(self, name: str, change: Callable[[Tensor], Tensor], says: str) -> None:
        given = scene()
        with pytest.raises(InputError, match=says):
            plane_sweep_cost_volume(**{**given, name: change(given[name])})

    @pytest.mark.parametrize("scale", [4.0, 1 / 16])
    def test_intrinsics_of_another_scale(self, scale: float) -> None:
        given = scene()
        given["K"][:, :2] *= scale
        given["inv_K"] = given["K"].inverse()
        with pytest.warns(UserWarning, match=r"outside the 16 x 12 feature map"):
            plane_sweep_cost_volume(**given)
