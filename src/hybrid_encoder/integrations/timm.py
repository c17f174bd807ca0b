"""The encoder as one of timm's models, for ``timm.create_model`` and what is built on it; registered on import.

.. code-block:: python

    import timm
    import hybrid_encoder.integrations.timm

    backbone = timm.create_model("hybrid_encoder_tiny", pretrained=True, features_only=True)
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from timm.layers.classifier import ClassifierHead
from timm.layers.format import Format, nchw_to
from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, model_entrypoint, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from hybrid_encoder.checkpoints.reading import read_checkpoint
from hybrid_encoder.config import MIN_SIZE
from hybrid_encoder.config.checking import shown
from hybrid_encoder.config.kinds import MODEL_CONFIGS
from hybrid_encoder.config.models import PRESETS, HybridEncoderConfig, find_encoder_config
from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.integrations._timm_layers import NO_DECAY, keep_levels, layer_groups
from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.towers.base import patch_grid

BACKBONES = "backbones"  # the public CLIP and DINO weights that a configuration names
SIZES = {"tiny": (96, 320)}  # what weights were fitted at; CLIP's and DINO's grids are those of 224 x 224 elsewhere
PATCH = 14  # of the presets' DINO
FIRST_CONVOLUTIONS = ("encoder.semantic.visual.conv1", "encoder.spatial.model.patch_embed.proj")  # of the presets

default_cfgs: dict[str, Any] = {}  # where timm looks for the settings of a module's models
__all__ = ["TimmEncoder", "register_encoder"]


class TimmEncoder(nn.Module):
    """The hybrid encoder behind the interface of timm's models.

    It takes RGB in [0, 1] and normalises it itself; ``timm.data.resolve_model_data_config`` says so. Its features are
    the four maps that a decoder reads, all on one grid. A classifier reads the mean of all four, as DINO's are read.

    Args:
        config: of the encoder.
        num_classes: of a linear classifier on the pooled maps; 0 for none.
        in_chans: 3, as CLIP and DINO read RGB.
        global_pool: how maps are pooled (``"avg"``, ``"max"``, ``"avgmax"``, ``"catavgmax"``); ``""`` for not.
        drop_rate: dropout before the classifier.
        img_size: noted down as the size of its images; it takes any, from 32 x 32 up.

    Attributes:
        encoder: the encoder itself; ``encoder.set_trainable`` says which of its parts train.
        features: what the maps pass through, for hooks.

    Raises:
        ConfigError: other channels than three.
    """

    def __init__(
        self,
        config: HybridEncoderConfig,
        num_classes: int = 0,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        img_size: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if in_chans != 3:
            raise ConfigError(
                f"in_chans is {shown(in_chans)}; the hybrid encoder reads RGB: give in_chans=3, and further channels "
                "to a network of their own."
            )
        self.in_chans = 3
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        self.head: Any = None
        self.features = nn.ModuleList(nn.Identity() for _ in range(4))
        self._take(HybridDepthEncoder(config, pretrained=False), global_pool)
        if img_size is not None:
            self.set_input_size(img_size)

    def _take(self, encoder: HybridDepthEncoder, global_pool: str) -> None:
        """Put an encoder in place, and a new head onto it where its maps are of another width."""
        self.encoder = encoder
        self.feature_info = [
            {**row, "module": f"features.{level}"} for level, row in enumerate(encoder.feature_info.info)
        ]
        self._fit_head(global_pool)

    def _fit_head(self, global_pool: str) -> None:
        before = getattr(self, "num_features", None)
        self.num_features: int = sum(row["num_chs"] for row in self.feature_info[: len(self.features)])
        if before != self.num_features:
            self.head = ClassifierHead(
                self.num_features, self.num_classes, pool_type=global_pool, drop_rate=self.drop_rate
            )

    @property
    def head_hidden_size(self) -> int:
        """Channels of what the classifier reads."""
        return self.num_features * int(self.head.global_pool.feat_mult())

    # -- what comes out ----------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Take RGB in [0, 1], (B, 3, H, W), to the classifier's output, (B, num_classes); to pooled features without.

        Raises:
            InputError: images of another shape, type or value range, or smaller than 32 x 32.
        """
        return self.forward_head(self.forward_features(x))

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the maps, one behind the other, (B, num_features, h, w)."""
        return torch.cat(self._maps(x, len(self.features)), dim=1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool a map and classify it; ``pre_logits`` leaves the classifier out."""
        y: Tensor = self.head(x, pre_logits=pre_logits)
        return y

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return what :meth:`forward_features` does, and the maps asked for.

        Args:
            x: RGB in [0, 1], (B, 3, H, W).
            indices: of the maps, negative ones from the end; a number takes the last ones, None all of them.
            norm: without effect; DINO's maps are those after its final norm.
            stop_early: run no further than the deepest of these.
            output_fmt: of the maps asked for: ``"NCHW"``, ``"NHWC"``, ``"NCL"`` or ``"NLC"``.
            intermediates_only: return these alone.

        Raises:
            ConfigError: a map that does not exist, or another format.
        """
        taken, deepest = self._indices(indices)
        if output_fmt not in Format.__members__:
            raise ConfigError(f"output_fmt is {shown(output_fmt)}; {', '.join(Format.__members__)} are known.")
        maps = self._maps(x, deepest + 1 if stop_early or intermediates_only else len(self.features))
        intermediates = [nchw_to(maps[index], Format(output_fmt)) for index in taken]
        return intermediates if intermediates_only else (torch.cat(maps, dim=1), intermediates)

    def _maps(self, images: Tensor, levels: int) -> list[Tensor]:
        maps = self.encoder.forward_features(images, levels).maps
        return [keep(x) for keep, x in zip(self.features, maps, strict=False)]

    def _indices(self, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
        count = len(self.features)
        try:
            taken, deepest = feature_take_indices(count, indices if indices is None else _plain(indices))
        except (AssertionError, TypeError, ValueError) as error:
            raise ConfigError(
                f"the indices are {shown(indices)}; the hybrid encoder has the maps 0 to {count - 1}: name some of "
                f"them, or say how many of the last ones, 1 to {count}."
            ) from error
        return list(taken), deepest

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what comes after the deepest of these maps, and return their indices from the front.

        Args:
            indices: as for :meth:`forward_intermediates`.
            prune_norm: without effect.
            prune_head: remove the classifier too; one that is kept starts anew, as it reads fewer maps.
        """
        taken, deepest = self._indices(indices)
        keep_levels(self.encoder, deepest + 1)
        self.features = self.features[: deepest + 1]
        self._fit_head(self.head.global_pool.pool_type)
        if prune_head:
            self.reset_classifier(0, "")
        return taken

    # -- the classifier ----------------------------------------------------------------------------------

    def get_classifier(self) -> nn.Module:
        """Return the linear classifier, an identity without classes."""
        classifier: nn.Module = self.head.fc
        return classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier in place: 0 classes for none, ``global_pool=""`` to leave maps unpooled."""
        self.num_classes = num_classes
        self.head.reset(num_classes, pool_type=global_pool)

    # -- training ----------------------------------------------------------------------------------------

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return which parameters lie how deep, as layer decay reads it: both towers by their distance to the fusion.

        Args:
            coarse: in five groups: what comes before the towers' blocks, and what each of the four maps needs.
        """
        return layer_groups(self.encoder, coarse)

    def no_weight_decay(self) -> set[str]:
        """Return the names of tokens and learned positions."""
        return {name for name, _ in self.named_parameters() if name.rsplit(".", 1)[-1] in NO_DECAY}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: recompute the towers' activations in the backward pass."""
        self.encoder.set_grad_checkpointing(enable)

    def set_input_size(self, img_size: int | Sequence[int]) -> None:
        """Note down the size of the images to come, a side or (H, W): nothing else depends on it.

        Raises:
            InputError: a side below 32 pixels.
        """
        sides = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        if len(sides) != 2 or any(type(side) is not int or side < MIN_SIZE for side in sides):
            raise InputError(f"img_size is {shown(img_size)}; a side or (H, W) is needed, each from {MIN_SIZE} up.")
        self.img_size = sides
        self._traits = {**getattr(self, "_traits", {}), "img_size": sides}  # what timm says of a model's input

    # -- weights -----------------------------------------------------------------------------------------

    def load_pretrained(self, source: str) -> None:
        """Take trained weights, with the encoder that they are of; or the public ones of CLIP and DINO.

        Args:
            source: ``"tiny"``, a folder, a file or a Hub id, as for ``from_pretrained``; or ``"backbones"``.

        Raises:
            CheckpointError: weights that are not found, unreadable, or not those of an encoder.
        """
        if source == BACKBONES:
            encoder = HybridDepthEncoder(self.encoder.config, pretrained=True)
        else:
            encoder = HybridDepthEncoder.from_checkpoint(read_checkpoint(source))
        self._take(encoder.train(self.training), self.head.global_pool.pool_type)


def register_encoder(name: str, config: Any) -> None:
    """Put an encoder of another configuration than the presets' into timm's registry.

    Args:
        name: for ``timm.create_model``; letters, digits and underscores.
        config: a ``HybridEncoderConfig`` or that of a whole model, whose pretrained weights are CLIP's and DINO's; or
            trained weights, which then are those of ``pretrained=True``: a folder or a Hub id.

    Raises:
        CheckpointError: weights that are not found or unreadable.
        ConfigError: not a configuration, no name, or a name of timm's own.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(
            f"name is {shown(name)}; letters, digits and underscores are needed: timm reads a dot as a tag."
        )
    if is_model(name) and model_entrypoint(name).__module__ != __name__:
        raise ConfigError(f"name is {shown(name)}; a name is needed that no model of timm has.")
    source, size = BACKBONES, None
    if isinstance(config, (str, Path)):
        source = str(config)
        config = read_checkpoint(source).config
        size = getattr(config, "size", None)
    if type(config) not in (HybridEncoderConfig, *MODEL_CONFIGS.values()):
        raise ConfigError(
            f"config is {shown(config)}; a HybridEncoderConfig is needed, or trained weights that have one."
        )
    _register(name, find_encoder_config(config), source, size)


def _register(name: str, config: HybridEncoderConfig, source: str, size: tuple[int, int] | None) -> None:
    """Put an entry into timm's registry, with the settings that timm looks up in this module."""
    preset, size = config in [known.encoder for known in PRESETS.values()], size or (224, 224)
    default_cfgs.update(
        generate_default_cfgs(
            {
                name: {
                    "file": source,
                    "custom_load": True,
                    "input_size": (3, *size),
                    "pool_size": patch_grid(*size, PATCH) if preset else None,
                    "num_classes": 0,
                    "crop_pct": 1.0,
                    "interpolation": "bilinear",
                    "mean": (0.0, 0.0, 0.0),  # the encoder normalises
                    "std": (1.0, 1.0, 1.0),
                    "first_conv": FIRST_CONVOLUTIONS if preset else None,
                    "classifier": "head.fc",
                }
            }
        )
    )

    def build(pretrained: bool = False, **options: Any) -> nn.Module:
        overlay = dict(options.pop("pretrained_cfg_overlay", None) or {})
        if overlay.get("file"):
            overlay.setdefault("custom_load", True)  # weights of ours, and not a state dict of this model
        model: nn.Module = build_model_with_cfg(
            TimmEncoder,
            name,
            pretrained,
            pretrained_cfg_overlay=overlay,
            feature_cfg={"out_indices": options.pop("out_indices", 4), "feature_cls": "getter"},
            config=config,
            **options,
        )
        return model

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"Build the hybrid encoder registered as {name}."
    register_model(build)
    __all__.remove(name)  # where timm has put it: it is an entry of the registry, and not a name of this module


def _plain(indices: Any) -> int | list[int]:
    """Return whole numbers of any kind (numpy's, say) as Python's; TypeError for others."""
    return operator.index(indices) if hasattr(indices, "__index__") else [operator.index(index) for index in indices]


for _name, _preset in PRESETS.items():
    _register(f"hybrid_encoder_{_name}", _preset.encoder, "tiny" if _name == "tiny" else BACKBONES, SIZES.get(_name))
