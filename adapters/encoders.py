"""What the hybrid encoders of a training are built from, and how two networks come to share one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

from torch import nn

from hybrid_encoder.checkpoints.reading import find_reader
from hybrid_encoder.checkpoints.sources import find_local
from hybrid_encoder.config import PRESETS, DecoderConfig, HybridDepthConfig, HybridEncoderConfig
from hybrid_encoder.errors import AdapterError, CheckpointError, ConfigError
from hybrid_encoder.models.encoder import HybridDepthEncoder

EncoderLike = str | Path | HybridEncoderConfig | HybridDepthEncoder
"""What a user names an encoder by: a preset, Hub id, folder, stage-1 file, configuration, or an encoder itself."""


@dataclass(frozen=True)
class EncoderSource:
    """What an encoder is built from. Two sources are equal if they build the same.

    Args:
        origin: an absolute path or Hub id, a configuration, or an encoder, which is used itself.
    """

    origin: str | HybridEncoderConfig | HybridDepthEncoder

    @classmethod
    def resolve(cls, encoder: EncoderLike | None) -> EncoderSource:
        """Return the source that a user named; None is the preset ``"paper"``.

        Raises:
            ConfigError: a name that nothing is known by, or an object of another kind.
        """
        encoder = "paper" if encoder is None else encoder
        if isinstance(encoder, (HybridEncoderConfig, HybridDepthEncoder)):
            return cls(encoder)
        if not isinstance(encoder, (str, Path)):
            raise ConfigError(
                f"encoder is a {type(encoder).__name__}; give a preset, a HybridEncoderConfig, a Hub id "
                "or folder, or a HybridDepthEncoder."
            )
        if isinstance(encoder, str) and encoder in PRESETS:
            return cls(PRESETS[encoder].encoder)
        try:
            path = find_local(encoder)
            if path is not None:
                find_reader(path)  # so that a folder without a checkpoint is told now, not in the trainer
                return cls(os.path.abspath(path))  # a trainer may change the folder before it builds
        except CheckpointError as error:
            raise ConfigError(
                f"encoder is {str(encoder)!r}; give a preset ({', '.join(map(repr, PRESETS))}), a folder, a stage-1 "
                f".ckpt file, or a Hub id 'org/name' ({error})"
            ) from error
        return cls(str(encoder))

    @property
    def brings_weights(self) -> bool:
        """Whether the encoder comes with weights of its own, whatever a trainer says about pretrained ones."""
        return not isinstance(self.origin, HybridEncoderConfig)

    def build(self, pretrained: bool) -> HybridDepthEncoder:
        """Return the encoder.

        Args:
            pretrained: start a configuration's towers from their public weights.
        """
        if isinstance(self.origin, HybridDepthEncoder):
            return self.origin
        if isinstance(self.origin, HybridEncoderConfig):
            return HybridDepthEncoder(self.origin, pretrained=pretrained)
        return HybridDepthEncoder.from_pretrained(self.origin)


def decoder_widths(encoder: HybridEncoderConfig) -> DecoderConfig:
    """Return the decoder widths that go with an encoder: those of the preset with its towers, and else the paper's."""
    decoder = HybridDepthConfig.for_encoder(encoder).decoder
    assert isinstance(decoder, DecoderConfig)  # every preset's is DPT
    return decoder


class Handover:
    """Brings together the two networks of one training that need the same encoder, whichever is built first.

    The first one leaves its encoder for the other, which takes it. At most one encoder waits, and only as long as the
    network that left it is alive; taking it clears the place. The next training in the same process thus starts with an
    encoder of its own.
    """

    def __init__(self) -> None:
        self._waiting: WeakKeyDictionary[nn.Module, tuple[str, HybridDepthEncoder, bool]] = WeakKeyDictionary()

    def leave(self, role: str, encoder: HybridDepthEncoder, pretrained: bool, network: nn.Module) -> None:
        """Let an encoder wait for the other network, in the place of one that was never taken.

        Args:
            role: of the network that is to take it.
            encoder: to be taken.
            pretrained: what it was built with.
            network: which leaves it.
        """
        self._waiting.clear()
        self._waiting[network] = role, encoder, pretrained

    def look(self, role: str) -> HybridDepthEncoder | None:
        """Return the encoder that waits for the network of a role, and let it wait on; None if none does."""
        return next((encoder for waited_for, encoder, _ in self._waiting.values() if waited_for == role), None)

    def take(self, role: str, pretrained: bool | None = None) -> HybridDepthEncoder | None:
        """Return the encoder that waits for the network of a role; None if none does.

        Args:
            role: of the network that asks.
            pretrained: what the encoder must have been built with; None takes either.

        Raises:
            AdapterError: it was built with another ``pretrained``.
        """
        encoder = self.look(role)
        if encoder is None:
            return None
        built_with = next(iter(self._waiting.values()))[2]
        if pretrained is not None and pretrained != built_with:
            raise AdapterError(
                f"the {role} encoder is to be built with pretrained={pretrained}, and the network that shares it was "
                f"built with pretrained={built_with}: ask for the same in both. Between two programs in one process, "
                "call undo() and patch() again."
            )
        self._waiting.clear()
        return encoder
