"""Whole models as frozen data, and the presets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from typing_extensions import Self

from hybrid_encoder.config.architectures import IMAGENET_MEAN, IMAGENET_STD
from hybrid_encoder.config.checking import Within, check_fields, fits, shown
from hybrid_encoder.config.parts import (
    MIN_SIZE,
    STREET,
    DecoderConfig,
    FusionConfig,
    PromptConfig,
    SemanticConfig,
    SpatialConfig,
)
from hybrid_encoder.config.pyramids import UNetDecoderConfig
from hybrid_encoder.config.serialization import Serializable
from hybrid_encoder.errors import ConfigError

Depth = Annotated[float, Within(1e-6, 1e9)]
Side = Annotated[int, Within(MIN_SIZE, 65536)]
AnyDecoderConfig = DecoderConfig | UNetDecoderConfig
MAX_PIXELS = 2**22  # of a working size: a file that states one decides how much memory a prediction takes
MULTI_FRAME_PROMPTS = 128  # as published for several frames; the single-frame model has 256


@dataclass(frozen=True)
class HybridEncoderConfig(Serializable):
    """The encoder.

    Args:
        semantic: the CLIP model; its text tower reads the prompts even where its image tower is left out.
        spatial: the DINO model.
        towers: which image towers are used; one alone gives the ablations.
        fusion: how their maps come together.
        prompts: the depth prompts, None for an encoder without language.
    """

    semantic: SemanticConfig = field(default_factory=SemanticConfig)
    spatial: SpatialConfig = field(default_factory=SpatialConfig)
    towers: Literal["both", "semantic", "spatial"] = "both"
    fusion: FusionConfig = field(default_factory=FusionConfig)
    prompts: PromptConfig | None = field(default_factory=PromptConfig)

    def __post_init__(self) -> None:
        check_fields(self, "")

    @property
    def uses_semantic(self) -> bool:
        """Whether CLIP's image tower is part of the encoder."""
        return self.towers != "spatial"

    @property
    def uses_spatial(self) -> bool:
        """Whether DINO is part of the encoder."""
        return self.towers != "semantic"

    @property
    def reads_jointly(self) -> bool:
        """Whether words are read off all four maps together, so that none of the maps can be left out."""
        return self.prompts is not None and self.prompts.readout == "joint"

    @classmethod
    def preset(cls, name: str) -> HybridEncoderConfig:
        """Return the encoder of a preset, as :meth:`HybridDepthConfig.preset`."""
        return HybridDepthConfig.preset(name).encoder

    def for_matching(self) -> HybridEncoderConfig:
        """Return these settings as published for several frames.

        CLIP's input, and it alone, is normalised with ImageNet's mean and std, unless its family has its own. DINO is
        frozen whole, where it starts from public weights, and everything else trains, CLIP's text tower too.
        """
        prompts = self.prompts and dataclasses.replace(self.prompts, train_text=True)
        trainable = 0 if self.spatial.pretrained is True else self.spatial.trainable_blocks
        return self.replace(
            semantic=dataclasses.replace(self.semantic.normalised(IMAGENET_MEAN, IMAGENET_STD), trainable=True),
            spatial=dataclasses.replace(self.spatial, trainable_blocks=trainable),
            prompts=prompts,
        )


@dataclass(frozen=True, kw_only=True)
class DepthScale(Serializable):
    """The range of depth that disparity 1 and 0 stand for, and what its unit is.

    Args:
        min_depth, max_depth: depth = 1 / (1 / max_depth + (1 / min_depth - 1 / max_depth) * disparity).
        metric: whether that depth is in metres (``depth_m``) or of unknown scale (``relative_depth``).
        size: height and width that the weights were fitted at, None when unknown; 4 megapixels at most.
    """

    min_depth: Depth = 0.1
    max_depth: Depth = 100.0
    metric: bool = False
    size: tuple[Side, Side] | None = None

    def __post_init__(self) -> None:
        check_fields(self, "")
        if not 0 < self.min_depth < self.max_depth:
            raise ConfigError(
                f"min_depth is {self.min_depth} and max_depth {self.max_depth}; 0 < min_depth < max_depth is needed."
            )
        if self.size is not None and self.size[0] * self.size[1] > MAX_PIXELS:
            raise ConfigError(f"size is {self.size}, height and width; they may have {MAX_PIXELS} pixels at most.")

    def in_metres(self, factor: float) -> Self:
        """Return the same configuration in metres: the range, and with it every depth, multiplied by a factor.

        Args:
            factor: metres in one unit of the present depth.

        Raises:
            ConfigError: a factor that is no positive number, or that takes the range beyond 1e-6 to 1e9.
        """
        if not fits(float, factor) or not 0 < factor < float("inf"):
            raise ConfigError(f"the factor to metres is {shown(factor)}; give a positive, finite number.")
        low, high = float(self.min_depth * factor), float(self.max_depth * factor)
        if not (fits(Depth, low) and fits(Depth, high)):
            raise ConfigError(
                f"the factor to metres is {factor:g}, and takes the range of depth from {self.min_depth:g} to "
                f"{self.max_depth:g} beyond 1e-06 to 1e+09 m; check how it was measured."
            )
        return self.replace(min_depth=low, max_depth=high, metric=True)


@dataclass(frozen=True)
class HybridDepthConfig(DepthScale):
    """Encoder and decoder, with the depth range that disparity stands for (:class:`DepthScale`)."""

    encoder: HybridEncoderConfig = field(default_factory=HybridEncoderConfig)
    decoder: AnyDecoderConfig = field(default_factory=DecoderConfig)

    @classmethod
    def preset(cls, name: str) -> HybridDepthConfig:
        """Return a preset.

        Args:
            name: ``"paper"``, DINOv2 ViT-B/14 and CLIP RN50 with 256 prompts; ``"small"``, DINOv2 ViT-S/14 and the same
                CLIP with 64 prompts and a decoder of 64 features; ``"large"``, DINOv2 ViT-L/14 and CLIP RN50x4; or
                ``"tiny"``, both towers built small, which start from weights in the package.

        Raises:
            ConfigError: another name.
        """
        if name not in PRESETS:
            raise ConfigError(f"unknown preset {name!r}; the presets are {', '.join(map(repr, PRESETS))}.")
        return PRESETS[name]

    @classmethod
    def for_encoder(cls, encoder: HybridEncoderConfig) -> HybridDepthConfig:
        """Return an encoder with the decoder of the preset that has the same towers, or else the paper's.

        Which weights the towers start from does not matter.
        """
        towers = _towers(encoder)
        alike = (p for p in PRESETS.values() if _towers(p.encoder) == towers)
        return next(alike, PRESETS["paper"]).replace(encoder=encoder)


@dataclass(frozen=True)
class HybridMatchingConfig(Serializable):
    """The multi-frame encoder: the hybrid encoder, and the cost volume between its semantic tower's first two maps.

    Args:
        encoder: of the current frame.
        num_depth_bins: D, how many depths are tried.
        depth_binning: ``"linear"`` or ``"inverse"`` (even steps of 1 / depth).
        min_depth_bin, max_depth_bin: range of the bins, in the unit of the poses.
        adaptive_bins: use the range that a call brings, as training from video without a known scale needs.
        match: in which tower's first map; ``"both"`` gives two volumes. DINO is published as off; matching in it
            runs DINO on the lookup frames too.
    """

    encoder: HybridEncoderConfig = field(default_factory=lambda: HybridMatchingConfig.preset_encoder("paper"))
    num_depth_bins: Annotated[int, Within(2, 4096)] = 96
    depth_binning: Literal["linear", "inverse"] = "linear"
    min_depth_bin: Depth = 0.1
    max_depth_bin: Depth = 20.0
    adaptive_bins: bool = False
    match: Literal["semantic", "spatial", "both"] = "semantic"

    def __post_init__(self) -> None:
        check_fields(self, "")
        if not self.min_depth_bin < self.max_depth_bin:
            raise ConfigError(
                f"the depth bins go from {self.min_depth_bin:.4g} to {self.max_depth_bin:.4g}; "
                "0 < min_depth_bin < max_depth_bin is needed: near before far."
            )

    @property
    def num_volumes(self) -> int:
        """How many cost volumes there are: one for each tower that is matched in."""
        return 2 if self.match == "both" else 1

    @classmethod
    def preset(cls, name: str) -> HybridMatchingConfig:
        """Return the multi-frame encoder of a preset, as :meth:`HybridDepthConfig.preset`."""
        return cls(encoder=cls.preset_encoder(name))

    @staticmethod
    def preset_encoder(name: str) -> HybridEncoderConfig:
        """Return a preset's encoder with the published settings for several frames, 128 prompts at most."""
        config = HybridEncoderConfig.preset(name).for_matching()
        if config.prompts is None:
            return config
        num_tokens = min(MULTI_FRAME_PROMPTS, config.prompts.num_tokens)
        return config.replace(prompts=dataclasses.replace(config.prompts, num_tokens=num_tokens))


@dataclass(frozen=True)
class HybridMatchingDepthConfig(DepthScale):
    """Multi-frame encoder and decoder, with the depth range that disparity stands for (:class:`DepthScale`)."""

    encoder: HybridMatchingConfig = field(default_factory=HybridMatchingConfig)
    decoder: AnyDecoderConfig = field(default_factory=DecoderConfig)

    @classmethod
    def preset(cls, name: str) -> HybridMatchingDepthConfig:
        """Return the multi-frame model of a preset, as :meth:`HybridDepthConfig.preset`."""
        return cls(encoder=HybridMatchingConfig.preset(name), decoder=HybridDepthConfig.preset(name).decoder)


_TINY_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2}
_TINY_VISION = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}

# Fusion takes CLIP's maps to as many channels as its first one has, which then passes as it is; in the small one, to as
# many as the decoder works with. The small decoder has the widths of Depth Anything's on the same DINOv2.
# large has a residual CLIP as well: several frames are matched in a first map at stride 4, which no transformer has.
PRESETS: dict[str, HybridDepthConfig] = {
    "paper": HybridDepthConfig(encoder=HybridEncoderConfig(spatial=SpatialConfig(blocks=(2, 5, 8, 11)))),
    "small": HybridDepthConfig(
        encoder=HybridEncoderConfig(
            spatial=SpatialConfig(name="vit_small_patch14_dinov2.lvd142m", blocks=(2, 5, 8, 11)),
            fusion=FusionConfig(channels=64),
            prompts=PromptConfig(num_tokens=64),
        ),
        decoder=DecoderConfig(features=64, channels=(48, 96, 192, 384)),
    ),
    "large": HybridDepthConfig(
        encoder=HybridEncoderConfig(
            semantic=SemanticConfig(name="RN50x4-quickgelu"),
            spatial=SpatialConfig(name="vit_large_patch14_dinov2.lvd142m", blocks=(4, 11, 17, 23)),
            fusion=FusionConfig(channels=320),
        ),
    ),
    "tiny": HybridDepthConfig(
        encoder=HybridEncoderConfig(
            semantic=SemanticConfig(
                name="RN50-quickgelu",
                pretrained=STREET,
                overrides={"embed_dim": 128, "vision_cfg": _TINY_VISION, "text_cfg": _TINY_TEXT},
                mean=IMAGENET_MEAN,
                std=IMAGENET_STD,
            ),
            spatial=SpatialConfig(
                name="vit_small_patch14_dinov2",
                pretrained=STREET,
                overrides={"embed_dim": 96, "depth": 4, "num_heads": 3, "img_size": 224},
                blocks=(0, 1, 2, 3),
                mean=IMAGENET_MEAN,
                std=IMAGENET_STD,
                trainable_blocks="all",
            ),
            fusion=FusionConfig(channels=32),
            prompts=PromptConfig(num_tokens=16, train_text=True),
        ),
        decoder=DecoderConfig(
            features=48,
            channels=(32, 48, 64, 64),
            head_channels=16,
            scales=(0, 1, 2, 3),
            activation="sigmoid",
        ),
    ),
}


def _towers(encoder: HybridEncoderConfig) -> tuple[SemanticConfig, SpatialConfig]:
    return encoder.semantic.without_weights(), encoder.spatial.without_weights()


def find_encoder_config(config: Any) -> HybridEncoderConfig:
    """Return the hybrid encoder's configuration inside any of these."""
    while not isinstance(config, HybridEncoderConfig):
        config = config.encoder
    return config
