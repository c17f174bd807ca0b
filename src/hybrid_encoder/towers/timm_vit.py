"""timm's vision transformers, run block by block at any size: plain ones, EVA and DINOv3 with rotary positions, and
those that cut patches with several convolutions (MobileCLIP-B)."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_encoder.errors import ConfigError
from hybrid_encoder.towers.base import Grid, Tower
from hybrid_encoder.towers.positions import resample_positions


def prepare_vit(model: Any, what: str, fix: str) -> int:
    """Make a timm transformer take any grid of patches, and return the side of a patch in pixels.

    Args:
        model: of timm; it is changed.
        what: begins the sentence of an error: ``"spatial.name is 'resnet18'"``.
        fix: ends it.

    Raises:
        ConfigError: not a transformer, or one whose patches or positions depend on the size of the image.
    """
    from timm.layers import HybridEmbed, PatchEmbed  # type: ignore[attr-defined]

    if not hasattr(model, "blocks") or not hasattr(model, "norm_pre"):
        raise ConfigError(f"{what}, which is not a plain vision transformer; {fix}.")
    embed = model.patch_embed
    if getattr(model, "rope_mixed", False):
        raise ConfigError(f"{what}, which has rotary positions of its own in each block; {fix}.")
    if isinstance(embed, HybridEmbed):
        patch: Any = embed.feat_ratio(as_scalar=True)
        # Convolutions that overlap see beyond their patch, and give another number of cells at odd sizes.
        if any(isinstance(m, nn.Conv2d) and m.kernel_size != m.stride for m in embed.backbone.modules()):
            raise ConfigError(f"{what}, which has a convolutional network before its blocks; {fix}.")
    elif isinstance(embed, PatchEmbed):
        patch = embed.patch_size[0]
        # Images are whole patches by now. timm checks their size with an f-string, which ties a compiled graph to it.
        embed.img_size = None
    else:
        raise ConfigError(f"{what}, which does not cut its image into plain patches; {fix}.")
    rope = getattr(model, "rope", None)
    if rope is not None and getattr(rope, "feat_shape", None) is not None:
        # open_clip builds it for one size: the same again, for any.
        settings = {name: vars(rope)[name] for name in inspect.signature(type(rope)).parameters if name in vars(rope)}
        model.rope = type(rope)(**{**settings, "feat_shape": None})
    return int(patch)


def prefix_tokens(model: Any) -> list[Tensor]:
    """Return the tokens that stand before those of the patches, (1, n, C) each: class, distillation, registers."""
    front = (model.cls_token, getattr(model, "dist_token", None), model.reg_token)
    return [token for token in front if token is not None]


def run_blocks(
    tower: Tower, model: Any, images: Tensor, grid: Grid, rule: str, levels: int = 4
) -> tuple[list[Tensor], int]:
    """Return the tokens (B, prefix + h * w, C) after each tapped block and the final norm, and the prefix's length.

    Args:
        tower: gives ``taps``, gradient checkpointing, and keeps resampled positions.
        model: that :func:`prepare_vit` has prepared.
        images: normalised, in whole patches.
        grid: of these patches.
        rule: how learned positions are resampled, see :func:`resample_positions`.
        levels: how many of the tapped blocks, from the first.
    """
    x = _cut(model.patch_embed, images)
    prefix = [token.expand(x.shape[0], -1, -1) for token in prefix_tokens(model)]
    count = sum(tokens.shape[1] for tokens in prefix)
    position = None if model.pos_embed is None else _position(tower, model, grid, count, rule).to(x.dtype)
    if position is not None and model.no_embed_class:
        x, position = x + position, None
    x = torch.cat([*prefix, x], dim=1)
    x = model.norm_pre(x if position is None else x + position)
    rope = _rotary(tower, model, grid)
    outputs = []
    taps = tower.taps[:levels]
    for index, block in enumerate(model.blocks[: taps[-1] + 1]):
        x = tower.run_block(block, x) if rope is None else tower.run_block(block, x, rope)
        if index in taps:
            outputs.append(model.norm(x))
    return outputs, count


def _cut(embed: Any, images: Tensor) -> Tensor:
    """Return the patches as tokens (B, h * w, C)."""
    if hasattr(embed, "backbone"):
        x: Tensor = embed.proj(embed.backbone(images))
        return x.flatten(2).transpose(1, 2)
    x = embed(images)
    return x if x.ndim == 3 else x.flatten(1, 2)  # the latter where the model was built for any size


def _position(tower: Tower, model: Any, grid: Grid, count: int, rule: str) -> Tensor:
    table = model.pos_embed
    kept = 0 if model.no_embed_class else count
    return tower.kept_positions.get(
        grid, [table], lambda: resample_positions(table, model.patch_embed.grid_size, grid, kept, rule)
    )


def _rotary(tower: Tower, model: Any, grid: Grid) -> Tensor | None:
    rope: Any = getattr(model, "rope", None)
    if rope is None:
        return None

    def make() -> Tensor:
        embedding: Tensor = rope.get_embed(shape=grid)
        return embedding

    if rope.training and getattr(rope, "aug_active", False):
        return make()  # augmented anew at every call
    return tower.kept_positions.get(("rotary", *grid), list(rope.buffers()), make)
