"""The configuration of the published implementation's checkpoints, read off the names and shapes of their tensors.

One thing cannot be read: a decoder that takes the logits alone looks the same whichever towers made them, so both are
assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from hybrid_encoder.checkpoints.published_state import MULTI_FRAME_KEY, learned_tokens, single_frame
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
)
from hybrid_encoder.errors import CheckpointError, ConfigError

Tensors = Mapping[str, Tensor]


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
    width, read = _shape(reduce, "0.weight", 4, "reduce_conv.0.")[:2]
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
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if stage1 else (NO_MEAN, NO_STD)
    fused, _, _, _ = _shape(tensors, "clip_align_conv.1.weight", 4)
    num_tokens = len(learned_tokens(tensors))
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
        fusion=FusionConfig(method=method, channels=fused),
        prompts=prompts,
    )


def model_config(encoder: Tensors, depth: Tensors, size: tuple[int, int] | None) -> HybridDepthConfig:
    """Read the configuration of a published encoder and decoder together.

    Raises:
        CheckpointError: a key is missing, or a shape fits no setting.
    """
    read = _shape(depth, "depth_head.projects.0.weight", 4)[1]
    base = encoder_config(encoder)
    spatial = _shape(encoder, "dinov2.pos_embed", 3)[2]
    semantic = base.fusion.channels
    prompts = 0 if base.prompts is None else base.prompts.num_prompts
    readings: dict[int, tuple[Literal["both", "semantic", "spatial"], Literal["concat", "logits"]]] = {
        prompts + spatial + semantic: ("both", "concat"),
        prompts + spatial: ("spatial", "concat"),
        prompts + semantic: ("semantic", "concat"),
    }
    if prompts:
        readings.setdefault(prompts, ("both", "logits"))
    if read not in readings:
        raise CheckpointError(
            f"'depth_head.projects.0.weight' reads {read} channels; with {prompts} prompts, {spatial} DINO "
            f"and {semantic} CLIP channels it should read one of {sorted(readings)}."
        )
    towers, decoder_input = readings[read]
    projections = [_shape(depth, f"depth_head.projects.{i}.weight", 4)[0] for i in range(4)]
    return HybridDepthConfig(
        encoder=encoder_config(encoder, towers, decoder_input),
        decoder=DecoderConfig(
            features=_shape(depth, "depth_head.scratch.layer1_rn.weight", 4)[0],
            channels=(projections[0], projections[1], projections[2], projections[3]),
            head_channels=_shape(depth, "depth_head.scratch.output_conv2.0.weight", 4)[0],
        ),
        size=size,
    )


def _shape(tensors: Tensors, key: str, dimensions: int, prefix: str = "") -> tuple[int, ...]:
    """Return a tensor's shape; ``prefix`` is what its name in the file begins with, and ``tensors`` lacks."""
    if key not in tensors:
        kind = "decoder" if key.startswith("depth_head.") else "encoder"
        raise CheckpointError(f"the checkpoint has no key {prefix + key!r}; a published Hybrid-depth {kind} has one.")
    shape = tuple(tensors[key].shape)
    if len(shape) != dimensions or 0 in shape:
        raise CheckpointError(f"the key {prefix + key!r} is {shape}; it must have {dimensions} sizes above 0.")
    return shape


def _depth(tensors: Tensors, before: str) -> int:
    """Return how many blocks there are, numbered from 0 after ``before`` and with none left out."""
    numbers = {key.removeprefix(before).split(".")[0] for key in tensors if key.startswith(before)}
    for i in range(len(numbers)):
        if str(i) not in numbers:
            raise CheckpointError(
                f"the checkpoint has no key that begins with '{before}{i}.', though others follow it."
            )
    return len(numbers)


def _spatial(tensors: Tensors, mean: Any, std: Any) -> SpatialConfig:
    _, positions, width = _shape(tensors, "dinov2.pos_embed", 3)
    depth = _depth(tensors, "dinov2.blocks.")
    grid = round((positions - 1) ** 0.5)
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
    text_width, embed = _shape(tensors, "clip.text_projection", 2)
    context, _ = _shape(tensors, "clip.positional_embedding", 2)
    vocabulary, _ = _shape(tensors, "clip.token_embedding.weight", 2)
    found = {
        "embed_dim": embed,
        "vision_cfg": {
            "layers": [_depth(tensors, f"clip.visual.layer{i}.") for i in (1, 2, 3, 4)],
            "width": 2 * _shape(tensors, "clip.visual.conv1.weight", 4)[0],
        },
        "text_cfg": {
            "context_length": context,
            "vocab_size": vocabulary,
            "width": text_width,
            "heads": max(1, text_width // 64),
            "layers": _depth(tensors, "clip.transformer.resblocks."),
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
