"""The plane sweep against a plain loop, against known depth, and inside the multi-frame encoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hybrid_encoder import (
    CheckpointError,
    ConfigError,
    HybridDepthModel,
    HybridEncoderConfig,
    InputError,
    PromptConfig,
    matching,
)
from hybrid_encoder.checkpoints import load_published_matching
from hybrid_encoder.config import IMAGENET_MEAN, IMAGENET_STD, NO_MEAN, SemanticConfig
from hybrid_encoder.data import SyntheticBatch, SyntheticDrive, synthetic_batch
from hybrid_encoder.geometry.plane_sweep import (
    confidence_mask,
    depth_bins,
    lowest_cost_disparity,
    plane_sweep_cost_volume,
)
from hybrid_encoder.geometry.pose import pose_matrix
from hybrid_encoder.models.matching import HybridMatchingEncoder, multi_frame_config

from helpers.published_layout import as_published, small_config
from helpers.small_models import small_clip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small steps by the thousand: threads on busy cores would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def intrinsics(height: int, width: int, focal: float = 0.6, batch: int = 1) -> Tensor:
    K = torch.eye(4)
    K[0, 0] = K[1, 1] = focal * width
    K[0, 2], K[1, 2] = (width - 1) / 2, (height - 1) / 2
    return K.repeat(batch, 1, 1)


def motions(batch: int, frames: int, size: float = 0.1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    turn, shift = (size * torch.randn(batch, frames, 3, generator=generator) for _ in range(2))
    return pose_matrix(0.3 * turn, shift)


def scene(
    batch: int = 2, frames: int = 2, channels: int = 5, height: int = 12, width: int = 16, bins: int = 6, seed: int = 0
) -> dict[str, Tensor]:
    """Random features with true geometry around them."""
    generator = torch.Generator().manual_seed(seed)
    K = intrinsics(height, width, batch=batch)
    return {
        "current": torch.randn(batch, channels, height, width, generator=generator),
        "lookup": torch.randn(batch, frames, channels, height, width, generator=generator),
        "poses": motions(batch, frames, seed=seed),
        "K": K,
        "inv_K": K.inverse(),
        "depth_bins": depth_bins(0.5, 8, bins),
    }


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
            patch.setitem(matching.CHUNK, "cpu", chunk)
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
        with Largest() as largest, pytest.MonkeyPatch.context() as patch:
            patch.setitem(matching.CHUNK, "cpu", 2**18)
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
    return F.unfold(padded, 5).unflatten(-1, images.shape[-2:])


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


HEIGHT, WIDTH = 64, 96


def small_encoder(**changes: Any) -> HybridMatchingEncoder:
    torch.manual_seed(0)
    options: dict[str, Any] = {"num_depth_bins": 8, "min_depth_bin": 1.0, "max_depth_bin": 9.0, **changes}
    return HybridMatchingEncoder(options.pop("encoder", "tiny"), pretrained=False, **options).eval()


def pictures(frames: int = 2, height: int = HEIGHT, width: int = WIDTH) -> tuple[Tensor, ...]:
    """Current and lookup images, poses, K and its inverse, for two items."""
    generator = torch.Generator().manual_seed(0)
    K = intrinsics(height // 4, width // 4, batch=2)
    images = torch.rand(2, 1 + frames, 3, height, width, generator=generator)
    return images[:, 0], images[:, 1:], motions(2, frames), K, K.inverse()


@pytest.fixture(scope="module")
def encoder() -> HybridMatchingEncoder:
    return small_encoder()


class TestEncoder:
    @pytest.mark.parametrize(("height", "width", "frames"), [(64, 96, 2), (70, 106, 1)])
    def test_maps_disparity_and_confidence(
        self, encoder: HybridMatchingEncoder, height: int, width: int, frames: int
    ) -> None:
        with torch.no_grad():
            maps, lowest_cost, confidence = encoder(*pictures(frames, height, width))
        grid = (round(height / 14), round(width / 14))
        assert [tuple(x.shape) for x in maps] == [(2, c, *grid) for c in encoder.feature_info.channels()]
        assert lowest_cost.shape == confidence.shape == (2, height // 4, width // 4)
        assert set(lowest_cost.unique().tolist()) <= set((1 / encoder.depth_bins).tolist())
        assert set(confidence.unique().tolist()) == {0.0, 1.0}

    def test_matching_sits_after_the_first_map(self, encoder: HybridMatchingEncoder) -> None:
        current, lookup, *geometry = pictures()
        with torch.no_grad():
            alone = encoder.encoder.forward_features(current).fused
            one = encoder.forward_features(current, lookup, *geometry).hybrid.fused
            other = encoder.forward_features(current, lookup.flip(0), *geometry).hybrid.fused
        torch.testing.assert_close(one[0], alone[0], rtol=0, atol=0)
        torch.testing.assert_close(other[0], alone[0], rtol=0, atol=0)
        for level in (1, 2, 3):
            assert (one[level] - alone[level]).abs().max() > 1e-3
            assert (one[level] - other[level]).abs().max() > 1e-6

    def test_the_volume_is_masked_by_confidence(self, encoder: HybridMatchingEncoder) -> None:
        seen: list[Tensor] = []
        handle = encoder.reduce.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        with torch.no_grad():
            found = encoder.forward_features(*pictures())
        handle.remove()
        torch.testing.assert_close(seen[0][:, -8:], found.cost * found.confidence[:, None])
        assert torch.equal(found.confidence > 0, ~found.missing.any(1))

    @pytest.mark.parametrize("match", ["semantic", "both"])
    def test_what_has_a_gradient(self, match: Any) -> None:
        encoder = small_encoder(match=match).train()
        current, lookup, *geometry = pictures()
        lookup.requires_grad_()
        maps, lowest_cost, _ = encoder(current, lookup, *geometry)
        sum(x.square().mean() for x in maps).backward()
        assert lookup.grad is None and not lowest_cost.requires_grad
        assert encoder.reduce[0].weight.grad.abs().sum() > 0
        assert encoder.encoder.semantic.visual.conv1.weight.grad.abs().sum() > 0

    def test_bins_that_adapt_and_bins_that_do_not(self) -> None:
        given = pictures()
        with torch.no_grad():
            fixed = small_encoder()
            fixed(*given, min_depth_bin=2.0, max_depth_bin=4.0)
            torch.testing.assert_close(fixed.depth_bins, depth_bins(1, 9, 8))
            adaptive = small_encoder(adaptive_bins=True, depth_binning="inverse")
            adaptive(*given, min_depth_bin=2.0, max_depth_bin=4.0)
            torch.testing.assert_close(adaptive.depth_bins, depth_bins(2, 4, 8, "inverse"))
            adaptive(*given)
            torch.testing.assert_close(adaptive.depth_bins, depth_bins(2, 4, 8, "inverse"))
            with pytest.raises(InputError, match="from 4 to 2"):
                adaptive(*given, min_depth_bin=4.0, max_depth_bin=2.0)
        other = small_encoder(depth_binning="inverse")
        other.load_state_dict(adaptive.state_dict())
        torch.testing.assert_close(other.depth_bins, adaptive.depth_bins)

    def test_nothing_is_kept_and_it_moves_whole(self, encoder: HybridMatchingEncoder) -> None:
        before = set(vars(encoder))
        with torch.no_grad():
            first = encoder(*pictures())
            encoder(*pictures(1, 32, 64))
            torch.testing.assert_close(encoder(*pictures()), first, rtol=0, atol=0)
        assert set(vars(encoder)) == before
        assert all(x.is_meta for x in small_encoder().to("meta").buffers())

    def test_in_bfloat16(self) -> None:
        with torch.no_grad():
            maps, lowest_cost, _ = small_encoder().bfloat16()(*pictures())
        assert {x.dtype for x in maps} == {torch.bfloat16}
        assert all(x.isfinite().all() for x in (*maps, lowest_cost))

    @pytest.mark.parametrize("match", ["spatial", "both"])
    def test_matching_in_dino(self, match: Any) -> None:
        encoder = small_encoder(match=match)
        given = pictures(height=112, width=140)
        with torch.no_grad():
            found = encoder.forward_features(*given)
            alone = small_encoder(match="semantic").forward_features(*given)
        volumes = 2 if match == "both" else 1
        assert encoder.reduce[0].in_channels == encoder.encoder.semantic.channels[0] + 8 * volumes
        assert found.cost.shape == (2, 8, 28, 35) and found.confidence.any()
        assert torch.equal(found.cost, alone.cost) == (match == "both")

    def test_without_dino_and_with_a_convnext(self) -> None:
        config = HybridEncoderConfig.preset("tiny").replace(towers="semantic", prompts=None)
        convnext = small_clip("convnext_base", timm_model_name="convnext_atto", timm_model_pretrained=False)
        for semantic in (config.semantic, convnext):
            encoder = small_encoder(encoder=config.replace(semantic=semantic))
            with torch.no_grad():
                maps, *_ = encoder(*pictures())
            assert [x.shape[1] for x in maps] == encoder.feature_info.channels()

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"encoder": "vit"}, "semantic tower is a ViT.*choose a ResNet or ConvNeXt"),
            ({"encoder": "spatial"}, "semantic tower is none"),
            ({"encoder": "semantic", "match": "both"}, "match is 'both', and the encoder has no spatial tower"),
            ({"match": "depth"}, "match is 'depth'; it must be one of"),
            ({"depth_binning": "log"}, "'log'; it must be 'linear' or 'inverse'"),
        ],
    )
    def test_what_cannot_be_built(self, changes: dict[str, Any], says: str) -> None:
        config = HybridEncoderConfig.preset("tiny")
        vit = small_clip("ViT-B-32", width=48, head_width=24, layers=4)
        made = {
            "vit": config.replace(semantic=vit, prompts=None, towers="semantic"),
            "spatial": config.replace(towers="spatial", prompts=None),
            "semantic": config.replace(towers="semantic", prompts=None),
        }
        if "encoder" in changes:
            changes = {**changes, "encoder": made[changes["encoder"]]}
        with pytest.raises(ConfigError, match=says):
            small_encoder(**changes)

    @pytest.mark.parametrize(
        ("index", "change", "says"),
        [
            (0, lambda x: x * 255, "RGB in \\[0, 1\\] is needed"),
            (1, lambda x: x * 255, "RGB in \\[0, 1\\] is needed"),
            (1, lambda x: x[:, :0], "lookup_images has no frame"),
            (1, lambda x: x[..., :64], "current_image has the shape .* and lookup_images"),
            (2, lambda x: x * float("nan"), "poses holds NaN"),
            (2, lambda x: x[:, :1], "poses has the shape"),
        ],
    )
    def test_bad_input_is_found_before_work(
        self, encoder: HybridMatchingEncoder, index: int, change: Callable[[Tensor], Tensor], says: str
    ) -> None:
        given = list(pictures())
        given[index] = change(given[index])
        with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match=says):
            patch.setattr(encoder.encoder.semantic, "first", lambda images: pytest.fail("work was done"))
            encoder(*given)

    def test_intrinsics_of_the_image(self, encoder: HybridMatchingEncoder) -> None:
        *given, K, _ = pictures()
        K[:, :2] *= 4
        with pytest.warns(UserWarning, match="outside the 24 x 16 feature map"), torch.no_grad():
            encoder(*given, K, K.inverse())

    def test_parts_and_groups(self, encoder: HybridMatchingEncoder) -> None:
        assert sum(map(len, encoder.part_parameters().values())) == len(list(encoder.parameters()))
        groups = encoder.parameter_groups(1e-5, lr_scale={"matching": 10})
        assert {group["name"]: group["lr"] for group in groups}["matching"] == pytest.approx(1e-4)

    def test_a_preset_takes_the_published_settings(self) -> None:
        config = multi_frame_config("paper")
        assert (config.semantic.mean, config.semantic.std) == (IMAGENET_MEAN, IMAGENET_STD)
        assert config.spatial.mean == NO_MEAN and config.prompts and config.prompts.num_tokens == 128


def _published(**changes: Any) -> tuple[HybridDepthModel, HybridMatchingEncoder, dict[str, Any], dict[str, Tensor]]:
    """A small multi-frame model and its tensors under published names, with all that a published file carries."""
    torch.manual_seed(0)
    config = small_config(prompts=PromptConfig(num_tokens=6))
    semantic = SemanticConfig(**{**vars(config.encoder.semantic), "mean": IMAGENET_MEAN, "std": IMAGENET_STD})
    model = HybridDepthModel(config.replace(encoder=config.encoder.replace(semantic=semantic)), pretrained=False).eval()
    matcher = HybridMatchingEncoder(model.encoder, num_depth_bins=8, adaptive_bins=True).eval()
    encoder, depth = as_published(model)
    for key, value in list(encoder.items()):
        if copy := _second_name(key):
            encoder[copy] = value
    encoder |= {f"reduce_conv.0.{name}": value for name, value in matcher.reduce.state_dict().items()}
    encoder |= {
        name: torch.zeros(1)
        for name in ("reduce_conv.1.0.weight", "prematching_conv.0.weight", "backprojector_clip.ones")
    }
    return model, matcher, {**encoder, "height": 70, "width": 98, **changes}, depth


def _second_name(key: str) -> str | None:
    if found := re.match(r"clip\.visual\.layer([234])\.(.*)", key):
        return f"layer{found[1]}_clip.{found[2]}"
    if found := re.match(r"clip\.visual\.layer1\.(.*)", key):
        return f"layer1_clip.1.{found[1]}"
    if found := re.match(r"clip\.visual\.(conv|bn)([123])\.(.*)", key):
        return f"layer0_clip.{3 * int(found[2]) - 3 + (found[1] == 'bn')}.{found[3]}"
    if found := re.match(r"dinov2\.blocks\.(\d+)\.(.*)", key):
        return f"layer{int(found[1]) // 3 + 1}_dino.{int(found[1]) % 3}.{found[2]}"
    if found := re.match(r"dinov2\.norm\.(.*)", key):
        return f"dino_norm.{found[1]}"
    return None


class TestPublished:
    def test_a_folder_comes_back_equal(self, tmp_path: Path) -> None:
        model, matcher, encoder, depth = _published(min_depth_bin=0.5, max_depth_bin=12.0)
        torch.save(encoder, tmp_path / "encoder.pth")
        torch.save(depth, tmp_path / "depth.pth")
        loaded, decoder = load_published_matching(tmp_path, num_depth_bins=8)
        assert loaded.adaptive_bins and not loaded.training and not decoder.training
        assert loaded.encoder.config.semantic.mean == IMAGENET_MEAN and loaded.encoder.config.spatial.mean == NO_MEAN
        torch.testing.assert_close(loaded.depth_bins, depth_bins(0.5, 12, 8))
        matcher.compute_depth_bins(0.5, 12.0)
        with torch.no_grad():
            maps, *rest = loaded(*pictures())
            expected, *expected_rest = matcher(*pictures())
            torch.testing.assert_close((maps, rest), (expected, expected_rest), rtol=0, atol=0)
            disparity = decoder(maps, (HEIGHT, WIDTH))
            torch.testing.assert_close(disparity, model.decoder(expected, (HEIGHT, WIDTH)), rtol=0, atol=0)
        with pytest.raises(CheckpointError, match=r"multi-frame.*load_published_matching"):
            HybridDepthModel.from_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match="reads 8 depth bins, and num_depth_bins is 96; give 8"):
            load_published_matching(tmp_path)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda d: d.update({"layer5_clip.weight": torch.zeros(1)}), "'layer5_clip.weight' has no place"),
            (lambda d: d.update({"clip.visual.more": torch.zeros(1)}), r"semantic\.visual\.more"),
            (lambda d: d.update({"layer2_dino.9.ls1.gamma": torch.zeros(1)}), "'layer2_dino.9.ls1.gamma' has no place"),
            (lambda d: d.update({"dino_norm.bias": torch.zeros(1)}), r"'dino_norm.bias' is \(1,\), and 'dinov2.norm"),
            (lambda d: d.update({"reduce_conv.0.0.more": torch.zeros(1)}), r"the key '0\.more'"),
            (lambda d: d.pop("reduce_conv.0.0.weight"), "no key 'reduce_conv.0.0.weight', so it is no multi-frame"),
            (lambda d: d.pop("clip.visual.conv1.weight"), "'layer0_clip.0.weight' has no place"),
            (lambda d: d.update({"epoch": 3}), "'epoch' is a int"),
        ],
    )
    def test_every_key_has_its_place(self, change: Callable[[Any], Any], says: str, tmp_path: Path) -> None:
        *_, encoder, depth = _published()
        change(encoder)
        torch.save(encoder, tmp_path / "encoder.pth")
        torch.save(depth, tmp_path / "depth.pth")
        with pytest.raises(CheckpointError, match=says):
            load_published_matching(tmp_path, num_depth_bins=8)

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"encoder\.pth does not exist"):
            load_published_matching(tmp_path / "none")
