"""Image towers of timm as the public models have them, in small: registered with timm under names of their own."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.layers.hybrid_embed import HybridEmbed
from timm.layers.norm import LayerNorm2d
from timm.models import register_model
from timm.models.eva import Eva
from timm.models.fastvit import FastVit, RepConditionalPosEnc
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from torch import nn

from hybrid_encoder.config import SemanticConfig, SpatialConfig

_VIT = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 4, "num_heads": 3}
_NORM: Any = partial(LayerNorm2d, eps=1e-5)
_ENCODE: Any = partial(RepConditionalPosEnc, spatial_shape=(7, 7))


def _own(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a network, without those that timm.create_model adds for its own builder."""
    known = ("num_classes", "global_pool", "drop_path_rate", "dynamic_img_size")
    return {name: value for name, value in options.items() if name in known}


@register_model
def small_siglip(**options: Any) -> nn.Module:
    """Like vit_base_patch16_siglip_224: no class token, pooled by attention."""
    return VisionTransformer(**_VIT, class_token=False, **_own(options))  # type: ignore[arg-type]


@register_model
def small_eva02(**options: Any) -> nn.Module:
    """Like eva02_base_patch16_clip_224: learned and rotary positions, the latter built for one size."""
    settings: dict[str, Any] = {"qkv_fused": False, "mlp_ratio": 2, "swiglu_mlp": True, "scale_mlp": True}
    rotary: dict[str, Any] = {"scale_attn_inner": True, "use_rot_pos_emb": True, "ref_feat_shape": (4, 4)}
    return Eva(**_VIT, **settings, **rotary, **_own(options))  # type: ignore[arg-type]


@register_model
def small_mci_vit(**options: Any) -> nn.Module:
    """Like vit_base_mci_224: several convolutions cut the patches."""
    sizes: dict[str, Any] = {"channels": (12, 12, 48), "stride": (4, 2, 2), "kernel_size": (4, 2, 2), "padding": 0}
    embed = partial(HybridEmbed, backbone=ConvStem(**sizes, act_layer=nn.GELU), proj=False)
    settings: dict[str, Any] = {**_VIT, "patch_size": 1, "no_embed_class": True, "embed_layer": embed}
    return VisionTransformer(**settings, **_own(options))


@register_model
def small_fastvit(**options: Any) -> nn.Module:
    """Like fastvit_mci0: four stages, the last with attention."""
    return FastVit(
        layers=(1, 1, 1, 1),
        embed_dims=(16, 32, 64, 128),
        mlp_ratios=(3, 3, 3, 3),
        se_downsamples=(False, False, True, True),
        pos_embs=(None, None, None, _ENCODE),
        token_mixers=("repmixer", "repmixer", "repmixer", "attention"),
        lkc_use_act=True,
        **_own(options),
    )


@register_model
def small_fastvit_of_five(**options: Any) -> nn.Module:
    """Like fastvit_mci3: a fifth stage at stride 64."""
    return FastVit(
        layers=(1, 1, 1, 1, 1),
        embed_dims=(16, 32, 64, 128, 256),
        mlp_ratios=(3,) * 5,
        se_downsamples=(False,) * 5,
        downsamples=(False, True, True, True, True),
        pos_embs=(None, None, None, _ENCODE, _ENCODE),
        token_mixers=("repmixer", "repmixer", "repmixer", "attention", "attention"),
        lkc_use_act=True,
        norm_layer=_NORM,
        stem_use_scale_branch=False,
        **_own(options),
    )


_TRUNKS = {
    "ViT-B-16-SigLIP": "small_siglip",
    "ViT-B-16-SigLIP2": "small_siglip",
    "EVA02-B-16": "small_eva02",
    "MobileCLIP-B": "small_mci_vit",
    "MobileCLIP-S1": "small_fastvit",
    "MobileCLIP2-S0": "small_fastvit",
    "MobileCLIP2-S3": "small_fastvit_of_five",
}


def small_family(name: str) -> SemanticConfig:
    """Return an architecture of open_clip with its own ways of reading, and small towers."""
    text = {"width": 64, "heads": 2, "layers": 2, **({"vocab_size": 64} if "SigLIP" in name else {})}
    overrides = {"embed_dim": 64, "vision_cfg": {"timm_model_name": _TRUNKS[name]}, "text_cfg": text}
    return SemanticConfig(name=name, pretrained=None, overrides=overrides)


def small_convnext() -> SpatialConfig:
    """Return DINOv3's ConvNeXt in small."""
    sizes = {"depths": [1, 1, 2, 1], "dims": [16, 32, 48, 64]}
    return SpatialConfig("convnext_tiny.dinov3_lvd1689m", pretrained=False, overrides=sizes)
