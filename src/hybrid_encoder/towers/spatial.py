"""The spatial tower: a DINO vision transformer as four maps, through timm or transformers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hybrid_encoder.caching import TensorCache
from hybrid_encoder.config import SpatialConfig
from hybrid_encoder.config.architectures import TRANSFORMERS, dino_settings
from hybrid_encoder.config.checking import shown
from hybrid_encoder.downloading import downloads, hub_folder, timm_weights
from hybrid_encoder.errors import CheckpointError, ConfigError
from hybrid_encoder.towers.base import Grid, Tower, evenly_spread_blocks, fit_to_patches, to_map
from hybrid_encoder.towers.positions import resample_positions


class SpatialTower(Tower):
    """A DINO vision transformer: four maps (B, C, h, w) on one grid, and the class token (B, C), or None without one.

    Args:
        config: names the model, and says which blocks' outputs are the maps.

    Attributes:
        config: what the tower was built from; with transformers, the architecture is stored in it.
        blocks: the transformer blocks, first to last.
        taps: which blocks' outputs are the maps, each through the final norm.
        patch: side of a patch in pixels.
        has_class_token: whether the first token is one that stands for the whole image.
        position_rule: how learned positions are resampled: ``"dinov2"``, ``"size"``, ``"library"`` (the model
            library's own way) or ``"rope"`` (rotary, nothing to resample).
    """

    model: Any  # of timm or transformers
    taps: tuple[int, ...]
    patch: int
    has_class_token: bool = True
    position_rule: str

    def __init__(self, config: SpatialConfig) -> None:
        super().__init__(config.mean, config.std)
        self.config = config

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, first to last."""
        raise NotImplementedError

    def _declare_maps(self, depth: int, width: int, patch: int, rule: str) -> None:
        self.taps = self.config.blocks or evenly_spread_blocks(depth)
        if max(self.taps) >= depth or min(self.taps) < 0 or list(self.taps) != sorted(set(self.taps)):
            raise ConfigError(
                f"spatial.blocks is {self.taps}; {self.config.name} has {depth} blocks: "
                f"give four rising numbers from 0 to {depth - 1}."
            )
        self.patch = patch
        self.position_rule = rule
        self.channels = (width,) * 4
        self.strides = (patch,) * 4

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
        images, grid = fit_to_patches(self.normalise(images), self.patch)
        outputs, prefix = self.tokens(images, grid)
        class_token = outputs[-1][:, 0] if self.has_class_token else None
        return [to_map(tokens[:, prefix:], grid) for tokens in outputs], class_token

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    def class_token(self, images: Tensor) -> Tensor:
        """Return the class token of RGB in [0, 1], (B, C).

        Raises:
            ConfigError: a model without one.
        """
        self.check_class_token()
        _, token = self(images)
        assert token is not None  # as just checked
        return token

    def check_class_token(self) -> None:
        """Raise ConfigError unless the model has a class token."""
        if not self.has_class_token:
            raise ConfigError(
                f"spatial.name is {self.config.name!r}, which has no class token, and the pose is to be read off it; "
                "choose a DINO model, which has one, or a pose network."
            )

    def tokens(self, images: Tensor, grid: Grid) -> tuple[list[Tensor], int]:
        """Return the tokens (B, prefix + h * w, C) after each tapped block and the final norm, and how many of them,
        at the front, are prefix tokens (class and registers)."""
        raise NotImplementedError


class TimmTower(SpatialTower):
    """DINOv2 (with or without registers) and DINOv3 through timm."""

    def __init__(self, config: SpatialConfig, pretrained: bool) -> None:
        super().__init__(config)
        import timm
        from timm.layers import PatchEmbed  # type: ignore[attr-defined]

        if not timm.is_model(config.name):
            near = ", ".join(timm.list_models("*dinov2*")[:4])
            raise ConfigError(f"spatial.name is {config.name!r}, which timm does not know; some it knows: {near} ...")
        weights = f"DINO's weights {config.name}"
        start = timm_weights(config.name, pretrained, weights)
        options = {"num_classes": 0, "dynamic_img_size": True, **config.overrides}
        try:
            with downloads(weights):
                model: Any = timm.create_model(config.name, **start, **options)
        except CheckpointError:
            raise
        except (AssertionError, TypeError, ValueError, ZeroDivisionError) as error:
            raise ConfigError(
                f"spatial.name is {config.name!r} with overrides {shown(config.overrides)}, which is not a vision "
                f"transformer of this shape ({type(error).__name__}: {error}); choose a DINO one."
            ) from error
        if not hasattr(model, "blocks") or not hasattr(model, "norm_pre"):
            raise ConfigError(f"spatial.name is {config.name!r}, which is not a vision transformer; choose a DINO one.")
        if not isinstance(model.patch_embed, PatchEmbed) or getattr(model, "rope_mixed", False):
            raise ConfigError(
                f"spatial.name is {config.name!r}, which has a convolutional network before its blocks or rotary "
                "positions of its own in each; choose a DINO one."
            )
        # Images are whole patches by now. timm checks their size with an f-string, which ties a compiled graph to it.
        model.patch_embed.img_size = None
        rule: str = config.position_embedding
        if model.pos_embed is None:
            rule = "rope"
        elif rule == "auto":
            # DINOv2's models with registers were trained with antialiased resampling to the exact size, the others
            # with the scale factor.
            rule = "dinov2" if "dinov2" in config.name and model.reg_token is None else "size"
        self._declare_maps(len(model.blocks), model.embed_dim, int(model.patch_embed.patch_size[0]), rule)
        self.has_class_token = model.cls_token is not None
        model.blocks = nn.ModuleList(model.blocks[: max(self.taps) + 1])
        self.model = model

    @property
    def blocks(self) -> nn.ModuleList:
        blocks: nn.ModuleList = self.model.blocks
        return blocks

    def tokens(self, images: Tensor, grid: Grid) -> tuple[list[Tensor], int]:
        model = self.model
        x = model.patch_embed(images).flatten(1, 2)
        front = (model.cls_token, getattr(model, "dist_token", None), model.reg_token)
        prefix = [token.expand(x.shape[0], -1, -1) for token in front if token is not None]
        count = sum(tokens.shape[1] for tokens in prefix)
        position = None if model.pos_embed is None else self._position(grid, count).to(x.dtype)
        if position is not None and model.no_embed_class:
            x, position = x + position, None
        x = torch.cat([*prefix, x], dim=1)
        x = model.norm_pre(x if position is None else x + position)
        rope = self._rotary(grid)
        outputs = []
        for index, block in enumerate(model.blocks):
            x = self.run_block(block, x) if rope is None else self.run_block(block, x, rope)
            if index in self.taps:
                outputs.append(model.norm(x))
        return outputs, count

    def _position(self, grid: Grid, count: int) -> Tensor:
        table = self.model.pos_embed
        kept = 0 if self.model.no_embed_class else count
        return self._positions.get(
            grid,
            [table],
            lambda: resample_positions(table, self.model.patch_embed.grid_size, grid, kept, self.position_rule),
        )

    def _rotary(self, grid: Grid) -> Tensor | None:
        rope: Any = getattr(self.model, "rope", None)
        if rope is None:
            return None

        def make() -> Tensor:
            embedding: Tensor = rope.get_embed(shape=grid)
            return embedding

        if rope.training and getattr(rope, "aug_active", False):
            return make()  # augmented anew at every call
        return self._positions.get(grid, list(rope.buffers()), make)


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
            model.embeddings.interpolate_pos_encoding = _KeptPositions(model.embeddings, self._positions)
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

    def tokens(self, images: Tensor, grid: Grid) -> tuple[list[Tensor], int]:
        states = self.model(pixel_values=images, output_hidden_states=True).hidden_states
        norm = getattr(self.model, self.norm_name)
        return [norm(states[tap + 1]) for tap in self.taps], self.prefix


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


def build_spatial(config: SpatialConfig, pretrained: bool) -> SpatialTower:
    """Build the spatial tower of a configuration.

    Args:
        config: ``hf:`` before a name takes transformers, any other name timm.
        pretrained: load public weights where the configuration asks for them; False draws random ones.

    Raises:
        ConfigError: an unknown model, or one that is not a DINO vision transformer.
    """
    tower = TransformersTower if config.name.startswith(TRANSFORMERS) else TimmTower
    return tower(config, pretrained and config.pretrained)


def _has(model: nn.Module, path: str) -> bool:
    try:
        return isinstance(model.get_submodule(path), nn.ModuleList)
    except AttributeError:
        return False
