"""One encoder out of CLIP, DINO and depth prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hybrid_encoder.checkpoints import HubModel
from hybrid_encoder.config import MIN_SIZE, HybridEncoderConfig, PromptConfig
from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.fusion import Fusion
from hybrid_encoder.language import DepthPrompts, pixel_prompt_logits
from hybrid_encoder.semantic import SemanticTower, build_clip
from hybrid_encoder.spatial import SpatialTower, build_spatial
from hybrid_encoder.towers import keep_frozen_still

PARTS = ("semantic", "spatial", "text", "prompts", "fusion")


class HybridFeatures(NamedTuple):
    """Everything that one forward pass of the encoder knows.

    Attributes:
        maps: what a decoder reads, four (B, C_i, h, w).
        fused: the two towers' maps on one grid, four (B, C, h, w).
        logits: likeness to each prompt, four (B, n, h, w), near before far; None without prompts.
        class_token: DINO's, (B, C); None without that tower.
        prompt_embeddings: (n, D); None without prompts.
    """

    maps: list[Tensor]
    fused: list[Tensor]
    logits: list[Tensor] | None
    class_token: Tensor | None
    prompt_embeddings: Tensor | None


class HybridDepthEncoder(HubModel):
    """CLIP (what things are) and DINO (where they are), joined under depth prompts.

    Source: Hybrid-grained Feature Aggregation with Coarse-to-fine Language Guidance for Self-supervised
    Monocular Depth Estimation, ICCV 2025.

    Args:
        config: a preset name (``"paper"``, ``"tiny"``) or a configuration.
        pretrained: start from the public CLIP and DINO weights that the configuration names; False starts
            from random ones. Trained weights come through ``from_pretrained``.

    Example:
        >>> encoder = HybridDepthEncoder("tiny", pretrained=False)
        >>> maps = encoder(torch.rand(2, 3, 96, 320))
        >>> [tuple(x.shape) for x in maps] == [(2, c, 7, 23) for c in encoder.feature_info.channels()]
        True
    """

    config: HybridEncoderConfig

    def __init__(self, config: str | HybridEncoderConfig = "paper", *, pretrained: bool = True) -> None:
        super().__init__()
        config = HybridEncoderConfig.preset(config) if isinstance(config, str) else config
        clip = build_clip(config.semantic, pretrained) if config.uses_semantic or config.prompts else None
        self.semantic = SemanticTower(clip.visual, config.semantic) if clip and config.uses_semantic else None
        self.spatial: SpatialTower | None = build_spatial(config.spatial, pretrained) if config.uses_spatial else None
        self.fusion = Fusion(
            self.semantic.channels if self.semantic else (),
            self.spatial.channels if self.spatial else (),
            config.fusion,
        )
        self.prompts = DepthPrompts(clip, config.prompts) if clip and config.prompts else None
        if self.spatial is not None:
            config = config.replace(spatial=self.spatial.config)
        self.config = config
        self._range_seen = False
        self.set_trainable(
            semantic=config.semantic.trainable,
            spatial=True if config.spatial.trainable_blocks == "all" else config.spatial.trainable_blocks,
            text=bool(config.prompts and config.prompts.train_text),
            prompts=True,
            fusion=True,
        )

    # -- what comes out ----------------------------------------------------------------------------------

    @property
    def feature_info(self) -> Any:
        """Channels and reduction of the four maps, in timm's convention (``channels()``, ``reduction()``)."""
        from timm.models._features import FeatureInfo

        fused = self.fusion.channels
        extra = 0 if self.prompts is None else self.prompts.count
        alone = self.config.prompts is not None and self.config.prompts.align == "logits"
        rows = [
            {"num_chs": extra if alone else extra + channels, "reduction": self.stride, "module": f"level{i}"}
            for i, channels in enumerate(fused)
        ]
        return FeatureInfo(rows, (0, 1, 2, 3))

    @property
    def stride(self) -> int:
        """Pixels per grid cell (sizes that are no multiple are rounded to the nearest grid)."""
        return self.spatial.patch if self.spatial is not None else self.config.fusion.grid_stride

    def forward(self, images: Tensor) -> list[Tensor]:
        """RGB in [0, 1], (B, 3, H, W) with H and W from 32 up, to four decoder-ready maps (B, C_i, h, w)."""
        return self.forward_features(images).maps

    def forward_features(self, images: Tensor) -> HybridFeatures:
        """The same pass with everything it computed.

        Raises:
            InputError: images of another shape, type or value range.
        """
        self._check(images)
        spatial, class_token = self.spatial(images) if self.spatial is not None else ([], None)
        semantic = self.semantic(images) if self.semantic is not None else []
        height, width = images.shape[-2:]
        grid = spatial[0].shape[-2:] if spatial else (round(height / self.stride), round(width / self.stride))
        return self.align(self.fusion(semantic, spatial, tuple(grid)), class_token)

    def align(self, fused: list[Tensor], class_token: Tensor | None = None) -> HybridFeatures:
        """Fused maps beside their likeness to the prompts, as a decoder reads them."""
        if self.prompts is None or self.config.prompts is None:
            return HybridFeatures(fused, fused, None, class_token, None)
        prompts = self.prompts()
        logits = [pixel_prompt_logits(x, prompts) for x in fused]
        maps = logits
        if self.config.prompts.align == "concat":
            maps = [torch.cat([a, b], dim=1) for a, b in zip(logits, fused, strict=True)]
        return HybridFeatures(maps, fused, logits, class_token, prompts)

    def set_prompts(self, config: PromptConfig) -> None:
        """Put other prompts in place of these, on the same text tower: learned tokens after a coarse stage's words.

        What reads the maps must be made anew: the number of logits among them changes.

        Raises:
            ConfigError: no prompts so far, folded ones, or words that they have not kept.
        """
        if self.prompts is None or self.config.prompts is None:
            raise ConfigError("the encoder has no prompts, and no text tower for others; build one with prompts.")
        self.prompts.check_unfolded()
        trains = any(parameter.requires_grad for parameter in self.prompts.text_parameters())
        device = self.prompts.token_embedding.device
        self.prompts = DepthPrompts(self.prompts, config).to(device)
        self.config = self.config.replace(prompts=config)
        self.set_trainable(text=trains or config.train_text, prompts=True)

    def fold_prompts(self) -> None:
        """Put the prompts' matrix in the place of their text tower, for prediction with less memory.

        The numbers stay. Afterwards prompts and text tower cannot train, and the weights cannot be saved: load the
        checkpoint again for that. Without prompts nothing happens.
        """
        if self.prompts is not None:
            self.prompts.fold()

    def _check(self, images: Tensor) -> None:
        check_images(images)
        if torch.compiler.is_compiling() or images.is_meta or (self._range_seen and images.device.type != "cpu"):
            return  # looking at values stalls an accelerator: there the first batch speaks for the rest
        low, high = (float(x) for x in torch.aminmax(images.detach()))
        if not (low >= -0.25 and high <= 1.25):  # a little overshoot is what resampling leaves; NaN fails too
            raise InputError(
                f"images hold values from {low:.4g} to {high:.4g}; RGB in [0, 1] is needed: "
                "divide bytes by 255, and leave normalisation to the encoder."
            )
        self._range_seen = True

    # -- what trains -------------------------------------------------------------------------------------

    def set_trainable(
        self,
        *,
        semantic: bool | None = None,
        spatial: bool | int | None = None,
        text: bool | None = None,
        prompts: bool | None = None,
        fusion: bool | None = None,
    ) -> None:
        """Freeze or release parts; None leaves a part as it is.

        Args:
            semantic: CLIP's image tower.
            spatial: DINO; a number releases only that many of the last blocks.
            text: CLIP's text tower.
            prompts: the learned depth tokens.
            fusion: the aligning convolutions.
        """
        if semantic is not None and self.semantic is not None:
            self.semantic.requires_grad_(semantic)
        if spatial is not None and self.spatial is not None:
            self.spatial.requires_grad_(spatial is True)
            if not isinstance(spatial, bool):
                for block in list(self.spatial.blocks)[max(0, len(self.spatial.blocks) - spatial) :]:
                    block.requires_grad_(True)
        if self.prompts is not None:
            if text is not None:
                for parameter in self.prompts.text_parameters():
                    parameter.requires_grad_(text)
            if prompts is not None and self.prompts.tokens is not None:
                self.prompts.tokens.requires_grad_(prompts)
        if fusion is not None:
            self.fusion.requires_grad_(fusion)
        self.train(self.training)

    def train(self, mode: bool = True) -> HybridDepthEncoder:
        """Training mode for what trains; wholly frozen parts stay in evaluation mode, batch norm included."""
        super().train(mode)
        if mode:
            keep_frozen_still(self)
        return self

    def part_parameters(self) -> dict[str, list[nn.Parameter]]:
        """All parameters by part: semantic, spatial, text, prompts, fusion."""
        parts: dict[str, list[nn.Parameter]] = {name: [] for name in PARTS}
        parts["fusion"] = list(self.fusion.parameters())
        if self.semantic is not None:
            parts["semantic"] = list(self.semantic.parameters())
        if self.spatial is not None:
            parts["spatial"] = list(self.spatial.parameters())
        if self.prompts is not None:
            parts["text"] = self.prompts.text_parameters()
            parts["prompts"] = [] if self.prompts.tokens is None else [self.prompts.tokens]
        return parts

    def parameter_groups(
        self, lr: float, *, lr_scale: Mapping[str, float] | None = None, **options: Any
    ) -> list[dict[str, Any]]:
        """Optimizer groups, one for each part that has something to train; no frozen parameter in them.

        Args:
            lr: learning rate.
            lr_scale: factors on ``lr`` by part, for example ``{"spatial": 0.1}``.
            options: further entries of every group, for example ``weight_decay``.
        """
        return build_groups(self.part_parameters(), lr, lr_scale, options)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: recompute the towers' activations in the backward pass."""
        for tower in (self.semantic, self.spatial):
            if tower is not None:
                tower.grad_checkpointing = enable
        if isinstance(inner := getattr(self.spatial, "model", None), nn.Module):
            toggle = "gradient_checkpointing_enable" if enable else "gradient_checkpointing_disable"
            if hasattr(inner, toggle):  # a transformers model runs its own blocks
                getattr(inner, toggle)()
        if self.prompts is not None and self.prompts.folded is None:
            self.prompts.transformer.grad_checkpointing = enable

    # -- loading and saving ------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(  # type: ignore[override]  # a shorter name for the source, and no model_kwargs
        cls, source: str | Path, *, config: HybridEncoderConfig | None = None, **hub: Any
    ) -> HybridDepthEncoder:
        """A trained encoder, in evaluation mode.

        Args:
            source: ``"tiny"`` (ships in the package), a folder, a stage-1 ``.ckpt`` file, or a Hub id; ours or
                the published layout.
            config: overrides what is read off the checkpoint.
            hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.

        Raises:
            CheckpointError: not found, unreadable, or not what this encoder needs.
        """
        from hybrid_encoder.checkpoints import load

        loaded = load(source, **hub)
        return loaded.build_encoder(cls, config)


def check_images(images: Tensor) -> None:
    """Raises InputError unless these are floating-point images (B, 3, H, W) of at least 32 x 32."""
    if not isinstance(images, Tensor):
        raise InputError(f"images is a {type(images).__name__}; a tensor (B, 3, H, W) is needed.")
    shape = tuple(images.shape)
    if images.ndim != 4 or shape[1] != 3:
        raise InputError(f"images has the shape {shape}; (B, 3, H, W) is needed, RGB with three channels.")
    if shape[2] < MIN_SIZE or shape[3] < MIN_SIZE:  # not min(): a compiler would tie its graph to the smaller one
        raise InputError(
            f"images are {shape[2]} x {shape[3]}; height and width must be at least {MIN_SIZE}: resize them up."
        )
    if shape[0] == 0:
        raise InputError("images is an empty batch; at least one image is needed.")
    if not images.is_floating_point():
        raise InputError(f"images have the type {images.dtype}; floats in [0, 1] are needed: divide bytes by 255.")


def build_groups(
    parts: Mapping[str, list[nn.Parameter]],
    lr: float,
    lr_scale: Mapping[str, float] | None,
    options: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Optimizer groups of the parts' trainable parameters."""
    scale = dict(lr_scale or {})
    unknown = sorted(set(scale) - set(parts))
    if unknown:
        raise ConfigError(f"lr_scale names {unknown[0]!r}; the parts are {', '.join(parts)}.")
    groups = []
    for name, parameters in parts.items():
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        if trainable:
            groups.append({"name": name, "params": trainable, "lr": lr * scale.get(name, 1.0), **options})
    return groups
