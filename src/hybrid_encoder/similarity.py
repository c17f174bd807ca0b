"""What pixels, patches and prompts are compared by, in the losses as in the network.

Both L2-normalise their channels and multiply by one scale. Where features and prompts differ in their number of
channels, the features' channel axis is resampled (nearest), as published.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOGIT_SCALE = 100.0  # factor on the similarity of a pixel or patch and a prompt, as published


def nearest_channels(source: int, target: int, device: torch.device) -> Tensor:
    """Return which of ``source`` channels each of ``target`` channels reads under nearest resampling, (target,)."""
    return torch.arange(target, device=device) * source // target


def at_least_float32(x: Tensor) -> Tensor:
    """Return the tensor in float32, or as it is where it is finer: sums of half precision lose digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
