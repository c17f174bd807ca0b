"""How similar every pixel is to every prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder.errors import InputError
from hybrid_encoder.similarity import LOGIT_SCALE, at_least_float32, nearest_channels


def pixel_prompt_logits(features: Tensor, prompts: Tensor) -> Tensor:
    """Compare each pixel with each prompt: 100 x (pixel / |pixel|) . prompt.

    Where pixels have C channels and prompts D != C, the pixel's channel axis is resampled to D (nearest). That equals
    summing the prompt entries that read the same channel, which is what is computed: it needs no large tensor.

    Args:
        features: (B, C, h, w).
        prompts: (n, D), as ``DepthPrompts`` returns them.

    Returns:
        (B, n, h, w), near before far along n.

    Raises:
        InputError: tensors of other shapes, or not of floats.
    """
    _check("features", features, 4)
    _check("prompts", prompts, 2)
    channels, dim = features.shape[1], prompts.shape[1]
    if channels != dim:
        source = nearest_channels(channels, dim, prompts.device)
        prompts = prompts.new_zeros(prompts.shape[0], channels).index_add(1, source, prompts)
    precise = torch.promote_types(features.dtype, torch.float32)
    length = torch.linalg.vector_norm(features, dim=1, keepdim=True, dtype=precise)
    products = F.conv2d(features, prompts.to(features.dtype)[:, :, None, None])
    scale: Tensor = LOGIT_SCALE / length.clamp_min(1e-12)
    return (products * scale).to(products.dtype)  # 100 / length may be more than half precision holds


def joint_logits(maps: Sequence[Tensor], prompts: Tensor) -> Tensor:
    """Compare each pixel of several maps together with each prompt, as the coarse stage compares patches.

    The maps' channels are put one after another, resampled to the prompts' D (nearest), and L2-normalised:
    100 x (pixel / |pixel|) . prompt. With four maps of D channels, every fourth channel of each is read. What is
    computed is a sum over the maps, which needs no tensor of all their channels.

    Args:
        maps: each (B, C_i, h, w), on one grid.
        prompts: (n, D), as ``DepthPrompts`` returns them.

    Returns:
        (B, n, h, w), near before far along n.

    Raises:
        InputError: no maps, tensors of other shapes, or not of floats.

    Example:
        >>> maps = [torch.ones(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)]
        >>> joint_logits(maps, torch.tensor([[1.0, 0.0], [0.0, 1.0]])).flatten()
        tensor([100.,   0.])
    """
    if not maps:
        raise InputError("there are no maps; give at least one, (B, C, h, w).")
    _check("prompts", prompts, 2)
    for level, x in enumerate(maps):
        _check(f"maps[{level}]", x, 4)
        if (x.shape[0], *x.shape[2:]) != (maps[0].shape[0], *maps[0].shape[2:]):
            raise InputError(
                f"maps[{level}] is {tuple(x.shape)} and maps[0] {tuple(maps[0].shape)}; one grid is needed."
            )
    channels, dim = sum(x.shape[1] for x in maps), prompts.shape[1]
    source = nearest_channels(channels, dim, prompts.device)
    products: list[Tensor] = []
    squares: list[Tensor] = []
    start = 0
    for x in maps:
        end = start + x.shape[1]
        read = slice(-(-start * dim // channels), -(-end * dim // channels))  # entries of a prompt that this map has
        if read.start < read.stop:
            taken = x[:, source[read] - start]
            squares.append(at_least_float32(taken).square().sum(1, keepdim=True))
            products.append(F.conv2d(taken, prompts[:, read].to(x.dtype)[:, :, None, None]))
        start = end
    length = torch.stack(squares).sum(0).sqrt()
    product = torch.stack(products).sum(0)
    scale: Tensor = LOGIT_SCALE / length.clamp_min(1e-12)
    return (product * scale).to(product.dtype)


def _check(name: str, value: Any, ndim: int) -> None:
    if not isinstance(value, Tensor) or value.ndim != ndim or not value.is_floating_point():
        what = f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        axes = "(B, C, h, w)" if ndim == 4 else "(n, D)"
        raise InputError(f"{name} is {what}; a tensor of floats {axes} is needed.")
