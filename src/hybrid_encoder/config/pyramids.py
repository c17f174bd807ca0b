"""The pyramid under another codebase's decoder, and that decoder, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hybrid_encoder.config.checking import Count, check_fields, shown
from hybrid_encoder.errors import ConfigError

NECK_STRIDES = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class NeckConfig:
    """The pyramid that another codebase's decoder reads in place of the encoder's four maps.

    Args:
        channels: of its levels, fine to coarse.
        strides: of its levels, each a power of two from 2 to 32.
    """

    channels: tuple[Count, ...] = (64, 64, 128, 256, 512)
    strides: tuple[int, ...] = NECK_STRIDES

    def __post_init__(self) -> None:
        check_fields(self, "neck.")
        if not self.strides or not set(self.strides) <= set(NECK_STRIDES):
            raise ConfigError(
                f"neck.strides is {shown(self.strides)}; each must be one of {', '.join(map(str, NECK_STRIDES))}."
            )
        if len(self.channels) != len(self.strides) or len(self.strides) > 8:
            raise ConfigError(
                f"neck.channels is {shown(self.channels)}; as many are needed as strides, {len(self.strides)}, and 8 "
                "at most."
            )


@dataclass(frozen=True)
class UNetDecoderConfig:
    """The decoder of Monodepth2 and ManyDepth on a pyramid of the encoder's maps; its disparity is a sigmoid's.

    Args:
        neck: the pyramid, of the strides 2, 4, 8, 16 and 32.
        widths: channels of the five levels, fine to coarse.
        scales: output scales; scale s is 1 / 2**s of the image size (0 to 3).
    """

    neck: NeckConfig = field(default_factory=NeckConfig)
    widths: tuple[Count, Count, Count, Count, Count] = (16, 32, 64, 128, 256)
    scales: tuple[int, ...] = (0, 1, 2, 3)

    def __post_init__(self) -> None:
        check_fields(self, "decoder.")
        if self.neck.strides != NECK_STRIDES:
            raise ConfigError(f"decoder.neck.strides is {shown(self.neck.strides)}; this decoder reads {NECK_STRIDES}.")
        if not 1 <= len(self.scales) <= 4 or not set(self.scales) <= {0, 1, 2, 3}:
            raise ConfigError(f"decoder.scales is {shown(self.scales)}; give one or more of 0, 1, 2, 3.")

    @property
    def activation(self) -> Literal["sigmoid"]:
        """What disparity is made with."""
        return "sigmoid"
