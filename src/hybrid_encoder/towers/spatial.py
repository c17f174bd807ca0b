"""The spatial tower: a DINO vision transformer or ConvNeXt as four maps, through timm or transformers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hybrid_encoder.config import SpatialConfig
from hybrid_encoder.config.architectures import TRANSFORMERS
from hybrid_encoder.config.checking import shown
from hybrid_encoder.downloading.weights import downloads, timm_weights
from hybrid_encoder.errors import CheckpointError, ConfigError
from hybrid_encoder.towers.base import Grid
from hybrid_encoder.towers.dino import CHOOSE_DINO, SpatialTower
from hybrid_encoder.towers.dino_convnext import ConvNextTower, is_convnext
from hybrid_encoder.towers.dino_transformers import TransformersTower
from hybrid_encoder.towers.own_weights import load_own, own_file
from hybrid_encoder.towers.timm_vit import prepare_vit, run_blocks


class TimmTower(SpatialTower):
    """DINOv2 (with or without registers) and DINOv3 through timm."""

    def __init__(self, config: SpatialConfig, model: Any) -> None:
        super().__init__(config)
        patch = prepare_vit(model, f"spatial.name is {config.name!r}", CHOOSE_DINO)
        rule: str = config.position_embedding
        if model.pos_embed is None:
            rule = "rope"
        elif rule == "auto":
            # DINOv2's models with registers were trained with antialiased resampling to the exact size, the others
            # with the scale factor.
            rule = "dinov2" if "dinov2" in config.name and model.reg_token is None else "size"
        self._declare_maps(len(model.blocks), model.embed_dim, patch, rule)
        self.has_class_token = model.cls_token is not None
        model.blocks = nn.ModuleList(model.blocks[: max(self.taps) + 1])
        self.model = model

    @property
    def blocks(self) -> nn.ModuleList:
        blocks: nn.ModuleList = self.model.blocks
        return blocks

    def tokens(self, images: Tensor, grid: Grid, levels: int = 4) -> tuple[list[Tensor], int]:
        return run_blocks(self, self.model, images, grid, self.position_rule, levels)


def build_spatial(config: SpatialConfig, pretrained: bool) -> SpatialTower:
    """Build the spatial tower of a configuration.

    Args:
        config: ``hf:`` before a name takes transformers, any other name timm.
        pretrained: load the weights that the configuration asks for; False draws random ones.

    Raises:
        ConfigError: an unknown model, or one that is neither a DINO vision transformer nor a ConvNeXt.
        CheckpointError: weights that are not there, or of a tower of other sizes.
    """
    own = own_file(config.pretrained, "dino") if pretrained else None
    if own is not None:
        if config.name.startswith(TRANSFORMERS):
            raise ConfigError(
                f"spatial.pretrained is {config.pretrained!r}, weights of a model of timm, and spatial.name is "
                f"{config.name!r}, one of transformers; give pretrained=True."
            )
        model = build_timm(config, pretrained=False)
        load_own(model, own, "dino", config)
        return TimmTower(config, model)
    if isinstance(config.pretrained, str) and pretrained:
        raise ConfigError(
            f"spatial.pretrained is {config.pretrained!r}, which is no file of weights that pretrain_dino has written; "
            "give its path, 'street' for those that ship with the package, or True for the model's public weights."
        )
    pretrained = pretrained and bool(config.pretrained)
    if config.name.startswith(TRANSFORMERS):
        return TransformersTower(config, pretrained)
    model = build_timm(config, pretrained)
    return ConvNextTower(config, model) if is_convnext(model) else TimmTower(config, model)


def build_timm(config: SpatialConfig, pretrained: bool) -> Any:
    """Build the timm model of a configuration.

    Raises:
        ConfigError: a model that timm does not know, or overrides that it does not take.
        CheckpointError: weights that are not in the cache, and cannot be downloaded.
    """
    import timm

    if not timm.is_model(config.name):
        near = ", ".join(timm.list_models("*dinov2*")[:4])
        raise ConfigError(f"spatial.name is {config.name!r}, which timm does not know; some it knows: {near} ...")
    weights = f"DINO's weights {config.name}"
    start = timm_weights(config.name, pretrained, weights)
    # A ConvNeXt takes any size as it is.
    options = {
        "num_classes": 0,
        **({} if "convnext" in config.name else {"dynamic_img_size": True}),
        **config.overrides,
    }
    try:
        with downloads(weights):
            return timm.create_model(config.name, **start, **options)
    except CheckpointError:
        raise
    except (AssertionError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(
            f"spatial.name is {config.name!r} with overrides {shown(config.overrides)}, which is not a vision "
            f"transformer or ConvNeXt of this shape ({type(error).__name__}: {error}); {CHOOSE_DINO}."
        ) from error
