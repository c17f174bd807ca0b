"""The multi-frame encoder and model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hybrid_encoder import (
    CheckpointError,
    ConfigError,
    HybridDepthEncoder,
    HybridDepthModel,
    HybridEncoderConfig,
    HybridMatchingConfig,
    HybridMatchingDepthConfig,
    HybridMatchingEncoder,
    HybridMatchingModel,
    InputError,
    PromptConfig,
)
from hybrid_encoder.checkpoints.filling import no_initialisation
from hybrid_encoder.config import IMAGENET_MEAN, IMAGENET_STD, NO_MEAN, SemanticConfig
from hybrid_encoder.config.serialization import migrate
from hybrid_encoder.geometry.plane_sweep import depth_bins

from helpers.plane_sweep import intrinsics, motions
from helpers.published_layout import as_published, small_config
from helpers.small_models import small_clip

HEIGHT, WIDTH = 64, 96


def small_encoder(**changes: Any) -> HybridMatchingEncoder:
    torch.manual_seed(0)
    options: dict[str, Any] = {"num_depth_bins": 8, "min_depth_bin": 1.0, "max_depth_bin": 9.0, **changes}
    return HybridMatchingEncoder(options.pop("encoder", "tiny"), pretrained=False, **options).eval()


def frames(lookups: int = 2, height: int = HEIGHT, width: int = WIDTH) -> Any:
    """Current and lookup images, poses, K and its inverse, for two items."""
    generator = torch.Generator().manual_seed(0)
    K = intrinsics(height // 4, width // 4, batch=2)
    images = torch.rand(2, 1 + lookups, 3, height, width, generator=generator)
    return images[:, 0], images[:, 1:], motions(2, lookups), K, K.inverse()


@pytest.fixture(scope="module")
def encoder() -> HybridMatchingEncoder:
    return small_encoder()


class TestEncoder:
    @pytest.mark.parametrize(("height", "width", "lookups"), [(64, 96, 2), (70, 106, 1)])
    def test_maps_disparity_and_confidence(
        self, encoder: HybridMatchingEncoder, height: int, width: int, lookups: int
    ) -> None:
        with torch.no_grad():
            maps, lowest_cost, confidence = encoder(*frames(lookups, height, width))
        grid = (round(height / 14), round(width / 14))
        assert [tuple(x.shape) for x in maps] == [(2, c, *grid) for c in encoder.feature_info.channels()]
        assert lowest_cost.shape == confidence.shape == (2, height // 4, width // 4)
        assert set(lowest_cost.unique().tolist()) <= set((1 / encoder.depth_bins).tolist())
        assert set(confidence.unique().tolist()) == {0.0, 1.0}

    def test_matching_sits_after_the_first_map(self, encoder: HybridMatchingEncoder) -> None:
        current, lookup, *geometry = frames()
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
            found = encoder.forward_features(*frames())
        handle.remove()
        torch.testing.assert_close(seen[0][:, -8:], found.cost * found.confidence[:, None])
        assert torch.equal(found.confidence > 0, ~found.missing.any(1))

    @pytest.mark.parametrize("match", ["semantic", "both"])
    def test_what_has_a_gradient(self, match: Any) -> None:
        encoder = small_encoder(match=match).train()
        current, lookup, *geometry = frames()
        lookup.requires_grad_()
        maps, lowest_cost, _ = encoder(current, lookup, *geometry)
        torch.stack([x.square().mean() for x in maps]).sum().backward()
        assert lookup.grad is None and not lowest_cost.requires_grad
        first = encoder.encoder.semantic.visual.conv1  # type: ignore[union-attr]
        for weight in (encoder.reduce[0].weight, first.weight):
            assert weight.grad is not None and weight.grad.abs().sum() > 0  # type: ignore[operator]

    def test_bins_that_adapt_and_bins_that_do_not(self) -> None:
        current, lookup, poses, K, inv_K = frames()

        def tried(encoder: HybridMatchingEncoder, **range_: float) -> set[float]:
            low, high = range_.get("min_depth_bin"), range_.get("max_depth_bin")
            return set(encoder(current, lookup, poses, K, inv_K, low, high)[1].unique().tolist())

        with torch.no_grad():
            fixed = small_encoder()
            assert tried(fixed, min_depth_bin=2.0, max_depth_bin=4.0) <= set((1 / depth_bins(1, 9, 8)).tolist())
            torch.testing.assert_close(fixed.depth_bins, depth_bins(1, 9, 8))
            adaptive = small_encoder(adaptive_bins=True, depth_binning="inverse")
            wide, narrow = depth_bins(1, 9, 8, "inverse"), depth_bins(2, 4, 8, "inverse")
            assert tried(adaptive, min_depth_bin=2.0, max_depth_bin=4.0) <= set((1 / narrow).tolist())
            torch.testing.assert_close(adaptive.depth_bins, wide)  # a forward pass changes no state
            assert tried(adaptive) <= set((1 / wide).tolist())
            adaptive.compute_depth_bins(2.0, 4.0)
            torch.testing.assert_close(adaptive.depth_bins, narrow)
            assert tried(adaptive) <= set((1 / narrow).tolist())
            with pytest.raises(InputError, match="from 4 to 2"):
                adaptive(current, lookup, poses, K, inv_K, min_depth_bin=4.0, max_depth_bin=2.0)
        other = small_encoder(depth_binning="inverse")
        other.load_state_dict(adaptive.state_dict())
        torch.testing.assert_close(other.depth_bins, adaptive.depth_bins)

    def test_nothing_is_kept_and_it_moves_whole(self, encoder: HybridMatchingEncoder) -> None:
        before = set(vars(encoder))
        with torch.no_grad():
            first = encoder(*frames())
            encoder(*frames(1, 32, 64))
            torch.testing.assert_close(encoder(*frames()), first, rtol=0, atol=0)
        assert set(vars(encoder)) == before
        assert all(x.is_meta for x in small_encoder().to("meta").buffers())

    def test_in_bfloat16(self) -> None:
        with torch.no_grad():
            maps, lowest_cost, _ = small_encoder().bfloat16()(*frames())
        assert {x.dtype for x in maps} == {torch.bfloat16}
        assert all(x.isfinite().all() for x in (*maps, lowest_cost))

    @pytest.mark.parametrize("match", ["spatial", "both"])
    def test_matching_in_dino(self, match: Any) -> None:
        encoder = small_encoder(match=match)
        given = frames(height=112, width=140)
        with torch.no_grad():
            found = encoder.forward_features(*given)
            alone = small_encoder(match="semantic").forward_features(*given)
        volumes = 2 if match == "both" else 1
        assert encoder.encoder.semantic is not None
        assert encoder.reduce[0].in_channels == encoder.encoder.semantic.channels[0] + 8 * volumes
        assert found.cost.shape == (2, 8, 28, 35) and found.confidence.any()
        assert torch.equal(found.cost, alone.cost) == (match == "both")

    def test_without_dino_and_with_a_convnext(self) -> None:
        config = HybridEncoderConfig.preset("tiny").replace(towers="semantic", prompts=None)
        convnext = small_clip("convnext_base", timm_model_name="convnext_atto", timm_model_pretrained=False)
        for semantic in (config.semantic, convnext):
            encoder = small_encoder(encoder=config.replace(semantic=semantic))
            with torch.no_grad():
                maps, *_ = encoder(*frames())
            assert [x.shape[1] for x in maps] == encoder.feature_info.channels()

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"encoder": "vit"}, "semantic tower is a ViT.*choose a ResNet, ConvNeXt or FastViT"),
            ({"encoder": "spatial"}, "semantic tower is none"),
            ({"encoder": "semantic", "match": "both"}, "match is 'both', and the encoder has no spatial tower"),
            ({"match": "depth"}, "match is 'depth'; it must be one of"),
            ({"depth_binning": "log"}, "depth_binning is 'log'; it must be one of 'linear', 'inverse'"),
            ({"num_depth_bins": 1}, "num_depth_bins is 1; it must be a whole number from 2"),
            ({"max_depth_bin": 0.5}, "from 1 to 0.5; 0 < min_depth_bin < max_depth_bin is needed"),
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
        given = list(frames())
        given[index] = change(given[index])
        with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match=says):
            patch.setattr(encoder.encoder.semantic, "first", lambda images: pytest.fail("work was done"))
            encoder(*given)

    def test_intrinsics_of_the_image(self, encoder: HybridMatchingEncoder) -> None:
        current, lookup, poses, K, _ = frames()
        K[:, :2] *= 4
        with pytest.warns(UserWarning, match="outside the 24 x 16 feature map"), torch.no_grad():
            encoder(current, lookup, poses, K, K.inverse())

    def test_parts_and_groups(self, encoder: HybridMatchingEncoder) -> None:
        assert sum(map(len, encoder.part_parameters().values())) == len(list(encoder.parameters()))
        groups = encoder.parameter_groups(1e-5, lr_scale={"matching": 10})
        assert {group["name"]: group["lr"] for group in groups}["matching"] == pytest.approx(1e-4)


class TestPublishedSettings:
    """What a preset sets for several frames: the student, and the single-frame model as its teacher."""

    def test_the_student_trains_all_but_dino(self) -> None:
        with no_initialisation():
            student = HybridMatchingEncoder("paper", pretrained=False)
        trains = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
        frozen = {name for name, _ in student.named_parameters()} - trains
        assert frozen == {f"encoder.spatial.{name}" for name, _ in student.encoder.spatial.named_parameters()}  # type: ignore[union-attr]
        sizes = {name: parameter.numel() for name, parameter in student.named_parameters()}
        assert sum(sizes[name] for name in frozen) == 86_579_712  # DINOv2 ViT-B/14 without its mask token
        blocks = [name for name in trains if name.startswith("encoder.prompts.transformer.")]
        assert sum(sizes[name] for name in blocks) == 12 * 3_152_384  # CLIP's text transformer
        assert sum(sizes[name] for name in trains) == 63_683_936
        assert {id(p) for group in student.parameter_groups(1e-5) for p in group["params"]} == {
            id(parameter) for name, parameter in student.named_parameters() if name in trains
        }
        assert student.config.encoder.prompts == PromptConfig(num_tokens=128, train_text=True)

    def test_the_teacher_is_the_single_frame_model(self) -> None:
        with no_initialisation():
            teacher = HybridDepthEncoder("paper", pretrained=False)
        frozen = [name for name, parameter in teacher.named_parameters() if not parameter.requires_grad]
        assert (
            "prompts.transformer.resblocks.0.mlp.c_fc.weight" in frozen
            and "spatial.model.blocks.10.mlp.fc1.weight" in frozen
        )
        assert sum(teacher.get_parameter(name).numel() for name in frozen) == 79_490_304 + 12 * 3_152_384

    def test_random_towers_stay_free(self) -> None:
        assert all(
            parameter.requires_grad for parameter in HybridMatchingEncoder("tiny", pretrained=False).parameters()
        )

    @pytest.mark.parametrize("frames_seen", ["several", "one"])
    def test_what_reaches_the_towers(self, frames_seen: str) -> None:
        """CLIP of several frames reads ImageNet's normalisation; everything else reads RGB in [0, 1] as it is."""
        paper = (
            HybridEncoderConfig.preset("paper")
            if frames_seen == "one"
            else HybridMatchingConfig.preset("paper").encoder
        )
        small = HybridEncoderConfig.preset("tiny")
        config = paper.replace(
            semantic=dataclasses.replace(paper.semantic, overrides=small.semantic.overrides),
            spatial=dataclasses.replace(
                paper.spatial, name=small.spatial.name, overrides=small.spatial.overrides, blocks=None
            ),
        )
        encoder = HybridDepthEncoder(config, pretrained=False).eval()
        assert encoder.semantic is not None and encoder.spatial is not None
        seen: dict[str, Tensor] = {}
        encoder.semantic.visual.conv1.register_forward_pre_hook(lambda _, x: seen.update(clip=x[0]))
        encoder.spatial.model.patch_embed.register_forward_pre_hook(lambda _, x: seen.update(dino=x[0]))
        images = torch.rand(1, 3, 56, 84)
        with torch.no_grad():
            encoder(images)
        torch.testing.assert_close(seen["dino"], images)
        mean, std = [x.view(3, 1, 1) for x in map(torch.tensor, (IMAGENET_MEAN, IMAGENET_STD))]
        torch.testing.assert_close(seen["clip"], images if frames_seen == "one" else (images - mean) / std)

    def test_a_file_of_before_keeps_what_trained(self) -> None:
        """DINO's last block, and no text: as this library set it for several frames before."""
        config = HybridMatchingConfig.preset("paper").to_dict()
        config["encoder"]["spatial"]["trainable_blocks"] = 1
        config["encoder"]["prompts"]["train_text"] = False
        read = HybridMatchingConfig.from_dict(migrate({"format_version": 2, "class": "X", "config": config})["config"])
        assert read.encoder.spatial.trainable_blocks == 1
        assert read.encoder.prompts == PromptConfig(num_tokens=128, train_text=False)


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
        whole = HybridMatchingModel.from_pretrained(tmp_path)
        loaded, decoder = whole.encoder, whole.decoder
        assert loaded.config.adaptive_bins and loaded.num_depth_bins == 8 and whole.config.size == (70, 98)
        assert not loaded.training and not decoder.training
        assert loaded.encoder.config.semantic.mean == IMAGENET_MEAN and loaded.encoder.config.spatial.mean == NO_MEAN
        torch.testing.assert_close(loaded.depth_bins, depth_bins(0.5, 12, 8))
        matcher.compute_depth_bins(0.5, 12.0)
        with torch.no_grad():
            maps, *rest = loaded(*frames())
            expected, *expected_rest = matcher(*frames())
            torch.testing.assert_close((maps, rest), (expected, expected_rest), rtol=0, atol=0)
            disparity = decoder(maps, (HEIGHT, WIDTH))
            torch.testing.assert_close(disparity, model.decoder(expected, (HEIGHT, WIDTH)), rtol=0, atol=0)
            torch.testing.assert_close(whole(*frames()), disparity[0], rtol=0, atol=0)
        inverse = HybridMatchingModel.from_pretrained(tmp_path, depth_binning="inverse").encoder
        torch.testing.assert_close(inverse.depth_bins, depth_bins(0.5, 12, 8, "inverse"))
        alone = HybridMatchingEncoder.from_pretrained(tmp_path)
        torch.testing.assert_close(alone.state_dict(), loaded.state_dict(), rtol=0, atol=0)
        for other in (HybridDepthModel, HybridDepthEncoder):
            # Its towers read what comes after matching, so that alone they would be another network.
            with pytest.raises(CheckpointError, match=r"a multi-frame model.*HybridMatchingModel\.from_pretrained"):
                other.from_pretrained(tmp_path)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda d: d.update({"layer5_clip.weight": torch.zeros(1)}), "'layer5_clip.weight' has no place"),
            (lambda d: d.update({"clip.visual.more": torch.zeros(1)}), r"semantic\.visual\.more"),
            (lambda d: d.update({"layer2_dino.9.ls1.gamma": torch.zeros(1)}), "'layer2_dino.9.ls1.gamma' has no place"),
            (lambda d: d.update({"dino_norm.bias": torch.zeros(1)}), r"'dino_norm.bias' is \(1,\), and 'dinov2.norm"),
            (lambda d: d.update({"reduce_conv.0.0.more": torch.zeros(1)}), r"the key 'encoder\.reduce\.0\.more'"),
            (lambda d: d.pop("reduce_conv.0.0.weight"), "no key 'reduce_conv.0.0.weight', so it is not a multi-frame"),
            (lambda d: d.pop("clip.visual.conv1.weight"), "'layer0_clip.0.weight' has no place"),
            (lambda d: d.update(min_depth_bin=9.0, max_depth_bin=2.0), "from 9 to 2; 0 < min_depth_bin"),
        ],
    )
    def test_every_key_has_its_place(self, change: Callable[[Any], Any], says: str, tmp_path: Path) -> None:
        *_, encoder, depth = _published()
        change(encoder)
        torch.save(encoder, tmp_path / "encoder.pth")
        torch.save(depth, tmp_path / "depth.pth")
        with pytest.raises(CheckpointError, match=says):
            HybridMatchingModel.from_pretrained(tmp_path)

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"none is neither a file or folder nor a Hub id"):
            HybridMatchingModel.from_pretrained(tmp_path / "none")
        with pytest.raises(CheckpointError, match=r"holds no checkpoint"):
            HybridMatchingModel.from_pretrained(tmp_path)


def test_a_multi_frame_model_works_at_the_size_that_it_was_fitted_at() -> None:
    """With the camera of that size; ``native`` is another result, and (H, W) says the fitted one outright."""
    torch.manual_seed(0)
    config = HybridMatchingDepthConfig.preset("tiny").replace(size=(64, 96))
    model = HybridMatchingModel(config, pretrained=False).eval()
    images = torch.rand(3, 3, 80, 120)
    small = torch.nn.functional.interpolate(images, (64, 96), mode="bilinear", antialias=True)
    poses = torch.eye(4).repeat(1, 2, 1, 1)
    poses[:, 0, 2, 3], poses[:, 1, 2, 3] = 0.3, -0.3
    K, K_small = torch.eye(4)[None], torch.eye(4)[None]
    K[0, :2, :3] = torch.tensor([[20.0, 0, 14.5], [0, 20.0, 9.5]])  # a quarter of 80 x 120, centre in the middle
    K_small[0, :2, :3] = torch.tensor([[16.0, 0, 11.5], [0, 16.0, 7.5]])
    found = model.infer(images[:1], images[None, 1:], poses, K, K.inverse())
    with torch.no_grad():
        expected = model(small[:1], small[None, 1:], poses, K_small, K_small.inverse())
    expected = torch.nn.functional.interpolate(expected, (80, 120), mode="bilinear")
    torch.testing.assert_close(found.disparity, expected, rtol=1e-3, atol=1e-4)
    asked = model.infer(images[:1], images[None, 1:], poses, K, K.inverse(), size=(64, 96))
    torch.testing.assert_close(asked.disparity, found.disparity)
    native = model.infer(images[:1], images[None, 1:], poses, K, K.inverse(), size="native")
    assert not torch.allclose(native.disparity, found.disparity, atol=1e-3)
