"""The pyramid under another codebase's decoder, and that decoder, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass

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
