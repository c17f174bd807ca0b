"""Networks whose configuration nobody named: built as the weights that a script is about to load into them say."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from hybrid_encoder.checkpoints.described import KEY, Description, stored_config
from hybrid_encoder.config import find_encoder_config

from .encoders import EncoderSource
from .loading import StrictLoading
from .patching.construction import become
from .patching.watching import LOG, parameters_of_optimizers, size_of

Rebuild = Callable[[Description], nn.Module]


class Adoption:
    """Follows what a repository's scripts read, and builds networks of ours accordingly.

    Scripts that evaluate read a file of weights, build the networks, or first the one and then the other, and load.
    Weights that an adapter's network wrote describe it. As long as they are in memory, a network of that kind is built
    as they say; and one that was built before, that nothing trains, is built anew.

    Args:
        named: whether somebody named the encoder; it is built as named then.
    """

    def __init__(self, named: bool) -> None:
        self.named = named
        self._described: dict[str, tuple[weakref.ref[Tensor], Description]] = {}  # by kind of network
        self._open: weakref.WeakKeyDictionary[nn.Module, Rebuild] = weakref.WeakKeyDictionary()

    def source(self, kind: str, source: EncoderSource, pretrained: bool | None) -> EncoderSource:
        """Return what an encoder is built from: what weights in memory say, else the source itself.

        Args:
            kind: of network that the encoder is for.
            source: what it is built from otherwise.
            pretrained: whether it is to start from public weights, so that no others are about to be loaded.
        """
        described = None if pretrained else self.description(kind)
        return source if described is None else EncoderSource(find_encoder_config(described.config))

    def description(self, kind: str) -> Description | None:
        """Return what weights in memory say of an encoder for a kind of network; None if none do, or it was named."""
        if self.named or kind not in self._described:
            return None
        alive, description = self._described[kind]
        return None if alive() is None else description

    def leave_encoder_open(self, owner: nn.Module, rebuild: Rebuild, pretrained: bool | None) -> None:
        """Let an encoder that nobody named, and that has no public weights, be built anew; see :meth:`leave_open`."""
        if not self.named and not pretrained:
            self.leave_open(owner, rebuild)

    def leave_open(self, owner: nn.Module, rebuild: Rebuild) -> None:
        """Let a network be built anew if weights say that they are of another one.

        Args:
            owner: the network, or the object that becomes it.
            rebuild: builds it as a description says.
        """
        self._open[owner] = rebuild

    def read(self, loaded: Any) -> None:
        """Take note of what a script has read, be it weights or not."""
        description = stored_config(loaded) if isinstance(loaded, Mapping) else None
        if description is None:
            return
        bytes_of_it = next(value for name, value in loaded.items() if str(name).endswith(KEY))
        self._described[description.network] = weakref.ref(bytes_of_it), description
        for network, rebuild in list(self._open.items()):
            present = network.describe() if isinstance(network, StrictLoading) else None
            if present is None or present.network != description.network or present.config == description.config:
                continue
            if not {id(x) for x in network.parameters()} & parameters_of_optimizers():
                new = rebuild(description).train(network.training)
                device = next((x.device for x in network.state_dict().values()), None)
                become(network, new.to(device))
                LOG.info("%s, built anew as the weights say: %s", description.network, size_of(network))
