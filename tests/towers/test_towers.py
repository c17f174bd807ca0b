"""Declared channels and strides against real outputs, and our forward passes against the libraries' own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from unittest import mock

import open_clip
import pytest
import torch
import torch.nn.functional as F

from hybrid_encoder import ConfigError, SpatialConfig
from hybrid_encoder.config import IMAGENET_MEAN, IMAGENET_STD, SemanticConfig
from hybrid_encoder.towers import timm_vit
from hybrid_encoder.towers.clip_weights import check_activation
from hybrid_encoder.towers.dino import SpatialTower
from hybrid_encoder.towers.positions import resample_positions
from hybrid_encoder.towers.semantic import SemanticTower, build_clip
from hybrid_encoder.towers.spatial import build_spatial

from helpers.small_models import small_clip, small_dino

SEMANTIC = [
    ("RN50", {}, (256, 512, 1024, 2048), (4, 8, 16, 32)),
    ("RN101", {"layers": [1, 1, 2, 1]}, (256, 512, 1024, 2048), (4, 8, 16, 32)),
    ("ViT-B-16", {"layers": 4}, (768,) * 4, (16,) * 4),
    ("convnext_tiny", {}, (96, 192, 384, 768), (4, 8, 16, 32)),
]
DINOV2 = [f"vit_{size}_patch14{reg}_dinov2" for size in ("small", "base", "large", "giant") for reg in ("", "_reg4")]
DINOV3 = ["vit_small_patch16_dinov3", "vit_base_patch16_dinov3", "vit_small_plus_patch16_dinov3"]


@pytest.mark.parametrize(("name", "vision", "channels", "strides"), SEMANTIC, ids=[row[0] for row in SEMANTIC])
def test_semantic_tower_gives_what_it_declares(name, vision, channels, strides) -> None:  # type: ignore[no-untyped-def]
    config = small_clip(name, **vision)
    tower = SemanticTower(build_clip(config, True).visual, config).eval()
    assert (tower.channels, tower.strides) == (channels, strides)
    with torch.no_grad():
        maps = tower(torch.rand(1, 3, 64, 96))
        odd = tower(torch.rand(2, 3, 33, 47))
    assert [tuple(x.shape) for x in maps] == [(1, c, 64 // s, 96 // s) for c, s in zip(channels, strides, strict=True)]
    assert all(x.isfinite().all() for x in odd)


def test_semantic_maps_equal_open_clips_own() -> None:
    for name, vision, size in (("RN50", {"layers": [1, 1, 1, 1]}, 64), ("ViT-B-16", {"layers": 4}, 224)):
        config = small_clip(name, **vision)
        clip: Any = build_clip(config, True).eval()
        images = torch.rand(1, 3, size, size)
        with torch.no_grad():
            own = clip.visual.forward_intermediates(images, intermediates_only=True)["image_intermediates"][-4:]
            ours = SemanticTower(clip.visual, config).eval()(images)
        for a, b in zip(own, ours, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", [*DINOV2, *DINOV3])
def test_spatial_tower_gives_what_it_declares(name: str) -> None:
    tower = build_spatial(small_dino(name), True).eval()
    patch = 16 if "dinov3" in name else 14
    assert (tower.channels, tower.strides) == ((48,) * 4, (patch,) * 4)
    assert tower.position_rule == ("rope" if "dinov3" in name else "size" if "reg4" in name else "dinov2")
    with torch.no_grad():
        maps, class_token = tower(torch.rand(2, 3, 3 * patch, 5 * patch))
    assert [tuple(x.shape) for x in maps] == [(2, 48, 3, 5)] * 4
    assert class_token is not None and class_token.shape == (2, 48)


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", DINOV3[0]])
def test_spatial_maps_equal_timms_own(name: str) -> None:
    """With timm's own resampling rule, for a size that needs resampling."""
    config = SpatialConfig(
        name=name,
        pretrained=False,
        overrides={"embed_dim": 48, "depth": 5, "num_heads": 3},
        position_embedding="size",
        blocks=(0, 1, 2, 3),
    )
    tower = build_spatial(config, False).eval()
    patch = tower.patch
    images = torch.rand(1, 3, 4 * patch, 6 * patch)
    with torch.no_grad():
        own = tower.model.forward_intermediates(
            tower.normalise(images), indices=[0, 1, 2, 3], norm=True, intermediates_only=True, return_prefix_tokens=True
        )
        maps, class_token = tower(images)
    for (a, _), b in zip(own, maps, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(own[-1][1][:, 0], class_token)
    assert len(tower.blocks) == 4, "the fifth block is read by nobody"


def _hf_folder(kind: str, folder: Path) -> Path:
    import transformers

    sizes: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "image_size": 56}
    config = {
        "dinov2": lambda: transformers.Dinov2Config(patch_size=14, **sizes),
        "dinov2_with_registers": lambda: transformers.Dinov2WithRegistersConfig(patch_size=14, **sizes),
        "dinov3": lambda: transformers.DINOv3ViTConfig(patch_size=16, intermediate_size=96, **sizes),
    }[kind]()  # type: ignore[no-untyped-call]
    torch.manual_seed(1)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_with_registers", "dinov3"])
def test_a_transformers_model_from_a_folder(kind: str, tmp_path: Path) -> None:
    import transformers

    folder = _hf_folder(kind, tmp_path / "dino")
    tower = build_spatial(SpatialConfig(name=f"hf:{folder}"), True).eval()
    own = transformers.AutoModel.from_pretrained(folder).eval()
    images = torch.rand(1, 3, 5 * tower.patch, 7 * tower.patch)
    with torch.no_grad():
        output = own(pixel_values=images, output_hidden_states=True)
        maps, class_token = tower(images)
        again, _ = tower(images)
    torch.testing.assert_close(class_token, output.pooler_output)
    tokens = output.last_hidden_state[:, -35:]
    torch.testing.assert_close(maps[-1].flatten(2).transpose(1, 2), tokens)
    torch.testing.assert_close(maps, again)

    # The architecture is remembered: the folder is not needed to build it again.
    rebuilt = build_spatial(
        SpatialConfig(**{**vars(tower.config), "name": "hf:gone/away"}), False
    ).eval()  # fmt: skip
    rebuilt.load_state_dict(tower.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(images)[0][0], maps[0])
        torch.testing.assert_close(copy.deepcopy(tower)(images)[0][0], maps[0])


def test_positions_are_resampled_once_per_size() -> None:
    tower = build_spatial(small_dino("vit_small_patch14_dinov2"), False).eval()
    with (
        mock.patch.object(timm_vit, "resample_positions", wraps=resample_positions) as counted,
        torch.no_grad(),
    ):
        for size in ((42, 70), (42, 70), (56, 70), (42, 70), (56, 70)):
            tower(torch.rand(1, 3, *size))
        assert counted.call_count == 2
        tower.model.pos_embed.add_(1.0)
        tower(torch.rand(1, 3, 42, 70))
        assert counted.call_count == 3
    tower.train()
    tower.class_token(torch.rand(1, 3, 42, 70)).sum().backward()
    assert tower.model.pos_embed.grad is not None
    assert tower.model.pos_embed.grad.abs().sum() > 0


def test_the_two_resampling_rules() -> None:
    table = torch.randn(1, 1 + 9, 4)
    same = resample_positions(table, (3, 3), (3, 3), 1, "dinov2")
    assert same is table
    grid = table[:, 1:].reshape(1, 3, 3, 4).permute(0, 3, 1, 2)
    # Output cell i reads input position (i + 0.5) / scale - 0.5 with scale = (5 + 0.1) / 3, bicubic, no antialias.
    expected = F.interpolate(grid, scale_factor=(5.1 / 3, 2.1 / 3), mode="bicubic")
    ours = resample_positions(table, (3, 3), (5, 2), 1, "dinov2")
    assert ours.shape == (1, 11, 4)
    torch.testing.assert_close(ours[:, 1:], expected.permute(0, 2, 3, 1).reshape(1, 10, 4))
    torch.testing.assert_close(ours[:, :1], table[:, :1])
    sized = resample_positions(table, (3, 3), (5, 2), 1, "size")
    assert (sized - ours).abs().max() > 1e-3


def test_each_tower_normalises_for_itself() -> None:
    raw = small_dino("vit_small_patch14_dinov2")
    normed = SpatialConfig(**{**vars(raw), "mean": IMAGENET_MEAN, "std": IMAGENET_STD})
    torch.manual_seed(0)
    plain = build_spatial(raw, False).eval()
    tower: SpatialTower = build_spatial(normed, False).eval()
    tower.load_state_dict(plain.state_dict())
    images = torch.rand(1, 3, 42, 42)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        torch.testing.assert_close(tower(images)[1], plain((images - mean) / std)[1])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: build_clip(SemanticConfig(name="RN5000"), False), "'RN5000', which open_clip does not know"),
        (
            lambda: build_spatial(SpatialConfig(name="vit_nonsense"), False),
            "'vit_nonsense', which timm does not know",
        ),
        (lambda: build_spatial(SpatialConfig(name="resnet18"), False), "not a vision transformer"),
        (lambda: build_spatial(SpatialConfig(name="vit_tiny_r_s16_p8_224"), False), "convolutional network before"),
        (
            lambda: build_spatial(
                SpatialConfig(name="vit_small_patch16_rope_mixed_224", overrides={"depth": 4}), False
            ),
            "rotary positions of its own",
        ),
        (
            lambda: build_spatial(small_dino("vit_small_patch14_dinov2", depth=3), False),
            "3 blocks; at least 4",
        ),
        (
            lambda: build_spatial(SpatialConfig(name=DINOV2[0], blocks=(0, 1, 2, 9), overrides={"depth": 4}), False),
            "four rising numbers from 0 to 3",
        ),
    ],
)
def test_a_tower_that_cannot_be_built_is_named(make, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=says):
        make()


@pytest.mark.parametrize(
    ("name", "overrides", "has_one", "num_prefix"),
    [
        ("vit_small_patch14_dinov2", {}, True, 1),
        ("vit_small_patch14_reg4_dinov2", {}, True, 5),
        ("deit_small_distilled_patch16_224", {}, True, 2),
        ("vit_base_patch16_siglip_gap_224", {}, False, 0),
        ("vit_base_patch16_siglip_224", {"global_pool": "avg"}, False, 0),
        ("aimv2_large_patch14_224", {}, False, 0),
        ("vit_base_patch16_224", {"class_token": False, "global_pool": "avg", "reg_tokens": 2}, False, 2),
    ],
)
def test_the_class_token_is_one_or_none(name: str, overrides: dict[str, Any], has_one: bool, num_prefix: int) -> None:
    config = SpatialConfig(name, overrides={"depth": 4, "embed_dim": 96, "num_heads": 3, **overrides})
    tower = build_spatial(config, False).eval()
    side = 4 * tower.patch
    images = torch.rand(2, 3, side, side)
    maps, token = tower(images)
    outputs, prefix = tower.tokens(tower.normalise(images), (4, 4))
    assert prefix == num_prefix and outputs[-1].shape[1] == num_prefix + 16
    assert all(x.shape == (2, 96, 4, 4) for x in maps)
    assert tower.has_class_token is has_one
    if has_one:
        assert token is not None
        torch.testing.assert_close(token, outputs[-1][:, 0])
        torch.testing.assert_close(tower.class_token(images), token)
    else:
        assert token is None
        with pytest.raises(ConfigError, match="has no class token"):
            tower.class_token(images)


def test_weights_of_another_activation_are_refused() -> None:
    """Every pair of architecture and weights that open_clip lists: refused exactly where it would warn."""
    refused = []
    for name, tag in open_clip.list_pretrained():
        base = open_clip.get_model_config(name)
        mismatch = bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu")) != bool(base.get("quick_gelu"))
        try:
            check_activation(SemanticConfig(name, tag), base)
        except ConfigError as error:
            refused.append((name, tag, str(error)))
        else:
            assert not mismatch, (name, tag)
    assert len(refused) >= 20
    says = {(name, tag): text for name, tag, text in refused}
    assert "without QuickGELU" in says["ViT-B-16", "openai"] and "'ViT-B-16-quickgelu'" in says["ViT-B-16", "openai"]
    with pytest.raises(ConfigError, match="ViT-B-16-quickgelu"):
        build_clip(SemanticConfig("ViT-B-16", "openai"), pretrained=True)
    right = SemanticConfig("ViT-B-16", "openai", overrides={"quick_gelu": True})
    check_activation(right, open_clip.get_model_config("ViT-B-16"))
