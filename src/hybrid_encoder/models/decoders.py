"""The decoder that a configuration describes."""

from __future__ import annotations

from collections.abc import Sequence

from hybrid_encoder.config import DecoderConfig, UNetDecoderConfig
from hybrid_encoder.models.decoder import DPTDecoder
from hybrid_encoder.models.unet import UNetDecoder

Decoder = DPTDecoder | UNetDecoder
"""Takes four maps and the size of the images to ``{scale: disparity}``."""


def build_decoder(in_channels: Sequence[int], config: DecoderConfig | UNetDecoderConfig) -> Decoder:
    """Build the decoder for maps of these channels."""
    if isinstance(config, UNetDecoderConfig):
        return UNetDecoder(in_channels, config)
    return DPTDecoder.from_config(in_channels, config)
