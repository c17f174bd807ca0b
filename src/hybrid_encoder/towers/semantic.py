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
from hybrid_encoder.downloading.weights import downloads
from hybrid_encoder.errors import CheckpointError, ConfigError, shortened
from hybrid_encoder.quiet import quiet
from hybrid_encoder.towers.base import Grid, Tower, evenly_spread_blocks, fit_to_patches, to_map
from hybrid_encoder.towers.clip_weights import check_activation, find_weights
from hybrid_encoder.towers.own_weights import load_own, own_file
from hybrid_encoder.towers.positions import resample_positions
from hybrid_encoder.towers.stages import STRIDES, is_staged, prepare_stages, run_stem, stages
from hybrid_encoder.towers.timm_vit import prepare_vit, run_blocks

TAKE_ANOTHER = (
    "choose an open_clip model with a ResNet, ViT, EVA, ConvNeXt or FastViT image tower (RN50, ViT-B-16, "
    "ViT-B-16-SigLIP2, EVA02-B-16, convnext_base, MobileCLIP2-S2, ...)"
)


class SemanticTower(Tower):
    """CLIP's image tower: four maps, from fine to coarse.

    ResNets, ConvNeXts and FastViTs give strides 4, 8, 16, 32 and can be entered after the first map (``first`` and
    ``rest``); a vision transformer gives four maps at its patch stride, those of timm through the final norm.

    Attributes:
        kind: ``"resnet"``, ``"stages"`` (of timm), or ``"vit"``.
    """

    visual: Any  # an open_clip image tower

    def __init__(self, visual: Any, config: SemanticConfig) -> None:
        super().__init__(config.mean, config.std)
        self.kind = "vit"
        trunk = getattr(visual, "trunk", None)  # timm's, where open_clip took the tower from there
        if hasattr(visual, "layer4"):
            self.kind = "resnet"
            visual.attnpool = nn.Identity()
            _make_pools_traceable(visual)
            self.channels = tuple(_resnet_width(getattr(visual, f"layer{i}")) for i in (1, 2, 3, 4))
            self.strides = STRIDES
        elif trunk is not None and is_staged(trunk):
            self.kind = "stages"
            self.channels = prepare_stages(trunk, f"semantic.name is {config.name!r}", TAKE_ANOTHER)
            self.strides = STRIDES
            visual.head = nn.Identity()
        elif trunk is not None:
            self.patch = prepare_vit(trunk, f"semantic.name is {config.name!r} ({type(trunk).__name__})", TAKE_ANOTHER)
            self._declare_blocks(len(trunk.blocks), int(trunk.embed_dim))
            trunk.attn_pool, trunk.fc_norm, trunk.head, visual.head = None, *(nn.Identity() for _ in range(3))
        elif hasattr(visual, "transformer") and hasattr(visual, "conv1"):
            self.patch = int(visual.patch_size[0])
            self._declare_blocks(len(visual.transformer.resblocks), int(visual.transformer.width))
            visual.proj, visual.ln_post = None, nn.Identity()
            visual.attn_pool = visual.attn_pool_contrastive = None  # CoCa's
        else:
            raise ConfigError(
                f"semantic.name is {config.name!r}, whose image tower ({type(visual).__name__}) is not known here; "
                f"{TAKE_ANOTHER}."
            )
        self.visual = visual

    def _declare_blocks(self, depth: int, width: int) -> None:
        self.taps = evenly_spread_blocks(depth)
        self.channels = (width,) * 4
        self.strides = (self.patch,) * 4

    def forward(self, images: Tensor, levels: int = 4) -> list[Tensor]:
        """Take RGB in [0, 1], (B, 3, H, W), to four maps (B, C_i, H_i, W_i), or to the first ``levels`` of them."""
        if self.kind != "vit":
            first = self.first(images)
            return [first, *self.rest(first, levels)]
        images, grid = fit_to_patches(self.normalise(images), self.patch)
        if not hasattr(self.visual, "trunk"):
            return self._open_clips_vit(images, grid, levels)
        outputs, prefix = run_blocks(self, self.visual.trunk, images, grid, "size", levels)
        return [to_map(tokens[:, prefix:], grid) for tokens in outputs]

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    def first(self, images: Tensor) -> Tensor:
        """Return the first map alone, (B, C_0, H/4, W/4).

        Raises:
            ConfigError: a ViT, whose blocks have no stages to stop after.
        """
        if self.kind == "vit":
            raise ConfigError("a ViT has no first map to enter after; choose a ResNet, ConvNeXt or FastViT CLIP.")
        x = self.normalise(images)
        x = self.visual.stem(x) if self.kind == "resnet" else run_stem(self.visual.trunk, x)
        return self.run_block(self.stages()[0], x)

    def rest(self, first: Tensor, levels: int = 4) -> list[Tensor]:
        """Return the second to fourth map, computed from the first; or to an earlier last one, ``levels`` with it."""
        maps, x = [], first
        for stage in self.stages()[1:levels]:
            x = self.run_block(stage, x)
            maps.append(x)
        return maps

    def stages(self) -> list[nn.Module]:
        """Return the four stages; only where the tower has some."""
        visual = self.visual
        if self.kind == "resnet":
            return [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
        return stages(visual.trunk)

    def _open_clips_vit(self, images: Tensor, grid: Grid, levels: int) -> list[Tensor]:
        visual = self.visual
        x = visual.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        table = visual.positional_embedding
        position = self.kept_positions.get(
            grid, [table], lambda: resample_positions(table[None], visual.grid_size, grid, 1, "size")
        )
        x = visual.ln_pre(x + position.to(x.dtype))
        maps, taps = [], self.taps[:levels]
        for index, block in enumerate(visual.transformer.resblocks[: taps[-1] + 1]):
            x = self.run_block(block, x)
            if index in taps:
                maps.append(to_map(x[:, 1:], grid))
        return maps


def build_clip(config: SemanticConfig, pretrained: bool) -> nn.Module:
    """Build the open_clip model of a configuration, image and text tower, in float32.

    Args:
        config: names the architecture.
        pretrained: load the weights that the configuration names; False draws random ones.

    Returns:
        The model; its ``architecture`` is the name, and its ``hub_tokenizer`` the Hub id of the tokenizer of its text
        tower, None for CLIP's own.

    Raises:
        ConfigError: an architecture or weights that open_clip does not know.
        CheckpointError: weights that are not in the cache, and cannot be downloaded; or a file that does not fit.
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
            f"semantic.name is {config.name!r}, whose text tower open_clip takes from the Hub and which reads neither "
            "CLIP's tokens nor SigLIP's; choose a CLIP, SigLIP, EVA or MobileCLIP (RN50, ViT-B-16, ViT-B-16-SigLIP2, "
            "EVA02-B-16, MobileCLIP2-S2, ...)."
        )
    weights = None
    own = own_file(config.pretrained, "clip") if pretrained else None
    if pretrained and config.pretrained and own is None:
        check_activation(config, base)
        weights = find_weights(config.name, config.pretrained)
    options = {
        name: {**base[name], **value} if isinstance(value, dict) and isinstance(base.get(name), dict) else value
        for name, value in copy.deepcopy(config.overrides).items()
    }
    try:
        # open_clip reports on the root logger, and warns when no weights are asked for.
        with quiet("open_clip"), downloads(f"CLIP's weights {config.pretrained!r} of {config.name}"):
            clip: Any = open_clip.create_model(config.name, pretrained=weights, precision="fp32", **options)
    except RuntimeError as error:
        if weights is None or not os.path.isfile(weights):
            raise
        raise CheckpointError(
            f"{weights} does not fit {config.name} ({shortened(' '.join(str(error).split()), 200)}); check "
            "semantic.name and its overrides. Of a run of pretrain-clip, give final/model.safetensors."
        ) from None
    except (AssertionError, TypeError, ValueError, ZeroDivisionError) as error:
        if not config.overrides:
            raise
        raise ConfigError(
            f"semantic.overrides is {shown(config.overrides)}, of which open_clip cannot build a {config.name} "
            f"({type(error).__name__}: {error}); change the sizes."
        ) from error
    if own is not None:
        load_own(clip, own, "clip", config)
    clip.architecture, clip.hub_tokenizer = config.name, base["text_cfg"].get("hf_tokenizer_name")
    return clip  # type: ignore[no-any-return]


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
