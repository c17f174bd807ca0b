"""Images on their way to the size that a model works at, and disparity on its way back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder.models.sizes import Size


def resized_images(images: Tensor, size: Size) -> Tensor:
    """Return RGB in [0, 1], (B, 3, H, W), at the size to work at: bilinear, over all pixels where it shrinks."""
    if size == (images.shape[-2], images.shape[-1]):
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


@torch.inference_mode()
def resized_to(disparity: Tensor, size: Size) -> Tensor:
    """Return disparity (B, 1, h, w) at a size (H, W), bilinear."""
    if size == (disparity.shape[-2], disparity.shape[-1]):
        return disparity
    return F.interpolate(disparity, size, mode="bilinear", align_corners=False)
