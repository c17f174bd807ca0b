"""The hybrid encoder and the DPT decoder behind the interfaces of Monodepth2's ``networks``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from hybrid_encoder.config import DecoderConfig
from hybrid_encoder.decoder import DPTDecoder, PyramidNeck
from hybrid_encoder.encoder import HybridDepthEncoder


class DepthEncoder(nn.Module):
    """A hybrid encoder behind the interface of ``networks.ResnetEncoder``.

    With a neck the features are five maps at strides 2 to 32. Without one they are the encoder's four maps,
    and before them an empty one, (B, 0, H, W): the decoder reads the image size off it, and being a tensor
    it is split, moved and gathered with the others.

    Args:
        encoder: gives four maps on one grid.
        neck: brings them to a pyramid.
    """

    num_ch_enc: np.ndarray[Any, np.dtype[np.int_]]

    def __init__(self, encoder: HybridDepthEncoder, neck: PyramidNeck | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.neck = neck
        channels = neck.num_ch_enc if neck is not None else (0, *encoder.feature_info.channels())
        self.num_ch_enc = np.array(channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """RGB in [0, 1], (B, 3, H, W), to five features (B, num_ch_enc[i], h_i, w_i)."""
        maps: list[Tensor] = self.encoder(images)
        if self.neck is None:
            return [images[:, :0], *maps]
        features: list[Tensor] = self.neck(maps, image_size=(images.shape[-2], images.shape[-1]))
        return features

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Those that train. Trainers hand this list to an optimizer, where a frozen one has no place;
        ``state_dict``, ``to`` and ``named_parameters`` go other ways and see every parameter."""
        return (parameter for parameter in super().parameters(recurse) if parameter.requires_grad)


class DepthDecoder(nn.Module):
    """A DPT decoder behind the interface of ``networks.DepthDecoder``.

    Args:
        num_ch_enc: of a :class:`DepthEncoder` without a neck.
        scales: output scales; scale s is 1 / 2**s of the image size.
        num_output_channels: channels of each output.
        config: widths.
    """

    def __init__(
        self,
        num_ch_enc: Sequence[int],
        scales: Iterable[int],
        num_output_channels: int,
        config: DecoderConfig,
    ) -> None:
        super().__init__()
        self.dpt = DPTDecoder.from_config(
            [int(channels) for channels in num_ch_enc[1:]],
            config,
            scales=tuple(scales),
            out_channels=num_output_channels,
            activation="sigmoid",
        )

    def forward(self, features: Sequence[Tensor]) -> dict[tuple[str, int], Tensor]:
        """``{("disp", s): (B, num_output_channels, H // 2**s, W // 2**s)}``, in [0, 1]."""
        size, *maps = features
        outputs = self.dpt(maps, image_size=(size.shape[-2], size.shape[-1]))
        return {("disp", scale): output for scale, output in outputs.items()}
