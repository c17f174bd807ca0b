"""The two image towers behind one small contract.

Every tower declares ``channels`` and ``strides`` (pixels per cell, for each of its four maps) as data, takes
RGB in [0, 1] of shape (B, 3, H, W) and normalises it itself. The semantic tower gives four maps; the spatial
tower gives four maps on one grid and the class token of its last block.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hybrid_encoder.config import SemanticConfig, SpatialConfig, Triple
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.remember import Remembered

Grid = tuple[int, int]


class Tower(nn.Module):
    """What both towers share: normalisation, and recomputing activations in the backward pass."""

    mean: Tensor
    std: Tensor
    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(self, mean: Triple, std: Triple) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.identity_norm = not any(mean) and all(value == 1 for value in std)
        self.grad_checkpointing = False
        self._positions = Remembered()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._positions.clear()  # a move to another dtype or device and back changes values, not versions
        return super()._apply(fn, recurse)

    def normalise(self, images: Tensor) -> Tensor:
        images = images.to(self.mean.dtype)
        return images if self.identity_norm else (images - self.mean) / self.std

    def run(self, block: Callable[..., Tensor], *args: Any) -> Tensor:
        """One block, recomputed in the backward pass when gradient checkpointing is on."""
        if not (self.grad_checkpointing and self.training and torch.is_grad_enabled()):
            return block(*args)
        modules = block.modules() if isinstance(block, nn.Module) else iter(())
        norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
        result: Tensor = checkpoint(
            block, *args, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _still(norms))
        )
        return result


@contextlib.contextmanager
def _still(norms: list[nn.BatchNorm2d]) -> Iterator[None]:
    """The recomputation must not move batch-norm statistics a second time."""
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = count


class SemanticTower(Tower):
    """CLIP's image tower: four maps, from fine to coarse.

    ResNets and ConvNeXts give strides 4, 8, 16, 32 and can be entered after the first map
    (``first`` and ``rest``); a ViT gives four maps at its patch stride.
    """

    def __init__(self, visual: nn.Module, config: SemanticConfig) -> None:
        super().__init__(config.mean, config.std)
        if hasattr(visual, "layer4"):
            self.kind = "resnet"
            visual.attnpool = nn.Identity()
            self.channels = tuple(_resnet_width(getattr(visual, f"layer{i}")) for i in (1, 2, 3, 4))
            self.strides = (4, 8, 16, 32)
        elif hasattr(visual, "trunk") and hasattr(visual.trunk, "stages"):
            self.kind = "convnext"
            trunk = visual.trunk
            trunk.norm_pre, trunk.head, visual.head = nn.Identity(), nn.Identity(), nn.Identity()
            self.channels = tuple(info["num_chs"] for info in trunk.feature_info)
            self.strides = tuple(info["reduction"] for info in trunk.feature_info)
        elif hasattr(visual, "transformer") and hasattr(visual, "conv1"):
            self.kind = "vit"
            visual.proj, visual.ln_post = None, nn.Identity()
            self.taps = _even_taps(len(visual.transformer.resblocks))
            self.patch = int(visual.patch_size[0])
            self.channels = (int(visual.transformer.width),) * 4
            self.strides = (self.patch,) * 4
        else:
            raise ConfigError(
                f"semantic.name is {config.name!r}, whose image tower ({type(visual).__name__}) is neither a ResNet, "
                "a ViT nor a ConvNeXt; choose an open_clip model that has one of these."
            )
        self.visual = visual

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] to four maps (B, C_i, H_i, W_i)."""
        if self.kind == "vit":
            return self._vit(self.normalise(images))
        first = self.first(images)
        return [first, *self.rest(first)]

    def first(self, images: Tensor) -> Tensor:
        """The first map alone, (B, C_0, H/4, W/4)."""
        x = self.normalise(images)
        if self.kind == "resnet":
            return self.run(self.visual.layer1, self.visual.stem(x))
        if self.kind == "convnext":
            return self.run(self.visual.trunk.stages[0], self.visual.trunk.stem(x))
        raise ConfigError("a ViT has no first map to enter after; choose a ResNet or ConvNeXt CLIP.")

    def rest(self, first: Tensor) -> list[Tensor]:
        """The second to fourth map, from the first."""
        visual = self.visual
        stages = (
            [visual.layer2, visual.layer3, visual.layer4]
            if self.kind == "resnet"
            else visual.trunk.stages[1:]
        )
        maps, x = [], first
        for stage in stages:
            x = self.run(stage, x)
            maps.append(x)
        return maps

    def _vit(self, images: Tensor) -> list[Tensor]:
        visual = self.visual
        images, grid = fit_to_patches(images, self.patch)
        x = visual.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        table = visual.positional_embedding
        position = self._positions.get(
            grid, [table], lambda: resample_positions(table[None], visual.grid_size, grid, 1, "size")
        )
        x = visual.ln_pre(x + position.to(x.dtype))
        maps = []
        for index, block in enumerate(visual.transformer.resblocks):
            x = self.run(block, x)
            if index in self.taps:
                maps.append(to_map(x[:, 1:], grid))
        return maps


class SpatialTower(Tower):
    """A DINO vision transformer: four maps (B, C, h, w) on one grid, and the class token (B, C).

    Attributes:
        blocks: the modules, for freezing from the top.
        taps: which blocks' outputs are the maps (each through the final norm).
        position_rule: how learned positions are resampled: ``"dinov2"``, ``"size"``, ``"library"`` (the model
            library's own way) or ``"rope"`` (rotary, nothing to resample).
    """

    blocks: nn.ModuleList
    taps: tuple[int, ...]
    patch: int
    position_rule: str

    def __init__(self, config: SpatialConfig) -> None:
        super().__init__(config.mean, config.std)
        self.config = config

    def _declare(self, depth: int, width: int, patch: int, rule: str) -> None:
        self.taps = self.config.blocks or _even_taps(depth)
        if max(self.taps) >= depth or min(self.taps) < 0 or list(self.taps) != sorted(set(self.taps)):
            raise ConfigError(
                f"spatial.blocks is {self.taps}; {self.config.name} has {depth} blocks: "
                f"give four rising numbers from 0 to {depth - 1}."
            )
        self.patch = patch
        self.position_rule = rule
        self.channels = (width,) * 4
        self.strides = (patch,) * 4

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        images, grid = fit_to_patches(self.normalise(images), self.patch)
        outputs, prefix = self.tokens(images, grid)
        return [to_map(tokens[:, prefix:], grid) for tokens in outputs], outputs[-1][:, 0]

    def tokens(self, images: Tensor, grid: Grid) -> tuple[list[Tensor], int]:
        """Normed tokens (B, prefix + h * w, C) after each tapped block, and how many prefix tokens there are."""
        raise NotImplementedError


class TimmTower(SpatialTower):
    """DINOv2 (with or without registers) and DINOv3 through timm."""

    def __init__(self, config: SpatialConfig, pretrained: bool) -> None:
        super().__init__(config)
        import timm

        if not timm.is_model(config.name):
            near = ", ".join(timm.list_models("*dinov2*")[:4])
            raise ConfigError(
                f"spatial.name is {config.name!r}, which timm does not know; some it knows: {near} ..."
            )
        options = {"num_classes": 0, "dynamic_img_size": True, **config.overrides}
        try:
            model = timm.create_model(config.name, pretrained=pretrained, **options)
        except TypeError as error:
            raise ConfigError(
                f"spatial.name is {config.name!r} with overrides {config.overrides}, which is no vision transformer "
                f"of this shape ({error}); choose a DINO one."
            ) from error
        if not hasattr(model, "blocks") or not hasattr(model, "norm_pre"):
            raise ConfigError(
                f"spatial.name is {config.name!r}, which is no vision transformer; choose a DINO one."
            )
        rule: str = config.position_embedding
        if model.pos_embed is None:
            rule = "rope"
        elif rule == "auto":
            # DINOv2 with registers was made with antialiased resampling to the exact size; without, it was not.
            rule = "dinov2" if "dinov2" in config.name and model.reg_token is None else "size"
        self._declare(len(model.blocks), model.embed_dim, int(model.patch_embed.patch_size[0]), rule)
        model.blocks = nn.ModuleList(model.blocks[: max(self.taps) + 1])
        self.model = model

    @property
    def blocks(self) -> nn.ModuleList:  # type: ignore[override]
        return self.model.blocks  # type: ignore[no-any-return]

    def tokens(self, images: Tensor, grid: Grid) -> tuple[list[Tensor], int]:
        model = self.model
        x = model.patch_embed(images).flatten(1, 2)
        prefix = [t.expand(x.shape[0], -1, -1) for t in (model.cls_token, model.reg_token) if t is not None]
        count = sum(tokens.shape[1] for tokens in prefix)
        position = None if model.pos_embed is None else self._position(grid, count).to(x.dtype)
        if position is not None and model.no_embed_class:
            x, position = x + position, None
        x = torch.cat([*prefix, x], dim=1)
        x = model.norm_pre(x if position is None else x + position)
        rope = self._rotary(grid)
        outputs = []
        for index, block in enumerate(model.blocks):
            x = self.run(block, x) if rope is None else self.run(block, x, rope)
            if index in self.taps:
                outputs.append(model.norm(x))
        return outputs, count

    def _position(self, grid: Grid, count: int) -> Tensor:
        table = self.model.pos_embed
        kept = 0 if self.model.no_embed_class else count
        return self._positions.get(
            grid,
            [table],
            lambda: resample_positions(
                table, self.model.patch_embed.grid_size, grid, kept, self.position_rule
            ),
        )

    def _rotary(self, grid: Grid) -> Tensor | None:
        rope = getattr(self.model, "rope", None)
        if rope is None:
            return None
        if rope.training and getattr(rope, "aug_active", False):
            return rope.get_embed(shape=grid)  # type: ignore[no-any-return]
        return self._positions.get(grid, list(rope.buffers()), lambda: rope.get_embed(shape=grid))


class TransformersTower(SpatialTower):
    """A DINO model of the transformers library, from a Hub id or a folder."""

    def __init__(self, config: SpatialConfig, pretrained: bool) -> None:
        super().__init__(config)
        from transformers import AutoConfig, AutoModel

        source = config.name.removeprefix("hf:")
        stored = config.overrides.get("config")
        hf_config = AutoConfig.for_model(**stored) if stored else AutoConfig.from_pretrained(source)
        model = AutoModel.from_pretrained(source) if pretrained else AutoModel.from_config(hf_config)
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
        # The architecture goes into our own configuration, so that loading never asks for the source again.
        self.config = SpatialConfig(**{**vars(config), "overrides": {"config": hf_config.to_dict()}})
        learned = hasattr(model.embeddings, "position_embeddings")
        if learned:
            model.embeddings.interpolate_pos_encoding = _KeptPositions(model.embeddings, self._positions)
        patch = hf_config.patch_size
        self.prefix = 1 + int(getattr(hf_config, "num_register_tokens", 0) or 0)
        self._declare(
            len(model.get_submodule(self.layers_at)),  # type: ignore[arg-type]
            int(hf_config.hidden_size),
            int(patch if isinstance(patch, int) else patch[0]),
            "library" if learned else "rope",
        )
        self.model = model

    @property
    def blocks(self) -> nn.ModuleList:  # type: ignore[override]
        return self.model.get_submodule(self.layers_at)  # type: ignore[return-value, no-any-return]

    def tokens(self, images: Tensor, grid: Grid) -> tuple[list[Tensor], int]:
        states = self.model(pixel_values=images, output_hidden_states=True).hidden_states
        norm = getattr(self.model, self.norm_name)
        return [norm(states[tap + 1]) for tap in self.taps], self.prefix


class _KeptPositions:
    """Stands in front of a transformers model's own resampling, and keeps what it gave."""

    def __init__(self, embeddings: nn.Module, kept: Remembered) -> None:
        self.embeddings = embeddings
        self.kept = kept

    def __call__(self, tokens: Tensor, height: int, width: int) -> Tensor:
        own: Any = type(self.embeddings)
        return self.kept.get(
            (tokens.shape[1], height, width),
            [self.embeddings.position_embeddings],  # type: ignore[list-item]
            lambda: own.interpolate_pos_encoding(self.embeddings, tokens, height, width),
        )


def build_clip(config: SemanticConfig, pretrained: bool) -> nn.Module:
    """The open_clip model of a configuration, in float32: image and text tower."""
    import open_clip

    base = open_clip.get_model_config(config.name)
    if base is None:
        raise ConfigError(
            f"semantic.name is {config.name!r}, which open_clip does not know; "
            f"some that it knows: {', '.join(open_clip.list_models()[:8])} ..."
        )
    options = {
        name: {**base[name], **value}
        if isinstance(value, dict) and isinstance(base.get(name), dict)
        else value
        for name, value in copy.deepcopy(config.overrides).items()
    }
    root = logging.getLogger()
    level = root.level
    root.setLevel(
        logging.ERROR
    )  # open_clip reports on the root logger, and warns when no weights are asked for
    try:
        return open_clip.create_model(  # type: ignore[no-any-return]
            config.name, pretrained=config.pretrained if pretrained else None, precision="fp32", **options
        )
    finally:
        root.setLevel(level)


def build_spatial(config: SpatialConfig, pretrained: bool) -> SpatialTower:
    """The spatial tower of a configuration."""
    tower = TransformersTower if config.name.startswith("hf:") else TimmTower
    return tower(config, pretrained and config.pretrained)


def fit_to_patches(images: Tensor, patch: int) -> tuple[Tensor, Grid]:
    """Images resized (bilinear) to the nearest whole number of patches, and that grid."""
    height, width = images.shape[-2:]
    grid = (max(1, round(height / patch)), max(1, round(width / patch)))
    size = (grid[0] * patch, grid[1] * patch)
    if size != (height, width):
        images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    return images, grid


def resample_positions(table: Tensor, old: Sequence[int], new: Grid, prefix: int, rule: str) -> Tensor:
    """Learned positions (1, prefix + h0 * w0, C) for another grid, (1, prefix + h * w, C)."""
    if tuple(old) == new:
        return table
    kept, grid = table[:, :prefix], table[:, prefix:]
    grid = grid.reshape(1, old[0], old[1], -1).permute(0, 3, 1, 2).float()
    if rule == "dinov2":
        # The published weights were trained with this scale factor, and it moves the sampling points a little.
        scale = ((new[0] + 0.1) / old[0], (new[1] + 0.1) / old[1])
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
    else:
        grid = F.interpolate(grid, size=new, mode="bicubic", align_corners=False, antialias=True)
    grid = grid.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1).to(table.dtype)
    return torch.cat([kept, grid], dim=1)


def to_map(tokens: Tensor, grid: Grid) -> Tensor:
    """(B, h * w, C) to (B, C, h, w)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *grid)


def _even_taps(depth: int) -> tuple[int, ...]:
    if depth < 4:
        raise ConfigError(f"the transformer has {depth} blocks; at least 4 are needed for four maps.")
    return tuple((i + 1) * depth // 4 - 1 for i in range(4))


def _resnet_width(layer: nn.Module) -> int:
    return int(layer[-1].conv3.out_channels)  # type: ignore[index]


def _has(model: nn.Module, path: str) -> bool:
    try:
        return isinstance(model.get_submodule(path), nn.ModuleList)
    except AttributeError:
        return False
