"""The classes made known to the Auto classes of transformers."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from transformers import AutoBackbone, AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation

from hybrid_encoder.checkpoints.files import CONFIG
from hybrid_encoder.config.serialization import MAX_BYTES
from hybrid_encoder.integrations.transformers.backbone import HybridDepthBackbone
from hybrid_encoder.integrations.transformers.configuration import HybridDepthConfig
from hybrid_encoder.integrations.transformers.depth import HybridDepthForDepthEstimation
from hybrid_encoder.integrations.transformers.image_processing import HybridDepthImageProcessor


def register() -> None:
    """Register configuration, models and image processor; again changes nothing."""
    AutoConfig.register(HybridDepthConfig.model_type, HybridDepthConfig, exist_ok=True)
    AutoModelForDepthEstimation.register(HybridDepthConfig, HybridDepthForDepthEstimation, exist_ok=True)
    AutoBackbone.register(HybridDepthConfig, HybridDepthBackbone, exist_ok=True)
    if "image_processor_classes" in inspect.signature(AutoImageProcessor.register).parameters:
        classes: dict[str, Any] = dict.fromkeys(("torchvision", "pil"), HybridDepthImageProcessor)
        AutoImageProcessor.register(HybridDepthConfig, image_processor_classes=classes, exist_ok=True)
    else:  # transformers before its processors had backends
        AutoImageProcessor.register(HybridDepthConfig, HybridDepthImageProcessor, exist_ok=True)
    _open_folders()


def _open_folders() -> None:
    """Let ``AutoBackbone.from_pretrained`` open folders of this library's models.

    Transformers asks the Hub whether a repository has the folder's name, and takes it for a model of timm where none
    has. Everything else goes its way.
    """
    original: Any = AutoBackbone.from_pretrained
    if getattr(original, "opens_our_folders", False):
        return

    def from_pretrained(cls: Any, source: Any, *args: Any, **options: Any) -> Any:
        if _is_ours(source, options.get("subfolder") or ""):
            options.pop("use_timm_backbone", None)
            return HybridDepthBackbone.from_pretrained(source, *args, **options)
        return original(source, *args, **options)

    from_pretrained.__doc__ = original.__doc__
    from_pretrained.opens_our_folders = True  # type: ignore[attr-defined]
    AutoBackbone.from_pretrained = classmethod(from_pretrained)  # type: ignore[method-assign,assignment]


def _is_ours(source: Any, subfolder: str) -> bool:
    try:
        with (Path(source).expanduser() / subfolder / CONFIG).open("rb") as file:
            content = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, TypeError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("model_type") == HybridDepthConfig.model_type
