"""Real architectures, reduced where size matters."""

from __future__ import annotations

from hybrid_encoder.config import SemanticConfig, SpatialConfig


def small_clip(name: str, **vision: object) -> SemanticConfig:
    """An open_clip architecture with a one-layer text tower, so that building it costs little."""
    text = {"width": 64, "heads": 2, "layers": 1}
    return SemanticConfig(name=name, pretrained=None, overrides={"text_cfg": text, "vision_cfg": vision})


def small_dino(name: str, **overrides: object) -> SpatialConfig:
    """A timm DINO architecture of four narrow blocks."""
    size = {"embed_dim": 48, "depth": 4, "num_heads": 3, **overrides}
    return SpatialConfig(name=name, pretrained=False, overrides=size)
