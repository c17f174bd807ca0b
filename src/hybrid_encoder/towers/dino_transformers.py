"""DINO models of the transformers library as spatial towers."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor, nn

from hybrid_encoder.caching import TensorCache
from hybrid_encoder.config import SpatialConfig
from hybrid_encoder.config.architectures import TRANSFORMERS, dino_settings
from hybrid_encoder.downloading.weights import hub_folder
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.towers.base import Grid
from hybrid_encoder.towers.dino import SpatialTower


class TransformersTower(SpatialTower):
    """A DINO model of the transformers library, from a Hub id or a folder."""

    def __init__(self, config: SpatialConfig, pretrained: bool) -> None:
        super().__init__(config)
        from transformers import AutoConfig, AutoModel

        source = config.name.removeprefix(TRANSFORMERS)
        stored = config.overrides.get("config")
        if not os.path.isdir(source) and (pretrained or stored is None):
            source = download_transformers(source, pretrained)
        try:
            if stored is None:
                read = AutoConfig.from_pretrained(source, trust_remote_code=False)
                stored = dino_settings(read.to_dict())
            hf_config = AutoConfig.for_model(**stored)
            model = (
                AutoModel.from_pretrained(source, config=hf_config, trust_remote_code=False, use_safetensors=True)
                if pretrained
                else AutoModel.from_config(hf_config, trust_remote_code=False)
            )
        except (AssertionError, ImportError, OSError, TypeError, ValueError, ZeroDivisionError) as error:
            if isinstance(error, ConfigError):
                raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ConfigError(
                f"spatial.name is {config.name!r}, which transformers cannot build ({reason}); give the Hub id or "
                "folder of a DINOv2 or DINOv3 model with safetensors weights."
            ) from error
        self.layers_at = next((at for at in ("encoder.layer", "model.layer", "layer") if _has(model, at)), "")
        self.norm_name = next((name for name in ("layernorm", "norm") if hasattr(model, name)), "")
        if not self.layers_at or not self.norm_name or not hasattr(model, "embeddings"):
            raise ConfigError(
                f"spatial.name is {config.name!r}, a {type(model).__name__}; a DINOv2 or DINOv3 vision model is needed."
            )
        if config.position_embedding != "auto":
            raise ConfigError(
                f"spatial.position_embedding is {config.position_embedding!r}; a model of transformers resamples "
                "its own way: leave it at 'auto'."
            )
        # Stored in our own configuration, so that loading a checkpoint never asks for the source again.
        self.config = SpatialConfig(**{**vars(config), "overrides": {"config": stored}})
        learned = hasattr(model.embeddings, "position_embeddings")
        if learned:
            model.embeddings.interpolate_pos_encoding = _KeptPositions(model.embeddings, self.kept_positions)
        patch = hf_config.patch_size
        self.prefix = 1 + int(getattr(hf_config, "num_register_tokens", 0) or 0)
        self._declare_maps(
            len(model.get_submodule(self.layers_at)),
            int(hf_config.hidden_size),
            int(patch if isinstance(patch, int) else patch[0]),
            "library" if learned else "rope",
        )
        self.model = model

    @property
    def blocks(self) -> nn.ModuleList:
        blocks: nn.ModuleList = self.model.get_submodule(self.layers_at)
        return blocks

    def tokens(self, images: Tensor, grid: Grid, levels: int = 4) -> tuple[list[Tensor], int]:
        states = self.model(pixel_values=images, output_hidden_states=True).hidden_states
        norm = getattr(self.model, self.norm_name)
        return [norm(states[tap + 1]) for tap in self.taps[:levels]], self.prefix


def download_transformers(repo: str, with_weights: bool) -> str:
    """Return a folder with a Hub model's configuration and, where they are asked for, its weights.

    Raises:
        CheckpointError: they are not in the cache, and cannot be downloaded.
    """
    config, index = "config.json", "model.safetensors.index.json"
    files = [("model.safetensors", [config, "model.safetensors"]), (index, [config, index, "model-*.safetensors"])]
    folder, _ = hub_folder(repo, files if with_weights else [(config, [config])], "DINO's weights")
    return str(folder)


class _KeptPositions:
    """Keeps the positions that a transformers model resampled, as it would resample them in every call."""

    def __init__(self, embeddings: nn.Module, kept: TensorCache) -> None:
        self.embeddings = embeddings
        self.kept = kept

    def __call__(self, tokens: Tensor, height: int, width: int) -> Tensor:
        embeddings: Any = self.embeddings

        def make() -> Tensor:
            positions: Tensor = type(embeddings).interpolate_pos_encoding(embeddings, tokens, height, width)
            return positions

        return self.kept.get((tokens.shape[1], height, width), [embeddings.position_embeddings], make)


def _has(model: nn.Module, path: str) -> bool:
    try:
        return isinstance(model.get_submodule(path), nn.ModuleList)
    except AttributeError:
        return False
