"""Loading of the multi-frame models: with the depth bins of the checkpoint, or with those that the caller asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import Self

from hybrid_encoder.checkpoints.reading import Checkpoint, read_checkpoint
from hybrid_encoder.config import HybridMatchingConfig
from hybrid_encoder.geometry.plane_sweep import Spacing
from hybrid_encoder.models.base import EncoderHolder


class DepthBinsLoader(EncoderHolder):
    """``from_pretrained`` of both multi-frame models."""

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, config: Any = None, depth_binning: Spacing | None = None, **hub: Any
    ) -> Self:
        """Load a trained model, in evaluation mode; never downloads a backbone that it is about to overwrite.

        Args:
            source: a folder or Hub id; ours or the published layout (``encoder.pth``, ``depth.pth``).
            config: overrides what is read off the checkpoint.
            depth_binning: overrides how the bins are spread, ``"linear"`` or ``"inverse"``. A published checkpoint does
                not say, and is taken for linear.
            hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

        Raises:
            CheckpointError: not found, unreadable, or not what this model needs.
        """
        checkpoint = read_checkpoint(source, **hub)
        if depth_binning is not None:
            config = config or checkpoint.part(cls.config_class)[0]
            matching = _matching_config(config).replace(depth_binning=depth_binning)
            config = matching if isinstance(config, HybridMatchingConfig) else config.replace(encoder=matching)
        return cls.from_checkpoint(checkpoint, config)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, config: Any = None) -> Self:
        model = super().from_checkpoint(checkpoint, config)
        if config is not None:
            wanted, stored = (_matching_config(c) for c in (config, checkpoint.part(cls.config_class)[0]))
            if _spread(wanted) != _spread(stored):  # the tensor that was just loaded has the stored ones
                matching: Any = model if isinstance(config, HybridMatchingConfig) else model.encoder
                matching.compute_depth_bins(wanted.min_depth_bin, wanted.max_depth_bin)
        return model


def _matching_config(config: Any) -> HybridMatchingConfig:
    found: HybridMatchingConfig = config if isinstance(config, HybridMatchingConfig) else config.encoder
    return found


def _spread(config: HybridMatchingConfig) -> tuple[str, float, float]:
    return config.depth_binning, config.min_depth_bin, config.max_depth_bin
