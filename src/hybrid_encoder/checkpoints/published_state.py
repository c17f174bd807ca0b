"""The tensors of the published implementation's checkpoints under our names.

A name that has no place in our model is an error that says which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hybrid_encoder.config import (
    HybridDepthConfig,
    HybridEncoderConfig,
    HybridMatchingConfig,
    HybridMatchingDepthConfig,
    find_encoder_config,
)
from hybrid_encoder.errors import CheckpointError
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
    (r"^layer([1-4])_dino\.(\d{1,4})\.", lambda found: f"dinov2.blocks.{3 * int(found[1]) - 3 + int(found[2])}."),
    (r"^dino_norm\.", lambda found: "dinov2.norm."),
)
DECODER_NAMES = (
    (r"^depth_head\.projects\.([0-3])\.", r"project.\1."),
    (r"^depth_head\.resize_layers\.([013])\.", r"resize.\1."),
    (r"^depth_head\.scratch\.output_conv1\.", "heads.0.reduce."),
    (r"^depth_head\.scratch\.output_conv2\.0\.", "heads.0.hidden."),
    (r"^depth_head\.scratch\.output_conv2\.2\.", "heads.0.out."),
)


def is_published(tensors: Tensors) -> bool:
    """Return whether any of an encoder's tensors has a published name."""
    return MULTI_FRAME_KEY in tensors or any(name.startswith(SINGLE_FRAME) for name in tensors)


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


def encoder_state(
    tensors: Tensors, config: HybridEncoderConfig, word_ids: tuple[int, ...], num_positions: int
) -> dict[str, Tensor]:
    """Return a published encoder's tensors under our names.

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
                    if value.ndim != 2 or len(value) <= max(word_ids):
                        raise CheckpointError(
                            f"the key {key!r} is {tuple(value.shape)}; it must have a row for each word."
                        )
                    name, value = "token_embedding", value[list(word_ids)]
                elif name == "positional_embedding":
                    value = value[:num_positions]
                state["prompts." + name] = value
        else:
            raise CheckpointError(f"the key {key!r} has no place in a Hybrid-depth encoder.")
    if tokens := learned_tokens(tensors):
        state["prompts.tokens"] = torch.cat(tokens)
    return state


def learned_tokens(tensors: Tensors) -> list[Tensor]:
    """Return the prompts' learned tokens in order, each (1, width)."""
    keys = [f"{TOKEN}{i}" for i in range(sum(key.startswith(TOKEN) for key in tensors))]
    for key in keys:
        if key not in tensors:
            raise CheckpointError(f"the checkpoint has no key {key!r}, though it has {len(keys)} learned tokens.")
        if tensors[key].ndim != 2 or tensors[key].shape != tensors[keys[0]].shape:
            raise CheckpointError(f"the key {key!r} is {tuple(tensors[key].shape)}; every learned token is (1, width).")
    return [tensors[key] for key in keys]


def single_frame(tensors: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a published multi-frame encoder as a published single-frame one, and the convolution after matching.

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
    """Return a published decoder's tensors under our names.

    Raises:
        CheckpointError: a key that has no place.
    """
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
