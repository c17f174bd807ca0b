"""Hugging Face transformers: models, backbone and image processor, known to its Auto classes once this is imported.

The classes carry the names that transformers would give them, of which one is also the name of a configuration of this
library: ``hybrid_encoder.config.HybridDepthConfig`` is the data, and the one here wraps it for transformers.
"""

from __future__ import annotations

from hybrid_encoder.integrations.transformers.backbone import HybridDepthBackbone
from hybrid_encoder.integrations.transformers.configuration import HybridDepthConfig
from hybrid_encoder.integrations.transformers.depth import HybridDepthForDepthEstimation
from hybrid_encoder.integrations.transformers.image_processing import HybridDepthImageProcessor
from hybrid_encoder.integrations.transformers.registration import register

__all__ = ["HybridDepthBackbone", "HybridDepthConfig", "HybridDepthForDepthEstimation", "HybridDepthImageProcessor"]

register()
