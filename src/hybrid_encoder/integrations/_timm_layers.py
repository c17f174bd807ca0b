"""The layers of an encoder as timm counts them: how deep each parameter lies, and what early maps do not need."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.towers.stages import is_staged, stages

# Names of tokens and learned positions, whose weights are not to decay.
NO_DECAY = {
    *("tokens", "cls_token", "reg_token", "dist_token", "mask_token", "register_tokens", "class_embedding"),
    *("pos_embed", "position_embeddings", "positional_embedding"),
}
_TAIL = (
    r"^encoder\.(?:semantic|spatial|prompts)\.(?:visual\.|trunk\.|model\.)*"
    r"(?:norm|layernorm|ln_post|ln_final|text_projection\w*)(?:\.|$)"
)
_STEM = r"^encoder\.(?:semantic\.|spatial\.|prompts\.(?!tokens$))"


def layer_groups(encoder: HybridDepthEncoder, coarse: bool) -> dict[str, list[tuple[str, tuple[int]]]]:
    """Return regular expressions for the names of a model's parameters, with the number of their layer.

    The towers run beside each other: each ends at the same number, so that a layer's number says how far it is from
    the fusion. A stage of CLIP's counts as deep as the block of DINO's that ends at the same map. What starts from
    random weights matches none and so comes last: the depth tokens, the fusion, and what stands on it.

    Args:
        encoder: under the name ``encoder`` in the model.
        coarse: number the maps, 1 to 4, in place of the blocks.
    """
    spatial, semantic, text = _spatial(encoder), _semantic(encoder), _text(encoder)
    depth = 4 if coarse else max(len(spatial), len(semantic), len(text))
    names = {id(module): name for name, module in encoder.named_modules()}
    taps = getattr(encoder.spatial, "taps", ())
    found: list[tuple[str, tuple[int]]] = []
    for steps in (spatial, semantic, text):
        for index, step in enumerate(steps):
            if coarse:
                number = 1 + (
                    sum(tap < index for tap in taps) if taps and steps is spatial else (4 * index + 3) // len(steps)
                )
            elif steps is semantic and taps and len(steps) <= len(taps) < len(spatial):
                number = depth - len(spatial) + 1 + taps[index]
            else:
                number = depth - len(steps) + 1 + index
            found.append((rf"^encoder\.{re.escape(names[id(step)])}\.", (min(number, depth),)))
    # timm takes the first that matches: what is left of the towers comes before their blocks, but for what ends them.
    return {"layers": [*found, (_TAIL, (depth,)), (_STEM, (0,))]}


def keep_levels(encoder: HybridDepthEncoder, levels: int) -> None:
    """Remove what only the maps after the first ``levels`` need: nothing where words are read off all of them."""
    if encoder.config.reads_jointly:
        return
    encoder.fusion.align = encoder.fusion.align[:levels]
    semantic: Any = encoder.semantic
    if semantic is not None:
        trunk = getattr(semantic.visual, "trunk", semantic.visual)
        if semantic.kind != "vit":
            _cut_stages(trunk, levels)
        elif hasattr(semantic.visual, "trunk"):
            trunk.blocks = trunk.blocks[: semantic.taps[levels - 1] + 1]
        else:
            trunk.transformer.resblocks = trunk.transformer.resblocks[: semantic.taps[levels - 1] + 1]
    spatial: Any = encoder.spatial
    if spatial is not None and is_staged(spatial.model):
        _cut_stages(spatial.model, levels)
    elif spatial is not None and hasattr(spatial.model, "blocks"):  # a transformers model runs its own, all of them
        spatial.model.blocks = spatial.model.blocks[: spatial.taps[levels - 1] + 1]


def _cut_stages(trunk: Any, levels: int) -> None:
    if hasattr(trunk, "stages"):
        trunk.stages = nn.Sequential(*list(trunk.stages)[:levels])
        return
    for number in range(levels + 1, 5):
        setattr(trunk, f"layer{number}", nn.Identity())


def _spatial(encoder: HybridDepthEncoder) -> list[nn.Module]:
    tower: Any = encoder.spatial
    return [] if tower is None else list(stages(tower.model) if is_staged(tower.model) else tower.blocks)


def _semantic(encoder: HybridDepthEncoder) -> list[nn.Module]:
    tower: Any = encoder.semantic
    if tower is None:
        return []
    if tower.kind != "vit":
        return list(tower.stages())
    trunk = getattr(tower.visual, "trunk", None)
    blocks: Iterable[nn.Module] = tower.visual.transformer.resblocks if trunk is None else trunk.blocks
    return list(blocks)


def _text(encoder: HybridDepthEncoder) -> list[nn.Module]:
    transformer: Any = getattr(encoder.prompts, "transformer", None)
    return list(getattr(transformer, "resblocks", ()))
