"""The head of bird's-eye view: from pooled features to a map for each thing that is looked for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = ("vehicle", "road", "centre")
"""What the head's maps say of a cell: covered by a vehicle, drivable, the centre of a vehicle."""


RARE = -2.2  # logit of 0.1: an untrained head does not see vehicles everywhere, which the focal loss asks for


class BevHead(nn.Module):
    """A small residual network on the grid: one level at the grid's cells, one at cells of four times the area.

    Normalised by groups of channels, so that a batch of one image set is trained as a larger one.

    Args:
        in_channels: of the pooled features.
        channels: inside.
        classes: names of the maps that come out.
    """

    def __init__(self, in_channels: int, channels: int = 64, classes: tuple[str, ...] = CLASSES) -> None:
        super().__init__()
        self.classes = classes
        self.stem = _conv(in_channels, channels, 3)
        self.fine = nn.Sequential(ResidualBlock(channels), ResidualBlock(channels))
        self.down = _conv(channels, 2 * channels, 3, stride=2)
        self.coarse = nn.Sequential(ResidualBlock(2 * channels), ResidualBlock(2 * channels))
        self.up = _conv(3 * channels, channels, 3)
        self.out = nn.Conv2d(channels, len(classes), 1)
        nn.init.normal_(self.out.weight, std=0.01)
        with torch.no_grad():
            self.out.bias.copy_(torch.tensor([0.0 if name == "road" else RARE for name in classes]))  # type: ignore[union-attr]

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Take features (B, C, X, Y) to logits by class, each (B, 1, X, Y), float32."""
        fine = self.fine(self.stem(features))
        coarse = self.coarse(self.down(fine))
        coarse = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
        logits = self.out(self.up(torch.cat([fine, coarse], dim=1))).float()
        return dict(zip(self.classes, logits.split(1, dim=1), strict=True))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels, 3)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), _norm(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Take (B, C, X, Y) to the same shape."""
        return F.relu(x + self.second(self.first(x)))


def _conv(in_channels: int, channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, _norm(channels), nn.ReLU())


def _norm(channels: int) -> nn.GroupNorm:
    groups = next(groups for groups in (8, 4, 2, 1) if channels % groups == 0)
    return nn.GroupNorm(groups, channels)
