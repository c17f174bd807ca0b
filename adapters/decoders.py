"""Who reads the features of our encoders: the DPT decoder, or the codebase's own on a pyramid."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Sequence
from typing import Literal

from torch import nn

from hybrid_encoder.config import DecoderConfig, find_encoder_config
from hybrid_encoder.errors import AdapterError

from .adoption import Adoption
from .encoders import decoder_widths
from .networks import DepthDecoder, Features
from .patching.construction import Answer, Call
from .patching.replacing import Replacement
from .patching.seams import Interface
from .patching.watching import holders_of

DecoderChoice = Literal["dpt", "repository"]
OWN_DECODER = "decoder='repository' (--decoder repository) keeps the codebase's own decoder, on a pyramid of our maps."


class Readers:
    """Decides for every decoder that a codebase builds, by the channels that it is handed.

    Args:
        choice: ``"dpt"``, or ``"repository"``.
        config: widths of the DPT decoder; None takes those that go with the encoder.
        adoption: of what weights say, where ``config`` is None.
        others: whether encoders of the codebase's own may be there before any of ours.
    """

    def __init__(
        self, choice: DecoderChoice, config: DecoderConfig | None, adoption: Adoption, *, others: bool = False
    ) -> None:
        self.choice = choice
        self.config = config
        self.adoption = adoption
        self.others = others
        self._encoders: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def add(self, encoder: nn.Module) -> None:
        """Take note of an encoder of ours, or of the object that becomes it."""
        self._encoders.add(encoder)

    def replacements(
        self, names: Sequence[str], dpt: Answer, own: Answer, *, num_optional: int = 0
    ) -> list[Replacement]:
        """Return what replaces the decoders of a codebase.

        Args:
            names: of the decoders.
            dpt: builds the DPT decoder, see :meth:`build`.
            own: builds the codebase's own.
            num_optional: how many of the last ones may be missing where the DPT decoder takes their place.
        """
        if self.choice != "dpt":
            return [Replacement(name, own, optional=True) for name in names]
        interface = Interface(("num_ch_enc", "scales"), ("features",), "disp")
        needed = len(names) - num_optional
        return [
            Replacement(name, dpt, interface, OWN_DECODER, optional=index >= needed) for index, name in enumerate(names)
        ]

    def build(self, call: Call, num_prompts: int = 0) -> nn.Module:
        """Build the DPT decoder on our features; those of another encoder go to the codebase's decoder.

        Args:
            call: of the codebase's decoder.
            num_prompts: see :class:`~hybrid_encoder.adapters.networks.DepthDecoder`.

        Raises:
            AdapterError: another encoder's features, and there is no encoder of ours at all.
        """
        channels = call["num_ch_enc"]
        encoder = self.encoder_of(channels)
        if encoder is not None:
            return self._build_dpt(encoder, call, num_prompts)
        if self._encoders or self.others:
            return call.build_own()
        names = ", ".join(holders_of("num_ch_enc", channels)) or f"a network with channels {list(channels)}"
        raise AdapterError(
            f"{call.real.__name__} is to read the features of {names}, and no depth encoder of ours was built: "
            "name what builds it with recipe=CodebaseRecipe(..., encoder=...) (docs/your_codebase.md)."
        )

    def _build_dpt(self, encoder: Features, call: Call, num_prompts: int) -> DepthDecoder:
        channels, outputs = encoder.num_ch_enc.tolist(), call.arguments.get("num_output_channels", 1)

        def build(config: DecoderConfig) -> DepthDecoder:
            return DepthDecoder(channels, call["scales"], outputs, config, num_prompts)

        if self.config is not None:
            return build(self.config)
        network = build(decoder_widths(find_encoder_config(encoder.model.config)))
        self.adoption.leave_open(call.owner(network), lambda description: build(description.config))
        return network

    def encoder_of(self, channels: Sequence[int]) -> Features | None:
        """Return an encoder of ours that has these channels."""
        return next((x for x in self._encoders if isinstance(x, Features) and x.has_channels(channels)), None)

    def guard(self, cls: type[nn.Module]) -> Answer | None:
        """Return what refuses our features to a decoder that is not replaced; None for other classes."""
        if self.choice != "dpt" or "pose" in cls.__name__.lower():
            return None  # pose decoders read the last map alone
        if "num_ch_enc" not in inspect.signature(cls.__init__).parameters:
            return None
        return self.refuse

    def refuse(self, call: Call) -> nn.Module:
        """Build a decoder that is not replaced.

        Raises:
            AdapterError: it is to read our features.
        """
        if self.encoder_of(call["num_ch_enc"]) is None:
            return call.build_own()
        raise AdapterError(
            f"{call.real.__module__}.{call.real.__qualname__} is to read the hybrid encoder's features, which only the "
            f"DPT decoder can: {OWN_DECODER}"
        )
