"""The two towers' maps on one grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.compiling import is_exporting, known
from hybrid_encoder.config import FusionConfig
from hybrid_encoder.towers.base import Grid


class Fusion(nn.Module):
    """Align the semantic maps with the spatial grid and concatenate [spatial, semantic].

    With one tower alone its maps are passed on by themselves.

    Args:
        semantic_channels: channels of the four semantic maps, empty without that tower.
        spatial_channels: channels of the four spatial maps, empty without that tower.
        config: method and width.
    """

    def __init__(self, semantic_channels: Sequence[int], spatial_channels: Sequence[int], config: FusionConfig) -> None:
        super().__init__()
        self.method = config.method
        width = config.channels
        self.align = nn.ModuleList()
        for level, channels in enumerate(semantic_channels):
            self.align.append(_align(config.method, level, channels, width))
        semantic = [width if semantic_channels else 0] * 4
        spatial = list(spatial_channels) or [0] * 4
        self.channels = tuple(a + b for a, b in zip(spatial, semantic, strict=True))

    def forward(self, semantic: Sequence[Tensor], spatial: Sequence[Tensor], grid: Grid) -> list[Tensor]:
        """Return four maps (B, C_i, h, w) of the grid's size; either sequence may be empty."""
        aligned = [self._to_grid(level, x, grid) for level, x in enumerate(semantic)]
        if not spatial:
            return aligned
        if not aligned:
            return list(spatial)
        return [torch.cat([a, b], dim=1) for a, b in zip(spatial, aligned, strict=True)]

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    def _to_grid(self, level: int, x: Tensor, grid: Grid) -> Tensor:
        convolution = self.align[level]
        here, there = x.shape[-2] * x.shape[-1], grid[0] * grid[1]
        # With symbolic sizes the comparison has no answer: the deeper two levels are then taken to be the smaller ones.
        smaller = known(here < there) if level < 2 else not known(here >= there)
        if self.method == "interp_conv1x1" and not smaller:
            return convolution(_nearest(x, grid))  # type: ignore[no-any-return]
        # A 1x1 convolution and nearest resampling commute: convolve where there are fewer pixels.
        return _nearest(convolution(x), grid)


def _nearest(x: Tensor, grid: Grid) -> Tensor:
    if not is_exporting():
        return F.interpolate(x, grid)
    # torch's rule for the nearest cell, spelt out: other runtimes round differently and would sometimes read the next.
    for axis, count in ((2, grid[0]), (3, grid[1])):
        step = torch.scalar_tensor(x.shape[axis], device=x.device) / torch.scalar_tensor(count, device=x.device)
        index = (torch.arange(count, dtype=step.dtype, device=x.device) * step).long()
        x = x.index_select(axis, index)
    return x


def _align(method: str, level: int, channels: int, width: int) -> nn.Module:
    if method == "interp_conv1x1":
        return nn.Identity() if level == 0 and channels == width else nn.Conv2d(channels, width, 1)
    if level < 2:
        return nn.Conv2d(channels, width, 3, stride=2, padding=1)
    if level == 2:
        return nn.Conv2d(channels, width, 1)
    return nn.ConvTranspose2d(channels, width, 3, stride=2, padding=1)
