"""Writes small checkpoints in the published layout, from a model of ours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybrid_encoder import HybridDepthConfig, HybridDepthModel, HybridEncoderConfig
from hybrid_encoder.config import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DecoderConfig,
    FusionConfig,
    PromptConfig,
    SemanticConfig,
    SpatialConfig,
)

VOCABULARY = 49408


def small_config(
    towers: Any = "both",
    method: Any = "interp_conv1x1",
    prompts: PromptConfig | None = None,
    **normalisation: Any,
) -> HybridDepthConfig:
    """The published architecture with 64-wide transformers and a 16-wide ResNet."""
    semantic = SemanticConfig(
        name="RN50-quickgelu",
        pretrained=None,
        overrides={
            "embed_dim": 96,
            "vision_cfg": {"layers": [1, 2, 1, 1], "width": 16},
            "text_cfg": {
                "context_length": 77,
                "vocab_size": VOCABULARY,
                "width": 64,
                "heads": 1,
                "layers": 2,
            },
        },
        **normalisation,
    )
    spatial = SpatialConfig(
        name="vit_small_patch14_dinov2",
        pretrained=False,
        overrides={"embed_dim": 128, "depth": 5, "num_heads": 2, "img_size": 70},
        position_embedding="dinov2",
        **normalisation,
    )
    return HybridDepthConfig(
        encoder=HybridEncoderConfig(semantic, spatial, towers, FusionConfig(method, 64), prompts),
        decoder=DecoderConfig(features=8, channels=(8, 12, 16, 16), head_channels=4),
    )


def stage1_config() -> HybridDepthConfig:
    """What a stage-1 checkpoint becomes: worded prompts, ImageNet normalisation."""
    words = (
        "very close",
        "close",
        "slightly close",
        "neither close nor distant",
        "slightly distant",
        "distant",
    )
    return small_config(prompts=PromptConfig(words=(*words, "very distant")), mean=IMAGENET_MEAN, std=IMAGENET_STD)


def as_published(model: HybridDepthModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The encoder's and the decoder's tensors under published names, with all that a published file carries."""
    full = HybridDepthModel(model.config.replace(encoder=model.config.encoder.replace(towers="both")), pretrained=False)
    state = {**full.state_dict(), **model.state_dict()}
    encoder: dict[str, Any] = {
        "dinov2.mask_token": torch.zeros(1, 128),
        "clip.logit_scale": torch.tensor(1.0),
        "clip.visual.attnpool.positional_embedding": torch.zeros(5, 4),
    }
    depth: dict[str, Tensor] = {
        "depth_head.projects.4.weight": torch.zeros(16, 8, 1, 1),
        "depth_head.projects.4.bias": torch.zeros(16),
    }
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if part == "encoder":
            encoder.update(_encoder_entry(rest, value, model))
        else:
            depth[_decoder_name(rest)] = value
    if model.encoder.prompts is None:  # the text tower is in the file even where nothing reads it
        encoder["clip.text_projection"] = torch.zeros(64, 96)
        encoder["clip.positional_embedding"] = torch.zeros(77, 64)
        encoder["clip.token_embedding.weight"] = torch.zeros(VOCABULARY, 64)
        for layer in range(2):
            encoder[f"clip.transformer.resblocks.{layer}.ln_1.weight"] = torch.ones(64)
    for name in ("weight", "bias"):
        unused = f"depth_head.scratch.refinenet4.resConfUnit1.conv1.{name}"
        depth[unused] = depth[unused.replace("resConfUnit1", "resConfUnit2")]
    return encoder, depth


def _encoder_entry(name: str, value: Tensor, model: HybridDepthModel) -> dict[str, Tensor]:
    if name.startswith("spatial.model."):
        return {"dinov2." + name.removeprefix("spatial.model."): value}
    if name.startswith("semantic."):
        return {"clip." + name.removeprefix("semantic."): value}
    if name.startswith("fusion.align."):
        return {"clip_align_conv." + name.removeprefix("fusion.align."): value}
    name = name.removeprefix("prompts.")
    if name == "tokens":
        return {f"extra_tkns_learnables_depth.{i}": row[None] for i, row in enumerate(value)}
    if name == "token_embedding":
        table = torch.randn(VOCABULARY, value.shape[1])
        assert model.encoder.prompts is not None
        table[list(model.encoder.prompts.word_ids)] = value
        return {"clip.token_embedding.weight": table}
    if name == "positional_embedding":
        return {"clip." + name: torch.cat([value, torch.randn(77 - len(value), value.shape[1])])}
    return {"clip." + name: value}


def _decoder_name(name: str) -> str:
    rules = (
        (r"^project\.", "depth_head.projects."),
        (r"^resize\.", "depth_head.resize_layers."),
        (r"^heads\.0\.reduce", "depth_head.scratch.output_conv1"),
        (r"^heads\.0\.hidden", "depth_head.scratch.output_conv2.0"),
        (r"^heads\.0\.out", "depth_head.scratch.output_conv2.2"),
    )
    for pattern, theirs in rules:
        if re.match(pattern, name):
            return re.sub(pattern, theirs, name)
    kind, level, rest = name.split(".", 2)
    if kind == "reassemble":
        return f"depth_head.scratch.layer{int(level) + 1}_rn.{rest}"
    part, rest = rest.split(".", 1)
    theirs = {"out": "out_conv", "skip": "resConfUnit1", "refine": "resConfUnit2"}[part]
    return f"depth_head.scratch.refinenet{int(level) + 1}.{theirs}.{rest}"


def write_published(model: HybridDepthModel, folder: Path) -> Path:
    """``encoder.pth`` and ``depth.pth`` in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder, depth = as_published(model)
    torch.save({**encoder, "height": 70, "width": 98, "use_stereo": False}, folder / "encoder.pth")
    torch.save(depth, folder / "depth.pth")
    return folder


def write_stage1(model: HybridDepthModel, path: Path) -> Path:
    """A Lightning checkpoint of the coarse stage."""
    encoder, depth = as_published(model)
    state = {f"model.{name}": value for name, value in {**encoder, **depth}.items()}
    torch.save({"state_dict": state, "epoch": 3, "global_step": 7}, path)
    return path
