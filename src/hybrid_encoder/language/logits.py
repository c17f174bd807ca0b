"""How similar every pixel is to every prompt."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder.errors import InputError
from hybrid_encoder.similarity import LOGIT_SCALE, nearest_channels


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
    for name, value, axes in (("features", features, "(B, C, h, w)"), ("prompts", prompts, "(n, D)")):
        if not isinstance(value, Tensor) or value.ndim != axes.count(",") + 1 or not value.is_floating_point():
            what = f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{name} is {what}; a tensor of floats {axes} is needed.")
    channels, dim = features.shape[1], prompts.shape[1]
    if channels != dim:
        source = nearest_channels(channels, dim, prompts.device)
        prompts = prompts.new_zeros(prompts.shape[0], channels).index_add(1, source, prompts)
    precise = torch.promote_types(features.dtype, torch.float32)
    length = torch.linalg.vector_norm(features, dim=1, keepdim=True, dtype=precise)
    products = F.conv2d(features, prompts.to(features.dtype)[:, :, None, None])
    scale: Tensor = LOGIT_SCALE / length.clamp_min(1e-12)
    return products * scale.to(products.dtype)
