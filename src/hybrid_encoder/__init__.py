"""CLIP and DINO joined under language guidance, as one encoder for monocular depth.

The public names are loaded on first use: ``import hybrid_encoder`` alone imports neither torch
nor any model library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hybrid_encoder import adapters
    from hybrid_encoder.config import (
        DecoderConfig,
        FusionConfig,
        HybridDepthConfig,
        HybridEncoderConfig,
        PromptConfig,
        SemanticConfig,
        SpatialConfig,
    )
    from hybrid_encoder.decoder import DPTDecoder, PyramidNeck
    from hybrid_encoder.encoder import HybridDepthEncoder, HybridFeatures
    from hybrid_encoder.errors import (
        AdapterError,
        CheckpointError,
        ConfigError,
        HybridEncoderError,
        InputError,
    )
    from hybrid_encoder.matching_encoder import HybridMatchingEncoder
    from hybrid_encoder.model import DepthPrediction, HybridDepthModel

_HOME = {
    "config": (
        "DecoderConfig",
        "FusionConfig",
        "HybridDepthConfig",
        "HybridEncoderConfig",
        "PromptConfig",
        "SemanticConfig",
        "SpatialConfig",
    ),
    "decoder": ("DPTDecoder", "PyramidNeck"),
    "encoder": ("HybridDepthEncoder", "HybridFeatures"),
    "errors": ("AdapterError", "CheckpointError", "ConfigError", "HybridEncoderError", "InputError"),
    "matching_encoder": ("HybridMatchingEncoder",),
    "model": ("DepthPrediction", "HybridDepthModel"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "AdapterError",
    "CheckpointError",
    "ConfigError",
    "DPTDecoder",
    "DecoderConfig",
    "DepthPrediction",
    "FusionConfig",
    "HybridDepthConfig",
    "HybridDepthEncoder",
    "HybridDepthModel",
    "HybridEncoderConfig",
    "HybridEncoderError",
    "HybridFeatures",
    "HybridMatchingEncoder",
    "InputError",
    "PromptConfig",
    "PyramidNeck",
    "SemanticConfig",
    "SpatialConfig",
    "__version__",
    "adapters",
]


def __getattr__(name: str) -> Any:
    if name == "adapters":
        return importlib.import_module("hybrid_encoder.adapters")
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"hybrid_encoder.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'hybrid_encoder' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
