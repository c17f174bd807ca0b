"""Camera motion between two frames: from their images, or from their DINO class tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hybrid_encoder.config import IMAGENET_MEAN, IMAGENET_STD
from hybrid_encoder.downloading.weights import downloads, timm_weights
from hybrid_encoder.errors import ConfigError

NO_POSE_WEIGHTS = (
    "or start the pose network from random weights with pretrained=False (pose_pretrained=False in a recipe, "
    "--no-pose-pretrained on the command line)"
)
SCALE = 0.01  # keeps the first predicted motions small, as Monodepth2's pose network does


class PoseNetwork(nn.Module):
    """A timm backbone on two frames stacked along their channels, and three convolutions over its last map.

    Source: Godard et al., "Digging Into Self-Supervised Monocular Depth Estimation", ICCV 2019 (with a ResNet-18).

    Args:
        backbone: name of a timm model that gives feature maps.
        pretrained: start the backbone from timm's weights; those for three channels are repeated, and halved.
        channels: of the convolutions.
        options: further arguments of ``timm.create_model``.

    Raises:
        ConfigError: a backbone that timm does not know.
        CheckpointError: weights that are not in the cache, and cannot be downloaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: str = "resnet18", pretrained: bool = False, channels: int = 256, **options: Any
    ) -> None:
        super().__init__()
        import timm

        if not timm.is_model(backbone):
            raise ConfigError(
                f"pose is {backbone!r}, which timm does not know; give 'resnet18', say, or 'class_token'."
            )
        weights = f"the pose network's weights {backbone}"
        start = timm_weights(backbone, pretrained, weights, NO_POSE_WEIGHTS)
        with downloads(weights, NO_POSE_WEIGHTS):
            made: Any = timm.create_model(backbone, features_only=True, in_chans=6, **start, **options)
        self.backbone = made
        last = made.feature_info.channels()[-1]
        self.head = nn.Sequential(
            nn.Conv2d(last, channels, 1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 6, 1),
        )
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN * 2).view(1, 6, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD * 2).view(1, 6, 1, 1), persistent=False)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Take two frames in temporal order, (B, 3, H, W) in [0, 1], to axis-angle and translation, (B, 3) each."""
        pair = (torch.cat([first, second], dim=1) - self.mean) / self.std
        motion = SCALE * self.head(self.backbone(pair)[-1]).mean((-2, -1))
        return motion[:, :3], motion[:, 3:]

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any


class ClassTokenPoseHead(nn.Module):
    """One linear layer from two class tokens to six numbers of motion (as published).

    Args:
        channels: of one class token.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * channels, 6)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Take class tokens (B, C) of two frames in temporal order to axis-angle and translation, both (B, 3)."""
        motion = SCALE * self.linear(torch.cat([first, second], dim=-1))
        return motion[..., :3], motion[..., 3:]

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any
