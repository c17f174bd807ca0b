"""The semantic tower: CLIP's image tower as four maps, through open_clip."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.compiling import known
from hybrid_encoder.config import SemanticConfig
from hybrid_encoder.config.checking import shown
from hybrid_encoder.downloading import downloads, hub_folder
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.quiet import quiet
from hybrid_encoder.towers.base import Tower, evenly_spread_blocks, fit_to_patches, to_map
from hybrid_encoder.towers.positions import resample_positions


class SemanticTower(Tower):
    """CLIP's image tower: four maps, from fine to coarse.

    ResNets and ConvNeXts give strides 4, 8, 16, 32 and can be entered after the first map
    (``first`` and ``rest``); a ViT gives four maps at its patch stride.
    """

    visual: Any  # an open_clip image tower

    def __init__(self, visual: Any, config: SemanticConfig) -> None:
        super().__init__(config.mean, config.std)
        if hasattr(visual, "layer4"):
            self.kind = "resnet"
            visual.attnpool = nn.Identity()
            _make_pools_traceable(visual)
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
            self.taps = evenly_spread_blocks(len(visual.transformer.resblocks))
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
        """Take RGB in [0, 1], (B, 3, H, W), to four maps (B, C_i, H_i, W_i)."""
        if self.kind == "vit":
            return self._vit(self.normalise(images))
        first = self.first(images)
        return [first, *self.rest(first)]

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    def first(self, images: Tensor) -> Tensor:
        """Return the first map alone, (B, C_0, H/4, W/4).

        Raises:
            ConfigError: a ViT, whose blocks have no stages to stop after.
        """
        x = self.normalise(images)
        if self.kind == "resnet":
            return self.run_block(self.visual.layer1, self.visual.stem(x))
        if self.kind == "convnext":
            return self.run_block(self.visual.trunk.stages[0], self.visual.trunk.stem(x))
        raise ConfigError("a ViT has no first map to enter after; choose a ResNet or ConvNeXt CLIP.")

    def rest(self, first: Tensor) -> list[Tensor]:
        """Return the second to fourth map, computed from the first."""
        visual = self.visual
        stages = [visual.layer2, visual.layer3, visual.layer4] if self.kind == "resnet" else visual.trunk.stages[1:]
        maps, x = [], first
        for stage in stages:
            x = self.run_block(stage, x)
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
            x = self.run_block(block, x)
            if index in self.taps:
                maps.append(to_map(x[:, 1:], grid))
        return maps


def build_clip(config: SemanticConfig, pretrained: bool) -> nn.Module:
    """Build the open_clip model of a configuration, image and text tower, in float32.

    Args:
        config: names the architecture.
        pretrained: load the weights that the configuration names; False draws random ones.

    Raises:
        ConfigError: an architecture or weights that open_clip does not know.
        CheckpointError: weights that are not in the cache, and cannot be downloaded.
    """
    import open_clip

    base = open_clip.get_model_config(config.name)
    if base is None:
        raise ConfigError(
            f"semantic.name is {config.name!r}, which open_clip does not know; "
            f"some that it knows: {', '.join(open_clip.list_models()[:8])} ..."
        )
    if base["text_cfg"].get("hf_model_name"):
        raise ConfigError(
            f"semantic.name is {config.name!r}, whose text tower open_clip takes from the Hub and which does not read "
            "CLIP's tokens; choose an open_clip model with OpenAI's text tower (RN50, ViT-B-16, convnext_base, ...)."
        )
    weights = None
    if pretrained and config.pretrained:
        check_activation(config, base)
        weights = find_weights(config.name, config.pretrained)
    options = {
        name: {**base[name], **value} if isinstance(value, dict) and isinstance(base.get(name), dict) else value
        for name, value in copy.deepcopy(config.overrides).items()
    }
    try:
        # open_clip reports on the root logger, and warns when no weights are asked for.
        with quiet("open_clip"), downloads(f"CLIP's weights {config.pretrained!r} of {config.name}"):
            return open_clip.create_model(  # type: ignore[no-any-return]
                config.name, pretrained=weights, precision="fp32", **options
            )
    except (AssertionError, TypeError, ValueError, ZeroDivisionError) as error:
        if not config.overrides:
            raise
        raise ConfigError(
            f"semantic.overrides is {shown(config.overrides)}, of which open_clip cannot build a {config.name} "
            f"({type(error).__name__}: {error}); change the sizes."
        ) from error


def find_weights(name: str, pretrained: str) -> str:
    """Return the file of weights that a tag of open_clip stands for, downloaded where it is not in the cache.

    Args:
        name: of the architecture.
        pretrained: a tag, or a file of the user's own, which is returned as it is.

    Raises:
        ConfigError: neither.
        CheckpointError: the file is not in the cache, and cannot be downloaded.
    """
    import open_clip

    stated = open_clip.get_pretrained_cfg(name, pretrained)
    if not stated:
        if os.path.isfile(pretrained):
            return pretrained
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ConfigError(
            f"semantic.pretrained is {pretrained!r}, which is neither a file nor weights of {name} that open_clip "
            f"knows; it knows {tags}."
        )
    if not stated.get("hf_hub"):
        return pretrained  # open_clip finds these
    repo, _, named = stated["hf_hub"].rpartition("/")
    names = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    if named:
        names = [named] if named.endswith(".safetensors") else [f"{os.path.splitext(named)[0]}.safetensors", named]
    folder, found = hub_folder(repo, [(n, [n]) for n in names], f"CLIP's weights {pretrained!r} of {name}")
    return str(folder / found)


def check_activation(config: SemanticConfig, base: dict[str, Any]) -> None:
    """Raise ConfigError where weights were trained with another activation than the architecture has: they load, and
    what they compute is wrong."""
    import open_clip

    weights = open_clip.get_pretrained_cfg(config.name, config.pretrained)
    if not weights:
        return  # a file of the user's own, or a tag that open_clip refuses
    wanted = bool(weights.get("quick_gelu", False))
    if wanted == bool(config.overrides.get("quick_gelu", base.get("quick_gelu", False))):
        return
    other = f"{config.name}-quickgelu" if wanted else config.name.removesuffix("-quickgelu")
    by_name = other != config.name and open_clip.get_pretrained_cfg(other, config.pretrained)
    fix = f"name {other!r}" if by_name else f'give overrides={{"quick_gelu": {wanted}}}'
    raise ConfigError(
        f"semantic.name is {config.name!r}, built with{'out' if wanted else ''} QuickGELU, and its weights "
        f"{config.pretrained!r} were trained with{'' if wanted else 'out'} it; {fix}."
    )


class _AveragePool(nn.AvgPool2d):
    """Average pooling that becomes a convolution where sizes are symbols: torch's own asks whether a row is left over,
    which ties a compiled graph to the answer."""

    def forward(self, x: Tensor) -> Tensor:
        k, (height, width) = int(self.kernel_size), x.shape[-2:]  # type: ignore[arg-type]
        if not torch.compiler.is_compiling() or (known(height % k == 0) and known(width % k == 0)):
            return super().forward(x)
        return F.conv2d(x, x.new_full((x.shape[1], 1, k, k), 1 / k**2), stride=k, groups=x.shape[1])


def _make_pools_traceable(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.AvgPool2d):
            setattr(module, name, _AveragePool(child.kernel_size, child.stride))
        else:
            _make_pools_traceable(child)


def _resnet_width(layer: nn.Module) -> int:
    return int(layer[-1].conv3.out_channels)  # type: ignore[index]
