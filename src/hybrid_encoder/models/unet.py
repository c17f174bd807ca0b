"""The decoder of Monodepth2 and ManyDepth, for what was trained with it: from a pyramid to disparity.

Source: Godard et al., "Digging Into Self-Supervised Monocular Depth Estimation", ICCV 2019. The code is our own,
written from the decoder's structure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.compiling import known, same_size
from hybrid_encoder.config import UNetDecoderConfig
from hybrid_encoder.models.neck import PyramidNeck, Size


class ReflectConv(nn.Conv2d):
    """A 3x3 convolution with a reflected border; a side of one pixel has no reflection, and is repeated."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        single = known(x.shape[-1] == 1) or known(x.shape[-2] == 1)
        return super().forward(F.pad(x, (1, 1, 1, 1), mode="replicate" if single else "reflect"))


class UNetDecoder(nn.Module):
    """A pyramid of four maps on one grid, and from coarse to fine: convolve, double, join with the next finer level,
    convolve; one more convolution and a sigmoid for each output.

    Args:
        in_channels: channels of the four maps.
        config: widths, scales, and the pyramid.
    """

    def __init__(self, in_channels: Sequence[int], config: UNetDecoderConfig) -> None:
        super().__init__()
        self.scales = tuple(sorted(config.scales))
        self.neck = PyramidNeck(in_channels, config.neck.channels, config.neck.strides)
        deeper = (*config.widths[1:], config.neck.channels[-1])
        skips = (0, *config.neck.channels[:-1])
        levels = list(zip(config.widths, deeper, skips, strict=True))
        self.reduce = nn.ModuleList(ReflectConv(below, width) for width, below, _ in levels)
        self.join = nn.ModuleList(ReflectConv(width + skip, width) for width, _, skip in levels)
        self.heads = nn.ModuleDict({str(scale): ReflectConv(config.widths[scale], 1) for scale in self.scales})

    def set_bias(self, value: float) -> None:
        """Set the bias of every output before its sigmoid: what an untrained decoder says everywhere."""
        for head in self.heads.values():
            nn.init.constant_(cast(ReflectConv, head).bias, value)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor], image_size: Size) -> dict[int, Tensor]:
        """Take four maps (B, C_i, h, w) to {scale: (B, 1, H // 2**scale, W // 2**scale)}, in [0, 1].

        Where a size is no multiple of 32, a level may be one row or column smaller than the doubled one before it,
        which loses its last.

        Args:
            maps: from fine to coarse meaning, all on one grid.
            image_size: (H, W) of the images.

        Raises:
            InputError: a size that cannot be.
        """
        pyramid = self.neck(maps, image_size)
        height, width = image_size
        outputs: dict[int, Tensor] = {}
        x = pyramid[-1]
        for level in (4, 3, 2, 1, 0):
            x = F.elu(self.reduce[level](x))
            size = (pyramid[level - 1].shape[-2], pyramid[level - 1].shape[-1]) if level else (height, width)
            x = F.interpolate(x, size=size, mode="nearest")
            x = F.elu(self.join[level](torch.cat([x, pyramid[level - 1]], dim=1) if level else x))
            if level in self.scales:
                disparity = torch.sigmoid(self.heads[str(level)](x))
                outputs[level] = _fit(disparity, (height // 2**level, width // 2**level))
        return {scale: outputs[scale] for scale in self.scales}

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any


def _fit(x: Tensor, size: Size) -> Tensor:
    if same_size((x.shape[-2], x.shape[-1]), size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
