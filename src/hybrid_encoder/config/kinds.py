"""Which configuration every kind of model has."""

from __future__ import annotations

from hybrid_encoder.config.bev import BevConfig
from hybrid_encoder.config.models import (
    HybridDepthConfig,
    HybridEncoderConfig,
    HybridMatchingConfig,
    HybridMatchingDepthConfig,
)
from hybrid_encoder.config.serialization import Serializable

MODEL_CONFIGS: dict[str, type[Serializable]] = {
    "HybridDepthEncoder": HybridEncoderConfig,
    "HybridDepthModel": HybridDepthConfig,
    "HybridMatchingEncoder": HybridMatchingConfig,
    "HybridMatchingModel": HybridMatchingDepthConfig,
    "BevModel": BevConfig,
}
"""The configuration of every model class, by the name that stands in ``config.json``."""

MODEL_TYPE = "hybrid_depth"
"""What Hugging Face transformers knows them by; it stands in ``config.json``, too."""
