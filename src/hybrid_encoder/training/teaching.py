"""A trained model as a teacher: a smaller one follows its disparity beside the photometric loss."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder.models.depth import HybridDepthModel


class Teacher:
    """A model that is asked and never changed.

    It is no module, so that no optimizer, checkpoint or process group of its student's training holds it.

    Args:
        model: trained; it is frozen, and stays in evaluation mode.
    """

    def __init__(self, model: HybridDepthModel) -> None:
        self.model = model.eval().requires_grad_(False)

    @classmethod
    def from_pretrained(cls, weights: str | Path) -> Teacher:
        """Read a teacher: whatever ``HybridDepthModel.from_pretrained`` reads.

        Raises:
            CheckpointError: weights that are not found, or are of no whole single-frame model.
        """
        return cls(HybridDepthModel.from_pretrained(weights))

    @property
    def identity(self) -> str:
        """What tells these weights from others: the SHA-256 of all tensors with their names, in hexadecimal digits."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def disparity(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the teacher's disparity for RGB in [0, 1], (B, 3, H, W), as (B, 1, *size) in float32.

        It looks at the images at the size that its weights were fitted at, where that is known.
        """
        self.model.to(images.device)
        if self.model.config.size is not None:
            images = _resized(images, self.model.config.size)
        return _resized(self.model(images).float(), size)


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    if (x.shape[-2], x.shape[-1]) == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
