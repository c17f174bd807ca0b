"""DINOv3's ConvNeXts as spatial towers, through timm."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.compiling import known
from hybrid_encoder.config import SpatialConfig
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.towers.base import Grid, fit_to_patches
from hybrid_encoder.towers.dino import CHOOSE_DINO, SpatialTower
from hybrid_encoder.towers.stages import STRIDES, prepare_stages, run_stem, stages


class ConvNextTower(SpatialTower):
    """DINOv3's ConvNeXts through timm: the maps of the four stages, on the grid of the third.

    Finer maps are averaged over its cells, the coarser one is resampled (bilinear). As in DINOv3's own code the last
    map goes through the final norm, and the class token is the norm of its mean.
    """

    STRIDE = 16

    def __init__(self, config: SpatialConfig, model: Any) -> None:
        super().__init__(config)
        what = f"spatial.name is {config.name!r}"
        norm = getattr(model.head, "norm", None)
        if norm is None:
            raise ConfigError(f"{what}, a ConvNeXt without a norm after its pooling; {CHOOSE_DINO}.")
        if config.blocks is not None or config.position_embedding != "auto":
            raise ConfigError(
                f"{what}, a ConvNeXt, whose maps are those of its four stages, without positions; leave "
                "spatial.blocks and spatial.position_embedding out."
            )
        self.channels = prepare_stages(model, what, CHOOSE_DINO)
        self.patch = self.STRIDE
        self.strides = (self.patch,) * 4
        self.taps = ()
        self.position_rule = "none"
        self.model = model
        self.norm = norm

    @property
    def blocks(self) -> nn.ModuleList:
        return nn.ModuleList(block for stage in stages(self.model) for block in stage.blocks)  # type: ignore[union-attr]

    def forward(self, images: Tensor, levels: int = 4) -> tuple[list[Tensor], Tensor | None]:
        images, grid = fit_to_patches(self.normalise(images), self.patch)
        maps, x = [], run_stem(self.model, images)
        for stage, stride in zip(stages(self.model)[:levels], STRIDES[:levels], strict=True):
            x = self.run_block(stage, _made_even(x) if stride > self.patch else x)
            maps.append(x)
        token = None
        if levels == 4:
            token = self.norm(x.mean((2, 3), keepdim=True)).flatten(1)
            maps[-1] = self.norm(x)
        return [_to_stride(x, stride, grid) for x, stride in zip(maps, STRIDES[:levels], strict=True)], token


def is_convnext(model: nn.Module) -> bool:
    """Return whether this is timm's ConvNeXt."""
    from timm.models.convnext import ConvNeXt

    return isinstance(model, ConvNeXt)


def _made_even(x: Tensor) -> Tensor:
    """Repeat the last row and column where their number is odd, so that halving loses none."""
    height, width = x.shape[-2:]
    if known(height % 2 == 0) and known(width % 2 == 0):
        return x
    return F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")


def _to_stride(x: Tensor, stride: int, grid: Grid) -> Tensor:
    """Bring a map of one stride to the tower's grid."""
    if stride <= ConvNextTower.STRIDE:
        factor = ConvNextTower.STRIDE // stride
        return x if factor == 1 else F.avg_pool2d(x, factor)
    x = F.interpolate(x, scale_factor=stride // ConvNextTower.STRIDE, mode="bilinear")
    rows, columns = (torch.arange(n, device=x.device) for n in grid)  # a slice would tie a compiled graph to the size
    return x.index_select(2, rows).index_select(3, columns)
