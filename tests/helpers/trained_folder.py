"""Folders as Monodepth2's trainer writes them, and a decoder of our own with the names and the layers of its."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HEIGHT, WIDTH = 64, 96
UNET = """
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Border(nn.Module):
        def __init__(self, channels, out):
            super().__init__()
            self.conv = nn.Conv2d(channels, out, 3, padding=1, padding_mode="reflect")

        def forward(self, x):
            return self.conv(x)

    class Unit(nn.Module):
        def __init__(self, channels, out):
            super().__init__()
            self.conv = Border(channels, out)

        def forward(self, x):
            return F.elu(self.conv(x))

    class DepthDecoder(nn.Module):
        \"\"\"Two units a level from coarse to fine, with a doubling between them, and then the outputs.\"\"\"
        def __init__(self, num_ch_enc, scales=range(4), num_output_channels=1, use_skips=True):
            super(DepthDecoder, self).__init__()
            self.scales = list(scales)
            widths, units, channels = [16, 32, 64, 128, 256], [], int(num_ch_enc[-1])
            for level in (4, 3, 2, 1, 0):
                skip = int(num_ch_enc[level - 1]) if level else 0
                units += [Unit(channels, widths[level]), Unit(widths[level] + skip, widths[level])]
                channels = widths[level]
            heads = [Border(widths[s], num_output_channels) for s in self.scales]
            self.decoder = nn.ModuleList(units + heads)

        def forward(self, features):
            x, outputs = features[-1], {}
            for n, level in enumerate((4, 3, 2, 1, 0)):
                x = self.decoder[2 * n](x).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                x = self.decoder[2 * n + 1](torch.cat([x, features[level - 1]], dim=1) if level else x)
                if level in self.scales:
                    head = self.decoder[10 + self.scales.index(level)]
                    outputs[("disp", level)] = torch.sigmoid(head(x))
            return outputs
"""


def save_weights(folder: Path, *, bins: Any = None, **networks: nn.Module) -> Path:
    """Write every network's state dict as ``<name>.pth``, as the trainers do: with numbers among an encoder's weights.

    Args:
        folder: made if it is not there.
        bins: the range of depth bins, of a multi-frame encoder.
        networks: by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, network in networks.items():
        content: dict[str, Any] = dict(network.state_dict())
        if name in ("encoder", "mono_encoder"):
            content.update(height=HEIGHT, width=WIDTH, use_stereo=False)
        if name == "encoder" and bins is not None:
            content.update(min_depth_bin=bins[0], max_depth_bin=torch.tensor([bins[1]]))
        torch.save(content, folder / f"{name}.pth")
    return folder


def unet_weights(channels: Sequence[int], scales: Sequence[int]) -> dict[str, Tensor]:
    """Return weights of Monodepth2's decoder for a pyramid of these channels, the same on every machine."""
    widths = (16, 32, 64, 128, 256)
    layers: list[tuple[int, int]] = []
    below = channels[-1]
    for level in (4, 3, 2, 1, 0):
        layers += [(widths[level], below), (widths[level], widths[level] + (channels[level - 1] if level else 0))]
        below = widths[level]
    layers += [(1, widths[scale]) for scale in scales]
    state = {}
    for n, (out, read) in enumerate(layers):
        name = f"decoder.{n}.conv.{'conv.' if n < 10 else ''}"
        state[name + "weight"] = waves((out, read, 3, 3), n) / math.sqrt(4 * read)
        state[name + "bias"] = waves((out,), n)
    return state


def waves(shape: Sequence[int], seed: int) -> Tensor:
    """Return numbers from -1 to 1 that look random and are the same on every machine."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(index * 12.9898 + seed * 78.233).float().reshape(*shape)
