"""The published implementation's checkpoints, read into ours.

Every setting is read off names and shapes; a name that has no place here is an error that says which.
Nothing is guessed but one thing: with the logits alone as decoder input, the towers that made them leave no
trace in any shape, and both are taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from hybrid_encoder.config import (
    DEPTH_WORDS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    NO_MEAN,
    NO_STD,
    DecoderConfig,
    FusionConfig,
    HybridDepthConfig,
    HybridEncoderConfig,
    HybridMatchingConfig,
    HybridMatchingDepthConfig,
    PromptConfig,
    SemanticConfig,
    SpatialConfig,
    find_encoder_config,
)
from hybrid_encoder.errors import CheckpointError, ConfigError
from hybrid_encoder.geometry.plane_sweep import depth_bins

Tensors = Mapping[str, Tensor]
TOKEN = "extra_tkns_learnables_depth."
SINGLE_FRAME = ("dinov2.", "clip.", "clip_align_conv.", TOKEN)
MULTI_FRAME_KEY = "layer0_clip.0.weight"  # single-frame encoders have none of this name
UNUSED = ("dinov2.mask_token", "clip.logit_scale", "clip.visual.attnpool.", "depth_head.projects.4.")
MATCHING_UNUSED = ("prematching_conv.", "reduce_conv.1.", "backprojector_", "projector_")
MATCHING_COPIES = (
    (r"^layer0_clip\.([036])\.", lambda found: f"clip.visual.conv{int(found[1]) // 3 + 1}."),
    (r"^layer0_clip\.([147])\.", lambda found: f"clip.visual.bn{int(found[1]) // 3 + 1}."),
    (r"^layer1_clip\.1\.", lambda found: "clip.visual.layer1."),
    (r"^layer([234])_clip\.", lambda found: f"clip.visual.layer{found[1]}."),
    (r"^layer([1-4])_dino\.(\d+)\.", lambda found: f"dinov2.blocks.{3 * int(found[1]) - 3 + int(found[2])}."),
    (r"^dino_norm\.", lambda found: "dinov2.norm."),
)
DECODER_NAMES = (
    (r"^depth_head\.projects\.([0-3])\.", r"project.\1."),
    (r"^depth_head\.resize_layers\.([013])\.", r"resize.\1."),
    (r"^depth_head\.scratch\.output_conv1\.", "heads.0.reduce."),
    (r"^depth_head\.scratch\.output_conv2\.0\.", "heads.0.hidden."),
    (r"^depth_head\.scratch\.output_conv2\.2\.", "heads.0.out."),
)


def read_model_config(
    encoder: Tensors, decoder: Tensors, size: tuple[int, int] | None, bin_range: Mapping[str, Any]
) -> HybridEncoderConfig | HybridDepthConfig | HybridMatchingConfig | HybridMatchingDepthConfig:
    """Read the configuration of what a published folder holds off its tensors.

    Args:
        encoder: of ``encoder.pth``.
        decoder: of ``depth.pth``; empty without that file.
        size: (H, W) that the file says it was trained at.
        bin_range: ``min_depth_bin`` and ``max_depth_bin``, where a multi-frame file says them.

    Raises:
        CheckpointError: a key is missing, or has no place.
    """
    if MULTI_FRAME_KEY not in encoder:
        return model_config(encoder, decoder, size) if decoder else encoder_config(encoder)
    tensors, reduce = single_frame(encoder)
    single = model_config(tensors, decoder, size) if decoder else None
    width, read = reduce["0.weight"].shape[:2]
    try:
        matching = HybridMatchingConfig(
            encoder=(encoder_config(tensors) if single is None else single.encoder).for_matching(),
            num_depth_bins=read - width,
            adaptive_bins=True,
            **bin_range,
        )
    except ConfigError as error:
        raise CheckpointError(f"the checkpoint is not a multi-frame Hybrid-depth encoder: {error}") from error
    if single is None:
        return matching
    return HybridMatchingDepthConfig(encoder=matching, decoder=single.decoder, size=size)


def whole_state(
    stored: Any, config: Any, tensors: Tensors, decoder: Tensors, word_ids: tuple[int, ...], num_positions: int
) -> dict[str, Tensor]:
    """Return a published checkpoint's tensors under our names, those of the whole model that it holds.

    Args:
        stored: configuration of the checkpoint.
        config: of the model that is filled, of the same kind or of a part.
        tensors, decoder: of ``encoder.pth`` (or the stage-1 file) and ``depth.pth``.
        word_ids, num_positions: which token embeddings and how many positions our prompts keep.
    """
    state: dict[str, Tensor] = {}
    prefix = "encoder." if isinstance(stored, HybridDepthConfig | HybridMatchingDepthConfig) else ""
    if isinstance(stored, HybridMatchingConfig | HybridMatchingDepthConfig):
        tensors, reduce = single_frame(tensors)
        matching = config if isinstance(config, HybridMatchingConfig) else config.encoder
        state = {f"{prefix}reduce.{name}": value for name, value in reduce.items()}
        state[f"{prefix}depth_bins"] = depth_bins(
            matching.min_depth_bin, matching.max_depth_bin, matching.num_depth_bins, matching.depth_binning
        )
        prefix += "encoder."
    encoder = encoder_state(tensors, find_encoder_config(config), word_ids, num_positions)
    state |= {prefix + name: value for name, value in encoder.items()}
    return state | {f"decoder.{name}": value for name, value in decoder_state(decoder).items()}


def encoder_config(
    tensors: Tensors,
    towers: Literal["both", "semantic", "spatial"] = "both",
    decoder_input: Literal["concat", "logits"] = "concat",
    stage1: bool = False,
) -> HybridEncoderConfig:
    """Read the configuration of a published encoder; what its decoder alone can tell is passed in.

    Raises:
        CheckpointError: a key is missing, or has no place.
    """
    if "resnet50.conv1.weight" in tensors:
        raise CheckpointError(
            "the checkpoint has the key 'resnet50.conv1.weight': it holds an ImageNet ResNet-50 in CLIP's place, which "
            "is not supported."
        )
    for key in (
        "dinov2.pos_embed",
        "clip.visual.conv1.weight",
        "clip_align_conv.1.weight",
        "clip.text_projection",
    ):
        if key not in tensors:
            raise CheckpointError(f"the checkpoint has no key {key!r}; a published Hybrid-depth encoder has one.")
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if stage1 else (NO_MEAN, NO_STD)
    num_tokens = sum(key.startswith(TOKEN) for key in tensors)
    prompts = None
    if num_tokens:
        prompts = PromptConfig(num_tokens=num_tokens, decoder_input=decoder_input)
    elif stage1:
        prompts = PromptConfig(words=DEPTH_WORDS, decoder_input=decoder_input)
    method: Literal["interp_conv1x1", "convs2_interp"] = "interp_conv1x1"
    if "clip_align_conv.0.weight" in tensors:
        method = "convs2_interp"
    return HybridEncoderConfig(
        semantic=_semantic(tensors, mean, std),
        spatial=_spatial(tensors, mean, std),
        towers=towers,
        fusion=FusionConfig(method=method, channels=tensors["clip_align_conv.1.weight"].shape[0]),
        prompts=prompts,
    )


def model_config(encoder: Tensors, depth: Tensors, size: tuple[int, int] | None) -> HybridDepthConfig:
    """Read the configuration of a published encoder and decoder together.

    Raises:
        CheckpointError: a key is missing, or a shape fits no setting.
    """
    first = depth.get("depth_head.projects.0.weight")
    if first is None:
        raise CheckpointError("depth.pth has no key 'depth_head.projects.0.weight'; a published decoder has one.")
    base = encoder_config(encoder)
    spatial = encoder["dinov2.pos_embed"].shape[2]
    semantic = base.fusion.channels
    prompts = 0 if base.prompts is None else base.prompts.num_prompts
    readings: dict[int, tuple[Literal["both", "semantic", "spatial"], Literal["concat", "logits"]]] = {
        prompts + spatial + semantic: ("both", "concat"),
        prompts + spatial: ("spatial", "concat"),
        prompts + semantic: ("semantic", "concat"),
    }
    if prompts:
        readings.setdefault(prompts, ("both", "logits"))
    if first.shape[1] not in readings:
        raise CheckpointError(
            f"'depth_head.projects.0.weight' reads {first.shape[1]} channels; with {prompts} prompts, {spatial} DINO "
            f"and {semantic} CLIP channels it should read one of {sorted(readings)}."
        )
    towers, decoder_input = readings[first.shape[1]]
    projections = [depth[f"depth_head.projects.{i}.weight"].shape[0] for i in range(4)]
    return HybridDepthConfig(
        encoder=encoder_config(encoder, towers, decoder_input),
        decoder=DecoderConfig(
            features=depth["depth_head.scratch.layer1_rn.weight"].shape[0],
            channels=(projections[0], projections[1], projections[2], projections[3]),
            head_channels=depth["depth_head.scratch.output_conv2.0.weight"].shape[0],
        ),
        size=size,
    )


def encoder_state(
    tensors: Tensors, config: HybridEncoderConfig, word_ids: tuple[int, ...], num_positions: int
) -> dict[str, Tensor]:
    """A published encoder's tensors under our names.

    Args:
        tensors: as published, without a ``model.`` prefix.
        config: from ``encoder_config``.
        word_ids, num_positions: which token embeddings and how many positions our prompts keep.
    """
    last = max(config.spatial.blocks or (10_000,))
    state: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if key.startswith((*UNUSED, TOKEN)):
            continue
        block = re.match(r"dinov2\.blocks\.(\d+)\.", key)
        if key.startswith("dinov2."):
            if config.uses_spatial and (block is None or int(block[1]) <= last):
                state["spatial.model." + key.removeprefix("dinov2.")] = value
        elif key.startswith("clip.visual."):
            if config.uses_semantic:
                state["semantic." + key.removeprefix("clip.")] = value
        elif key.startswith("clip_align_conv."):
            if config.uses_semantic:
                state["fusion.align." + key.removeprefix("clip_align_conv.")] = value
        elif key.startswith("clip."):
            if config.prompts is not None:
                name = key.removeprefix("clip.")
                if name == "token_embedding.weight":
                    name, value = "token_embedding", value[list(word_ids)]
                elif name == "positional_embedding":
                    value = value[:num_positions]
                state["prompts." + name] = value
        else:
            raise CheckpointError(f"the key {key!r} has no place in a Hybrid-depth encoder.")
    tokens = [tensors[f"{TOKEN}{i}"] for i in range(sum(key.startswith(TOKEN) for key in tensors))]
    if tokens:
        state["prompts.tokens"] = torch.cat(tokens)
    return state


def single_frame(tensors: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A published multi-frame encoder as a published single-frame one, and the convolution after matching.

    Most tensors stand there under two names. PyTorch fills modules in order, so the second name's values count.
    """
    encoder = {key: value for key, value in tensors.items() if key.startswith(SINGLE_FRAME)}
    reduce: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if key in encoder or key.startswith(MATCHING_UNUSED):
            continue
        if key.startswith("reduce_conv.0."):
            reduce[key.removeprefix("reduce_conv.0.")] = value
            continue
        names = (re.subn(pattern, ours, key) for pattern, ours in MATCHING_COPIES)
        name = next((name for name, hits in names if hits), None)
        if name not in encoder:
            raise CheckpointError(f"the key {key!r} has no place in a multi-frame Hybrid-depth encoder.")
        if value.shape != encoder[name].shape:
            raise CheckpointError(
                f"the key {key!r} is {tuple(value.shape)}, and {name!r}, which it repeats, "
                f"is {tuple(encoder[name].shape)}."
            )
        encoder[name] = value
    if "0.weight" not in reduce:
        raise CheckpointError(
            "the checkpoint has no key 'reduce_conv.0.0.weight', so it is not a multi-frame encoder, though it has the "
            f"key {MULTI_FRAME_KEY!r}; copy or download it again."
        )
    return encoder, reduce


def decoder_state(tensors: Tensors) -> dict[str, Tensor]:
    """A published decoder's tensors under our names."""
    state = {}
    for key, value in tensors.items():
        if key.startswith((*UNUSED, "depth_head.scratch.refinenet4.resConfUnit1.")):
            continue  # a fifth projection and a skip of the deepest block, neither of them ever read
        for pattern, ours in DECODER_NAMES:
            name, hits = re.subn(pattern, ours, key)
            if hits:
                break
        else:
            name = _numbered(key)
        state[name] = value
    return state


def _numbered(key: str) -> str:
    if found := re.match(r"depth_head\.scratch\.layer([1-4])_rn\.(\w+)$", key):
        return f"reassemble.{int(found[1]) - 1}.{found[2]}"
    if found := re.match(r"depth_head\.scratch\.refinenet([1-4])\.(out_conv|resConfUnit[12])\.([\w.]+)$", key):
        part = {"out_conv": "out", "resConfUnit1": "skip", "resConfUnit2": "refine"}[found[2]]
        return f"fuse.{int(found[1]) - 1}.{part}.{found[3]}"
    raise CheckpointError(f"the key {key!r} has no place in a Hybrid-depth decoder.")


def _depth(tensors: Tensors, pattern: str) -> int:
    return 1 + max((int(m[1]) for key in tensors if (m := re.match(pattern, key))), default=-1)


def _spatial(tensors: Tensors, mean: Any, std: Any) -> SpatialConfig:
    width = int(tensors["dinov2.pos_embed"].shape[2])
    depth = _depth(tensors, r"dinov2\.blocks\.(\d+)\.")
    grid = round((tensors["dinov2.pos_embed"].shape[1] - 1) ** 0.5)
    names = {(384, 12): "small", (768, 12): "base", (1024, 24): "large"}
    overrides: dict[str, Any] = {}
    name = names.get((width, depth), "small")
    if (width, depth) not in names or grid != 37:
        overrides = {
            "embed_dim": width,
            "depth": depth,
            "num_heads": max(1, width // 64),
            "img_size": grid * 14,
        }
    return SpatialConfig(
        name=f"vit_{name}_patch14_dinov2" + ("" if overrides else ".lvd142m"),
        pretrained=not overrides,  # no public weights have another shape
        overrides=overrides,
        blocks=(2, 5, 8, 11) if depth == 12 else None,
        position_embedding="dinov2",
        mean=mean,
        std=std,
    )


def _semantic(tensors: Tensors, mean: Any, std: Any) -> SemanticConfig:
    text_width, embed = (int(x) for x in tensors["clip.text_projection"].shape)
    context = int(tensors["clip.positional_embedding"].shape[0])
    found = {
        "embed_dim": embed,
        "vision_cfg": {
            "layers": [_depth(tensors, rf"clip\.visual\.layer{i}\.(\d+)\.") for i in (1, 2, 3, 4)],
            "width": 2 * int(tensors["clip.visual.conv1.weight"].shape[0]),
        },
        "text_cfg": {
            "context_length": context,
            "vocab_size": int(tensors["clip.token_embedding.weight"].shape[0]),
            "width": text_width,
            "heads": max(1, text_width // 64),
            "layers": _depth(tensors, r"clip\.transformer\.resblocks\.(\d+)\."),
        },
    }
    rn50 = {
        "embed_dim": 1024,
        "vision_cfg": {"layers": [3, 4, 6, 3], "width": 64},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
    }
    if found == rn50:
        return SemanticConfig(mean=mean, std=std)
    return SemanticConfig(pretrained=None, overrides=found, mean=mean, std=std)
