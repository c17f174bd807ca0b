"""Every family of backbones: built in small, trained a step, saved and loaded, and compared with its library's own."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F

from hybrid_encoder import ConfigError, HybridDepthEncoder, HybridEncoderConfig, PromptConfig, SpatialConfig
from hybrid_encoder.checkpoints.filling import no_initialisation
from hybrid_encoder.config import FusionConfig, SemanticConfig
from hybrid_encoder.config.architectures import own_normalisation
from hybrid_encoder.language.text_tower import clip_text_tower
from hybrid_encoder.testing import EncoderContract
from hybrid_encoder.towers.semantic import SemanticTower, build_clip
from hybrid_encoder.towers.spatial import build_spatial

from helpers.small_models import small_dino
from helpers.small_timm import small_convnext, small_family

STAGED = (4, 8, 16, 32)
FAMILIES = {
    "ViT-B-16-SigLIP": ((48,) * 4, (16,) * 4),
    "ViT-B-16-SigLIP2": ((48,) * 4, (16,) * 4),
    "EVA02-B-16": ((48,) * 4, (16,) * 4),
    "MobileCLIP-B": ((48,) * 4, (16,) * 4),
    "MobileCLIP-S1": ((16, 32, 64, 128), STAGED),
    "MobileCLIP2-S0": ((16, 32, 64, 128), STAGED),
    "MobileCLIP2-S3": ((16, 32, 64, 128), STAGED),  # five stages
}


def _tower(name: str) -> tuple[Any, SemanticTower]:
    """Return open_clip's own image tower with lively batch norms, and ours on a copy of it."""
    config = small_family(name)
    torch.manual_seed(1)
    clip: Any = build_clip(config, False).eval()
    for module in clip.visual.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return clip.visual, SemanticTower(copy.deepcopy(clip.visual), config).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_maps_equal_the_librarys_own(name: str) -> None:
    visual, tower = _tower(name)
    assert (tower.channels, tower.strides) == FAMILIES[name]
    images = torch.rand(1, 3, 64, 64)
    trunk = visual.trunk
    with torch.no_grad():
        maps = tower(images)
        pixels = tower.normalise(images)
        own = trunk.forward_intermediates(pixels, norm=tower.kind == "vit", intermediates_only=True)[:4]
        for ours, theirs in zip(maps, own, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        # What follows the last map in the library's network gives the library's own features.
        features = trunk.forward_features(pixels)
        if tower.kind == "vit":
            tokens = features[:, trunk.num_prefix_tokens :]
            torch.testing.assert_close(maps[-1].flatten(2).transpose(1, 2), tokens, atol=1e-5, rtol=1e-4)
        else:
            rest = trunk.final_conv(torch.nn.Sequential(*trunk.stages[4:])(maps[-1]))
            torch.testing.assert_close(rest, features, atol=1e-5, rtol=1e-4)
        if trunk.feature_info[0]["module"] == "blocks.0" and getattr(trunk, "attn_pool", None) is not None:
            pooled = visual.head(trunk.forward_head(features))
            torch.testing.assert_close(pooled, visual(pixels), atol=1e-5, rtol=1e-4)


def test_rotary_positions_of_another_size_are_timms() -> None:
    """open_clip builds EVA02 for one size; timm, built for any, is compared with at another one."""
    import timm

    visual, tower = _tower("EVA02-B-16")
    other: Any = timm.create_model("small_eva02", num_classes=0, global_pool="token", dynamic_img_size=True).eval()
    other.load_state_dict({k: v for k, v in visual.trunk.state_dict().items() if not k.startswith("head.")})
    images = torch.rand(1, 3, 48, 112)
    with torch.no_grad():
        own = other.forward_features(tower.normalise(images))[:, 1:]
        torch.testing.assert_close(tower(images)[-1].flatten(2).transpose(1, 2), own, atol=1e-5, rtol=1e-4)


def _encoder(name: str, **options: Any) -> HybridDepthEncoder:
    torch.manual_seed(0)
    known = {"": [1, 0 if "SigLIP2" in name else 1], "This patch appears to be ": [5, 6, 7, 8, 9]}
    config = HybridEncoderConfig(
        semantic=small_family(name),
        spatial=options.pop("spatial", small_dino("vit_small_patch14_dinov2")),
        fusion=FusionConfig(channels=16),
        prompts=PromptConfig(num_tokens=4, token_ids=known if "SigLIP" in name else {}),
        **options,
    )
    return HybridDepthEncoder(config, pretrained=False)


def _train_a_step(encoder: HybridDepthEncoder) -> None:
    encoder.train()
    encoder.set_trainable(semantic=True, spatial=True, text=True)
    images = torch.rand(2, 3, 64, 96)
    optimizer = torch.optim.SGD(encoder.parameter_groups(1e-3))
    loss = torch.stack([x.square().mean() for x in encoder(images)]).sum()
    loss.backward()
    assert loss.isfinite()
    silent = [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent
    assert {group["name"] for group in encoder.parameter_groups(1.0)} >= {"spatial", "text", "prompts", "fusion"}
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in encoder.parameters())


def _load_again(encoder: HybridDepthEncoder, folder: Path) -> None:
    encoder.eval()
    encoder.save_pretrained(folder)
    again = HybridDepthEncoder.from_pretrained(folder)
    assert again.config == encoder.config
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for ours, theirs in zip(again(images), encoder(images), strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_encoder_trains_and_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    encoder = _encoder(name)
    _train_a_step(encoder)
    _load_again(encoder, tmp_path)


@pytest.mark.parametrize("name", ["EVA02-B-16", "MobileCLIP2-S3", "ViT-B-16-SigLIP2"])
def test_gradients_are_those_without_recomputing(name: str) -> None:
    images, found = torch.rand(2, 3, 64, 64), []
    for recompute in (False, True):
        encoder = _encoder(name).train()
        encoder.set_trainable(semantic=True, text=True)
        encoder.set_grad_checkpointing(recompute)
        torch.stack([x.square().mean() for x in encoder(images)]).sum().backward()
        found.append({n: p.grad for n, p in encoder.named_parameters() if p.grad is not None})
        found[-1] |= {n: b.float() for n, b in encoder.named_buffers() if n.endswith("running_mean")}
    assert found[0].keys() == found[1].keys() and len(found[0]) > 20
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, atol=1e-4 * max(1.0, float(value.abs().max())), rtol=1e-3)


@pytest.mark.parametrize("name", ["MobileCLIP2-S3", "EVA02-B-16", "ViT-B-16-SigLIP2"])
def test_a_frozen_tower_does_not_train(name: str) -> None:
    encoder = _encoder(name)
    encoder.set_trainable(semantic=False, text=False)
    encoder.train()
    before = copy.deepcopy({k: v for k, v in encoder.state_dict().items() if k.startswith(("semantic", "prompts"))})
    torch.stack([x.mean() for x in encoder(torch.rand(2, 3, 64, 64))]).sum().backward()
    torch.optim.SGD(encoder.parameter_groups(0.1)).step()
    after = encoder.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(after[key], value)}
    assert changed == {"prompts.tokens"}
    assert all(p.grad is None for p in encoder.semantic.parameters())  # type: ignore[union-attr]


def test_learned_and_rotary_positions_are_kept_apart() -> None:
    _, tower = _tower("EVA02-B-16")
    images = torch.rand(1, 3, 48, 112)
    with torch.no_grad():
        before = tower(images)
        tower.freeze_positions()
        for ours, theirs in zip(tower(images), before, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileCLIP2-S3", "MobileCLIP-B", "EVA02-B-16", "convnext"])
def test_sizes_stay_open_under_a_compiler(name: str) -> None:
    tower: Any = build_spatial(small_convnext(), False).eval() if name == "convnext" else _tower(name)[1]
    compiled: Any = torch.compile(tower, backend="eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for size in ((64, 96), (96, 160), (80, 112)):
            images = torch.rand(1, 3, *size)
            found, expected = compiled(images), tower(images)
            if name == "convnext":
                found, expected = [*found[0], found[1]], [*expected[0], expected[1]]
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


# -- real architectures, without memory for their weights -------------------------------------------------------------

REAL = {
    "ViT-B-16-SigLIP-512": ((768,) * 4, (16,) * 4),
    "ViT-SO400M-14-SigLIP2-378": ((1152,) * 4, (14,) * 4),
    "ViT-SO400M-16-SigLIP-i18n-256": ((1152,) * 4, (16,) * 4),
    "EVA02-L-14-336": ((1024,) * 4, (14,) * 4),
    "EVA01-g-14": ((1408,) * 4, (14,) * 4),
    "PE-Core-B-16": ((768,) * 4, (16,) * 4),
    "MobileCLIP-B": ((768,) * 4, (16,) * 4),
    "MobileCLIP-S1": ((64, 128, 256, 512), STAGED),
    "MobileCLIP2-S3": ((96, 192, 384, 768), STAGED),
    "MobileCLIP2-L-14": ((1024,) * 4, (14,) * 4),
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_architecture_gives_what_it_declares(name: str) -> None:
    config = SemanticConfig(name, None)
    with no_initialisation():
        clip: Any = build_clip(config, False)
    clip_text_tower(clip)  # its prompts are read
    tower = SemanticTower(clip.visual, config).to("meta").eval()
    assert (tower.channels, tower.strides) == REAL[name]
    side = 224 if tower.strides[0] == 14 else 96
    maps = tower(torch.rand(1, 3, side, 2 * side, device="meta"))
    expected = [(1, c, side // s, 2 * side // s) for c, s in zip(tower.channels, tower.strides, strict=True)]
    assert [tuple(x.shape) for x in maps] == expected


def test_normalisation_is_that_of_the_public_weights() -> None:
    """Of every family whose own is taken: the mean and std that open_clip states for each of its weights."""
    checked = set()
    for name, tag in open_clip.list_pretrained():
        stated = open_clip.get_pretrained_cfg(name, tag)
        if own_normalisation(name) and "nllb" not in name:
            config = SemanticConfig(name, tag)
            assert (config.mean, config.std) == (tuple(stated["mean"]), tuple(stated["std"])), name
            checked.add(name)
    assert len(checked) >= 35 and {"ViT-B-16-SigLIP2", "EVA02-B-16", "MobileCLIP2-S4", "MobileCLIP-S2"} <= checked
    assert SemanticConfig("RN50-quickgelu").mean == SemanticConfig("ViT-B-16").mean == (0.0, 0.0, 0.0)
    given = SemanticConfig("ViT-B-16-SigLIP", mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    assert given.mean == (0.1, 0.2, 0.3)


def test_normalisation_of_dinov3_is_timms() -> None:
    import timm

    for name in ("vit_small_patch16_dinov3.lvd1689m", "convnext_base.dinov3_lvd1689m"):
        stated, config = timm.get_pretrained_cfg(name), SpatialConfig(name)
        assert stated is not None and (config.mean, config.std) == (stated.mean, stated.std)
    assert SpatialConfig("vit_small_patch14_dinov2.lvd142m").mean == (0.0, 0.0, 0.0)


def test_a_recipe_leaves_a_familys_own_normalisation_alone() -> None:
    config = HybridEncoderConfig(
        semantic=SemanticConfig("MobileCLIP2-S3", None), spatial=SpatialConfig("convnext_tiny.dinov3_lvd1689m")
    )
    assert config.for_matching().semantic.mean == SemanticConfig("MobileCLIP2-S3").mean
    assert config.spatial.normalised((0.0,) * 3, (1.0,) * 3) == config.spatial
    assert SemanticConfig().normalised((0.5,) * 3, (1.0,) * 3).mean == (0.5,) * 3


# -- DINOv3's ConvNeXts ------------------------------------------------------------------------------------------------


def test_convnext_maps_are_timms_on_one_grid() -> None:
    import timm

    tower: Any = build_spatial(small_convnext(), False).eval()
    own: Any = timm.create_model(
        "convnext_tiny.dinov3_lvd1689m", features_only=True, **small_convnext().overrides
    ).eval()
    state = tower.model.state_dict()
    own.load_state_dict({k.replace("stages.", "stages_").replace("stem.", "stem_"): v for k, v in state.items()})
    whole: Any = timm.create_model("convnext_tiny.dinov3_lvd1689m", num_classes=0, **small_convnext().overrides).eval()
    whole.load_state_dict({**state, **{f"head.norm.{k}": v for k, v in tower.norm.state_dict().items()}})
    images = torch.rand(1, 3, 64, 128)
    assert (tower.channels, tower.strides) == ((16, 32, 48, 64), (16,) * 4)
    with torch.no_grad():
        maps, token = tower(images)
        pixels = tower.normalise(images)
        four, eight, sixteen, last = own(pixels)
        torch.testing.assert_close(maps[0], F.avg_pool2d(four, 4), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(maps[1], F.avg_pool2d(eight, 2), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(maps[2], sixteen, atol=1e-5, rtol=1e-4)
        doubled = F.interpolate(tower.norm(last), size=(4, 8), mode="bilinear")
        torch.testing.assert_close(maps[3], doubled, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(token, whole(pixels), atol=1e-5, rtol=1e-4)


def test_an_odd_grid_loses_no_row() -> None:
    tower = build_spatial(small_convnext(), False).eval()
    image = torch.zeros(1, 3, 80, 112)  # 5 x 7 cells
    changed = image.clone()
    changed[..., 64:, 96:] = 1.0  # the last row and column
    with torch.no_grad():
        before, after = tower(image)[0][3], tower(changed)[0][3]
    assert before.shape == (1, 64, 5, 7)
    assert (before - after)[..., -1, -1].abs().max() > 1e-3


def test_an_encoder_on_a_convnext_trains_and_is_saved_and_loaded(tmp_path: Path) -> None:
    encoder = _encoder("MobileCLIP2-S3", spatial=dataclasses.replace(small_convnext(), trainable_blocks=2))
    frozen = {n for n, p in encoder.named_parameters() if n.startswith("spatial.") and not p.requires_grad}
    released = {n for n, p in encoder.named_parameters() if n.startswith("spatial.") and p.requires_grad}
    assert {n.rsplit("blocks.", 1)[0] + n.rsplit("blocks.", 1)[1][0] for n in released} == {
        "spatial.model.stages.2.1", "spatial.model.stages.3.0"
    } and frozen  # fmt: skip
    assert encoder.stride == 16
    _train_a_step(encoder)
    _load_again(encoder, tmp_path)


class TestConvNext(EncoderContract):
    channels = (16, 32, 48, 64)
    strides = (16,) * 4
    sizes = ((64, 96), (96, 64), (80, 112), (70, 106))

    def make(self) -> torch.nn.Module:
        return build_spatial(dataclasses.replace(small_convnext(), trainable_blocks="all"), False)

    def features(self, encoder: torch.nn.Module, images: torch.Tensor) -> Any:
        return encoder(images)[0]


class TestFiveStages(EncoderContract):
    channels, strides = FAMILIES["MobileCLIP2-S3"]

    def make(self) -> torch.nn.Module:
        return SemanticTower(build_clip(small_family("MobileCLIP2-S3"), False).visual, small_family("MobileCLIP2-S3"))


class TestEva(EncoderContract):
    channels, strides = FAMILIES["EVA02-B-16"]

    def make(self) -> torch.nn.Module:
        return SemanticTower(build_clip(small_family("EVA02-B-16"), False).visual, small_family("EVA02-B-16"))


class TestSiglip(TestEva):
    def make(self) -> torch.nn.Module:
        config = small_family("ViT-B-16-SigLIP2")
        return SemanticTower(build_clip(config, False).visual, config)


# -- what stays out ----------------------------------------------------------------------------------------------------


def _semantic(name: str, trunk: str | None = None) -> SemanticTower:
    vision = {} if trunk is None else {"vision_cfg": {"timm_model_name": trunk}}
    text = {} if name.startswith("roberta") else {"text_cfg": {"width": 64, "heads": 2, "layers": 1}}
    config = SemanticConfig(name, None, overrides={**vision, **text})
    return SemanticTower(build_clip(config, False).visual, config)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: _semantic("RN50", "swin_tiny_patch4_window7_224"), "Swin.*not a plain vision transformer; choose an"),
        (lambda: _semantic("ViTamin-S"), "'ViTamin-S'.*convolutional network before its blocks; choose an open_clip"),
        (lambda: _semantic("EVA02-B-16", "resnet50_clip"), "not a plain vision transformer"),
        (lambda: _semantic("roberta-ViT-B-32"), "'roberta-ViT-B-32', whose text tower .* choose a CLIP"),
        (lambda: build_spatial(SpatialConfig("resnet18"), False), "'resnet18'.*not a vision transformer or ConvNeXt"),
        (lambda: build_spatial(SpatialConfig("convnext_atto", blocks=(0, 1, 2, 3)), False), "leave spatial.blocks"),
        (
            lambda: build_spatial(SpatialConfig("convnext_tiny", overrides={"patch_size": 8}), False),
            "end at strides 8, 16, 32; 4, 8, 16, 32 are needed",
        ),
    ],
)  # fmt: skip
def test_what_stays_out_is_named(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


def test_a_text_tower_that_stays_out_is_named() -> None:
    for name in ("coca_ViT-B-32", "ViT-L-14-CLIPA", "ViT-L-14-worldwide"):
        with no_initialisation():
            clip = build_clip(SemanticConfig(name, None), False)
        with pytest.raises(
            ConfigError, match=f"'{name}', whose text tower does not read CLIP's tokens .* choose a CLIP"
        ):
            clip_text_tower(clip)


def test_a_network_of_stages_may_begin_at_stride_two() -> None:
    tower = _semantic("convnext_tiny", "resnet18").eval()
    assert (tower.channels, tower.strides) == ((64, 128, 256, 512), STAGED)
    with torch.no_grad():
        maps = tower(torch.rand(1, 3, 64, 96))
    assert [tuple(x.shape) for x in maps] == [
        (1, c, 64 // s, 96 // s) for c, s in zip(tower.channels, STAGED, strict=True)
    ]
