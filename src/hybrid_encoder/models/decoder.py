"""The DPT decoder: from four maps on one grid to disparity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.compiling import same_size
from hybrid_encoder.config import DecoderConfig
from hybrid_encoder.models.base import check_image_size
from hybrid_encoder.models.layouts import convolution_layout

Size = tuple[int, int]


class ResidualUnit(nn.Module):
    """Two pre-activation 3x3 convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.conv2(F.relu(self.conv1(F.relu(x))))
        return result


class FusionBlock(nn.Module):
    """Add a skip map to the deeper path, refine it, and resize it to the next level."""

    def __init__(self, channels: int, skip: bool) -> None:
        super().__init__()
        self.skip = ResidualUnit(channels) if skip else None
        self.refine = ResidualUnit(channels)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, path: Tensor, skip: Tensor | None, size: Size) -> Tensor:
        if self.skip is not None and skip is not None:
            path = path + self.skip(skip)
        # The 1x1 convolution goes first: it commutes with interpolation, whose weights sum to one.
        return _resize(self.out(self.refine(path)), size)


class DisparityHead(nn.Module):
    """Two steps from a path to an output: ``reduce`` (3x3 to half the channels), and the call itself (resize, 3x3,
    ReLU, 1x1), which needs the most memory and is therefore run last."""

    def __init__(self, channels: int, hidden: int, out_channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, max(1, channels // 2), 3, padding=1)
        self.hidden = nn.Conv2d(max(1, channels // 2), hidden, 3, padding=1)
        self.out = nn.Conv2d(hidden, out_channels, 1)

    def forward(self, reduced: Tensor, size: Size) -> Tensor:
        result: Tensor = self.out(F.relu(self.hidden(_resize(reduced, size))))
        return result


class DPTDecoder(nn.Module):
    """A DPT decoder for maps that all lie on one grid (Ranftl et al., "Vision Transformers for Dense
    Prediction", ICCV 2021, in the form that Hybrid-depth uses).

    Args:
        in_channels: channels of the four maps.
        features: channels of the fusion blocks.
        channels: channels of the four projections.
        head_channels: channels before the last convolution.
        scales: output scales, 0 to 3; each further scale has a head of its own on a deeper path.
        out_channels: channels of each output, 1 for disparity.
        activation: ``"relu"`` (as published) or ``"sigmoid"``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        features: int = 256,
        channels: Sequence[int] = (256, 512, 1024, 1024),
        head_channels: int = 32,
        scales: Sequence[int] = (0,),
        out_channels: int = 1,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        DecoderConfig(features, tuple(channels), head_channels, tuple(scales), activation)  # type: ignore[arg-type]
        self.scales = tuple(sorted(scales))
        self.activation = activation
        self.project = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(in_channels, channels, strict=True))
        self.resize = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
            ]
        )
        self.reassemble = nn.ModuleList(nn.Conv2d(c, features, 3, padding=1, bias=False) for c in channels)
        self.fuse = nn.ModuleList(FusionBlock(features, skip=level < 3) for level in range(4))
        self.heads = nn.ModuleDict(
            {str(scale): DisparityHead(features, head_channels, out_channels) for scale in self.scales}
        )

    @classmethod
    def from_config(cls, in_channels: Sequence[int], config: DecoderConfig, **changes: Any) -> DPTDecoder:
        """Build the decoder of a configuration; ``changes`` replace constructor arguments."""
        options: dict[str, Any] = {**vars(config), **changes}
        return cls(in_channels, **options)

    def set_bias(self, value: float) -> None:
        """Set the last bias of every head, before its activation: what an untrained decoder says everywhere."""
        for head in self.heads.values():
            nn.init.constant_(cast(DisparityHead, head).out.bias, value)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor], image_size: Size) -> dict[int, Tensor]:
        """Take four maps (B, C_i, h, w) to {scale: (B, out_channels, H // 2**scale, W // 2**scale)}.

        Args:
            maps: from fine to coarse meaning, all on one grid.
            image_size: (H, W) of the images.

        Raises:
            InputError: a size that cannot be.
        """
        check_image_size(image_size)
        height, width = image_size
        grid = (maps[0].shape[-2], maps[0].shape[-1])
        layout = convolution_layout(maps[0].device, torch.is_grad_enabled())  # everything below keeps it
        levels = [
            reassemble(resize(project(x.contiguous(memory_format=layout))))
            for x, project, resize, reassemble in zip(maps, self.project, self.resize, self.reassemble, strict=True)
        ]
        sizes: list[Size] = [(x.shape[-2], x.shape[-1]) for x in levels]
        targets = [(sizes[0][0] * 2, sizes[0][1] * 2), *sizes[:3]]
        reduced: dict[int, Tensor] = {}
        path = levels.pop()
        for level in (3, 2, 1, 0):
            path = self.fuse[level](path, None if level == 3 else levels.pop(), targets[level])
            if level in self.scales:
                reduced[level] = cast(DisparityHead, self.heads[str(level)]).reduce(path)
        del path  # large and not read again; the heads need the memory
        outputs: dict[int, Tensor] = {}
        for scale in self.scales:
            # The published head works at 16 pixels a cell before the last resize.
            working = (grid[0] * 16 // 2**scale, grid[1] * 16 // 2**scale)
            x = self.heads[str(scale)](reduced.pop(scale), working)
            outputs[scale] = self._activate(x, (max(1, height // 2**scale), max(1, width // 2**scale)))
        return outputs

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    def _activate(self, x: Tensor, size: Size) -> Tensor:
        if self.activation == "sigmoid":
            return torch.sigmoid(_resize(x, size))
        return F.relu(_resize(F.relu(x), size))


def _resize(x: Tensor, size: Size) -> Tensor:
    if same_size((x.shape[-2], x.shape[-1]), size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
