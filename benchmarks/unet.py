"""A ResNet-18 U-Net for depth, laid out as Monodepth2 (Godard et al., ICCV 2019) describes its network.

Written from the paper, from random weights, to be trained beside the hybrid encoder by the same stage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder import HybridDepthConfig
from hybrid_encoder.config import IMAGENET_MEAN, IMAGENET_STD
from hybrid_encoder.geometry.camera import depth_to_disparity, disparity_to_depth
from hybrid_encoder.models.encoder import HybridFeatures

WIDTHS = (16, 32, 64, 128, 256)  # of the decoder, from fine to coarse


class ResNetEncoder(nn.Module):
    """Five feature maps, at 1/2 to 1/32 of the size of the images."""

    spatial = prompts = None  # what the fine stage asks of an encoder
    body: Any  # of timm
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = timm.create_model("resnet18", features_only=True)
        self.channels = self.body.feature_info.channels()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward_features(self, images: Tensor) -> HybridFeatures:
        return HybridFeatures(self.body((images - self.mean) / self.std), [], None, None, None)


class UNetDecoder(nn.Module):
    """Nearest upsampling by two and a skip connection, five times; a sigmoid gives disparity at the chosen scales."""

    def __init__(self, channels: list[int], scales: tuple[int, ...]) -> None:
        super().__init__()
        self.before, self.after = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(WIDTHS):
            below = channels[-1] if level == 4 else WIDTHS[level + 1]
            self.before.append(_block(below, width))
            self.after.append(_block(width + (channels[level - 1] if level else 0), width))
        self.heads = nn.ModuleDict({str(s): _convolution(WIDTHS[s], 1) for s in scales})

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> dict[int, Tensor]:
        found = {}
        x = maps[-1]
        for level in range(4, -1, -1):
            skip = maps[level - 1] if level else None
            x = F.interpolate(self.before[level](x), size if skip is None else skip.shape[-2:])
            x = self.after[level](x if skip is None else torch.cat([x, skip], 1))
            if str(level) in self.heads:
                found[level] = self.heads[str(level)](x).sigmoid()
        return found


class UNet(nn.Module):
    """Encoder and decoder with the attributes of ``HybridDepthModel`` that the fine stage reads."""

    def __init__(self, config: HybridDepthConfig, start_depth: float) -> None:
        super().__init__()
        self.encoder = ResNetEncoder()
        self.decoder = UNetDecoder(self.encoder.channels, config.decoder.scales)
        self.config = SimpleNamespace(min_depth=config.min_depth, max_depth=config.max_depth)
        start = depth_to_disparity(start_depth, config.min_depth, config.max_depth)
        for head in self.decoder.heads.values():
            assert isinstance(head, nn.Sequential)
            nn.init.constant_(
                head[1].bias,  # type: ignore[arg-type]
                math.log(start / (1 - start)),
            )

    def forward(self, images: Tensor) -> Tensor:
        """RGB in [0, 1], (B, 3, H, W), to disparity (B, 1, H, W)."""
        size = (images.shape[-2], images.shape[-1])
        outputs: dict[int, Tensor] = self.decoder(self.encoder.forward_features(images).maps, size)
        return F.interpolate(outputs[min(outputs)], size, mode="bilinear", align_corners=False)

    def parameter_groups(self, lr: float, *, lr_scale: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
        assert not lr_scale  # it has one part
        return [{"params": list(self.parameters()), "lr": lr}]

    def to_depth(self, disparity: Tensor) -> Tensor:
        return disparity_to_depth(disparity, self.config.min_depth, self.config.max_depth)


def _convolution(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(before, after, 3))


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(_convolution(before, after), nn.ELU(inplace=True))
