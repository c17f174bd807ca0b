"""What a model is made of, as frozen data that goes to JSON and back.

Imports no torch: a configuration can be read, checked and printed without loading a model library.
"""

from __future__ import annotations

from hybrid_encoder.config.architectures import IMAGENET_MEAN, IMAGENET_STD, NO_MEAN, NO_STD, Triple
from hybrid_encoder.config.bev import BevConfig
from hybrid_encoder.config.kinds import MODEL_CONFIGS
from hybrid_encoder.config.models import (
    PRESETS,
    DepthScale,
    HybridDepthConfig,
    HybridEncoderConfig,
    HybridMatchingConfig,
    HybridMatchingDepthConfig,
    find_encoder_config,
)
from hybrid_encoder.config.parts import (
    DEPTH_WORDS,
    MIN_SIZE,
    DecoderConfig,
    FusionConfig,
    PromptConfig,
    SemanticConfig,
    SpatialConfig,
)
from hybrid_encoder.config.pyramids import NeckConfig, UNetDecoderConfig
from hybrid_encoder.config.serialization import FORMAT_VERSION, migrate

__all__ = [
    "DEPTH_WORDS",
    "FORMAT_VERSION",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "MIN_SIZE",
    "MODEL_CONFIGS",
    "NO_MEAN",
    "NO_STD",
    "PRESETS",
    "BevConfig",
    "DecoderConfig",
    "DepthScale",
    "FusionConfig",
    "HybridDepthConfig",
    "HybridEncoderConfig",
    "HybridMatchingConfig",
    "HybridMatchingDepthConfig",
    "NeckConfig",
    "PromptConfig",
    "SemanticConfig",
    "SpatialConfig",
    "Triple",
    "UNetDecoderConfig",
    "find_encoder_config",
    "migrate",
]
