"""What a network of an adapter says of itself among its weights: its kind, and the configuration to build it from.

Trainers of other codebases save each network's ``state_dict()`` alone. The description stands in there under one more
name, as a row of bytes: tensors are what every trainer hands on, and every reader of weights takes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from hybrid_encoder.checkpoints.files import WRAPPERS
from hybrid_encoder.config import (
    FORMAT_VERSION,
    DecoderConfig,
    HybridEncoderConfig,
    HybridMatchingConfig,
    NeckConfig,
    find_encoder_config,
)
from hybrid_encoder.config.architectures import check_stored
from hybrid_encoder.config.checking import Within, check_value, shown
from hybrid_encoder.config.serialization import MAX_BYTES, decode, parse, without_folders
from hybrid_encoder.errors import CheckpointError, ConfigError

KEY = "_extra_state"  # where torch keeps what a module adds to its weights
LIBRARY = "hybrid-encoder"
CONFIGS: dict[str, type[Any]] = {
    "DepthEncoder": HybridEncoderConfig,
    "MatchingEncoder": HybridMatchingConfig,
    "PoseEncoder": HybridEncoderConfig,
    "DepthDecoder": DecoderConfig,
}
Outputs = Annotated[int, Within(1, 16384)]


@dataclass(frozen=True)
class Description:
    """What a network is.

    Attributes:
        network: the name of its class in ``hybrid_encoder.adapters.networks``.
        config: of its encoder (:class:`~hybrid_encoder.config.HybridEncoderConfig`, or
            :class:`~hybrid_encoder.config.HybridMatchingConfig` of a ``"MatchingEncoder"``), or of its decoder.
        neck: of an encoder that feeds another codebase's decoder; else None.
        num_outputs: channels of each output, of a decoder.
    """

    network: str
    config: Any
    neck: NeckConfig | None = None
    num_outputs: int = 1

    def pack(self) -> Tensor:
        """Return the description as bytes (N,), uint8."""
        config = without_folders(dataclasses.asdict(self.config))
        neck = None if self.neck is None else dataclasses.asdict(self.neck)
        content = {
            "format_version": FORMAT_VERSION,
            "library": LIBRARY,
            "network": self.network,
            "config": config,
            "neck": neck,
            "num_outputs": self.num_outputs,
        }
        return torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)


def stored_config(weights: Mapping[str, Any]) -> Description | None:
    """Return what the weights of a network say of it; None where they say nothing, as a stranger's do.

    Args:
        weights: a state dict of a network of ``hybrid_encoder.adapters``, or a file's content with more beside it
            (``height``, ``width``). Prefixes that wrappers put before every name do not matter.

    Raises:
        CheckpointError: a description that cannot be read.
    """
    value = next((value for name, value in weights.items() if _bare(name) == KEY), None)
    if not isinstance(value, Tensor) or value.dtype != torch.uint8 or value.ndim != 1 or len(value) > MAX_BYTES:
        return None  # another library's
    try:
        content = parse(bytes(value.cpu().tolist()))
        if content.get("library") != LIBRARY:
            return None
        return _read(content)
    except ConfigError as error:
        raise CheckpointError(f"the weights' description of their network ({KEY!r}) cannot be read: {error}") from error


def _read(content: dict[str, Any]) -> Description:
    kind = content.get("network")
    if not isinstance(kind, str) or kind not in CONFIGS:
        raise ConfigError(f"'network' is {shown(kind)}; this version knows {', '.join(CONFIGS)}.")
    config = decode(CONFIGS[kind], content.get("config"), "config")
    if kind != "DepthDecoder":
        spatial = find_encoder_config(config).spatial
        check_stored(spatial.name, spatial.overrides)
    neck = content.get("neck")
    outputs = content.get("num_outputs", 1)
    check_value(Outputs, outputs, "num_outputs")
    return Description(kind, config, None if neck is None else decode(NeckConfig, neck, "neck"), outputs)


def _bare(name: Any) -> Any:
    while isinstance(name, str) and (prefix := next((p for p in WRAPPERS if name.startswith(p)), None)):
        name = name.removeprefix(prefix)
    return name
