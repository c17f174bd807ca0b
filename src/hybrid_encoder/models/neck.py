"""From four maps on one grid to a pyramid, as the CNN decoders of other codebases read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.config import NeckConfig
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.models.base import check_image_size

Size = tuple[int, int]
RESNET_CHANNELS = {2: 64, 4: 64, 8: 128, 16: 256, 32: 512}  # of a ResNet-18, by stride


class PyramidNeck(nn.Module):
    """A pyramid at strides 2, 4, 8, 16 and 32, or some of these, made of maps on one grid.

    Args:
        in_channels: channels of the four maps.
        channels: channels of the outputs, also ``num_ch_enc``; None takes a ResNet-18's at these strides.
        strides: of the outputs, fine to coarse.

    Raises:
        ConfigError: a stride that is not a power of two from 2 to 32, or another number of channels than strides.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: Sequence[int] | None = None,
        strides: Sequence[int] = (2, 4, 8, 16, 32),
    ) -> None:
        super().__init__()
        if not strides or any(stride not in RESNET_CHANNELS for stride in strides):
            raise ConfigError(
                f"strides is {tuple(strides)}; each must be one of {', '.join(map(str, RESNET_CHANNELS))}."
            )
        self.strides = tuple(strides)
        self.num_ch_enc = tuple(RESNET_CHANNELS[stride] for stride in strides) if channels is None else tuple(channels)
        if len(self.num_ch_enc) != len(self.strides):
            raise ConfigError(f"channels is {self.num_ch_enc}; {len(self.strides)} strides need as many channels.")
        # The deepest map goes to the coarsest level and so on. With more than four levels the first map serves several
        # of them; with fewer, the finest level reads several maps.
        more = len(self.strides) - 4
        first = tuple(range(max(1, 1 - more)))
        self.sources = (first, *((max(0, level - more),) for level in range(1, len(self.strides))))
        self.project = nn.ModuleList(
            nn.Conv2d(sum(in_channels[i] for i in sources), out, 1)
            for sources, out in zip(self.sources, self.num_ch_enc, strict=True)
        )
        self.smooth = nn.ModuleList(nn.Conv2d(out, out, 3, padding=1) for out in self.num_ch_enc)

    @property
    def config(self) -> NeckConfig:
        """What the neck is, as data."""
        return NeckConfig(tuple(int(channels) for channels in self.num_ch_enc), tuple(self.strides))

    def forward(self, maps: Sequence[Tensor], image_size: Size) -> list[Tensor]:
        """Take four maps (B, C_i, h, w) to a pyramid, (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i]))."""
        check_image_size(image_size)
        outputs = []
        for stride, sources, project, smooth in zip(self.strides, self.sources, self.project, self.smooth, strict=True):
            # Rounded up; not as -(-H // stride), which ONNX cuts towards zero.
            size = ((image_size[0] + stride - 1) // stride, (image_size[1] + stride - 1) // stride)
            x = project(torch.cat([maps[i] for i in sources], dim=1) if len(sources) > 1 else maps[sources[0]])
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            outputs.append(F.elu(smooth(x)))
        return outputs

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any
