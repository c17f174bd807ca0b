"""What a model is made of, as frozen data that goes to JSON and back.

Knows no torch: a configuration can be read, checked and printed without loading a model library.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union

from hybrid_encoder.errors import ConfigError

MIN_SIZE = 32  # pixels of height and of width, that an encoder takes

T = TypeVar("T")
Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
NO_MEAN: Triple = (0.0, 0.0, 0.0)
NO_STD: Triple = (1.0, 1.0, 1.0)

DEPTH_WORDS = (
    "very close",
    "close",
    "slightly close",
    "neither close nor distant",
    "slightly distant",
    "distant",
    "very distant",
)
"""The seven phrases of the coarse stage, near before far."""


@dataclass(frozen=True)
class SemanticConfig:
    """The CLIP tower: any open_clip model with a ResNet, ViT or ConvNeXt image tower.

    Args:
        name: open_clip architecture. OpenAI's weights need the ``-quickgelu`` names.
        pretrained: open_clip weight tag for a new model, None for random weights.
        overrides: fields laid over the architecture's configuration, for example
            ``{"vision_cfg": {"width": 16}}``.
        mean, std: normalisation of RGB in [0, 1]; the published models feed raw [0, 1].
        trainable: whether the image tower trains.
    """

    name: str = "RN50-quickgelu"
    pretrained: str | None = "openai"
    overrides: dict[str, Any] = field(default_factory=dict)
    mean: Triple = NO_MEAN
    std: Triple = NO_STD
    trainable: bool = True


@dataclass(frozen=True)
class SpatialConfig:
    """The DINO tower: a timm vision transformer, or ``hf:<repository or folder>`` for transformers.

    Args:
        name: timm model name, or ``hf:`` and a Hub id or folder.
        pretrained: whether a new model starts from the public weights.
        overrides: keyword arguments of the timm model (``embed_dim``, ``depth``, ...).
        blocks: 0-based blocks whose outputs are the four maps; None spreads them evenly.
        position_embedding: how a learned position grid is resampled. ``"dinov2"`` is the rule of
            the DINOv2 code (bicubic, scale factor (n + 0.1) / n0, no antialias); ``"size"`` is bicubic
            to the exact size with antialias (timm's); ``"auto"`` takes what the model was made with.
        mean, std: normalisation of RGB in [0, 1]; the published models feed raw [0, 1].
        trainable_blocks: how many of the last blocks train; ``"all"`` trains the whole tower.
    """

    name: str = "vit_base_patch14_dinov2.lvd142m"
    pretrained: bool = True
    overrides: dict[str, Any] = field(default_factory=dict)
    blocks: tuple[int, ...] | None = None
    position_embedding: Literal["auto", "dinov2", "size"] = "auto"
    mean: Triple = NO_MEAN
    std: Triple = NO_STD
    trainable_blocks: int | Literal["all"] = 1

    def __post_init__(self) -> None:
        _choice("spatial.position_embedding", self.position_embedding, ("auto", "dinov2", "size"))
        if self.blocks is not None and len(self.blocks) != 4:
            raise ConfigError(f"spatial.blocks is {self.blocks}; four block numbers are needed, or null for even ones.")
        if self.trainable_blocks != "all" and self.trainable_blocks < 0:
            raise ConfigError(
                f"spatial.trainable_blocks is {self.trainable_blocks}; give a number from 0 up, or 'all'."
            )


@dataclass(frozen=True)
class FusionConfig:
    """How the two towers' maps come together on one grid.

    Args:
        method: ``"interp_conv1x1"`` (nearest resize, then 1x1 convolution) or ``"convs2_interp"``
            (strided convolutions, then nearest resize).
        channels: channels that each semantic map is taken to.
        grid_stride: pixels per grid cell where there is no spatial tower to set the grid.
    """

    method: Literal["interp_conv1x1", "convs2_interp"] = "interp_conv1x1"
    channels: int = 256
    grid_stride: int = 14

    def __post_init__(self) -> None:
        _choice("fusion.method", self.method, ("interp_conv1x1", "convs2_interp"))
        _positive("fusion.channels", self.channels)
        _positive("fusion.grid_stride", self.grid_stride)


@dataclass(frozen=True)
class PromptConfig:
    """The depth prompts, near before far, and what the decoder reads of them.

    Args:
        template: the sentence; ``{}`` is the place of the depth word or learned token.
        count: number of learned tokens; ignored where ``words`` is given.
        words: fixed phrases instead of learned tokens.
        init: learned tokens start from noise (std 0.02) or from ``DEPTH_WORDS``, interpolated.
        align: the decoder reads ``"concat"`` [logits, map] or the ``"logits"`` alone.
        train_text: whether the text tower itself trains.
    """

    template: str = "This patch appears to be {}"
    count: int = 256
    words: tuple[str, ...] | None = None
    init: Literal["random", "words"] = "random"
    align: Literal["concat", "logits"] = "concat"
    train_text: bool = False

    def __post_init__(self) -> None:
        _choice("prompts.init", self.init, ("random", "words"))
        _choice("prompts.align", self.align, ("concat", "logits"))
        if self.template.count("{}") != 1:
            raise ConfigError(f"prompts.template is {self.template!r}; it needs exactly one {{}} for the depth word.")
        if self.number < 2:
            raise ConfigError(f"prompts has {self.number} prompts; at least 2 are needed to tell near from far.")

    @property
    def number(self) -> int:
        """How many prompts there are."""
        return self.count if self.words is None else len(self.words)


@dataclass(frozen=True)
class HybridEncoderConfig:
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
        _choice("towers", self.towers, ("both", "semantic", "spatial"))

    @property
    def uses_semantic(self) -> bool:
        """Whether CLIP's image tower is part of the encoder."""
        return self.towers != "spatial"

    @property
    def uses_spatial(self) -> bool:
        """Whether DINO is part of the encoder."""
        return self.towers != "semantic"

    @classmethod
    def preset(cls, name: str) -> HybridEncoderConfig:
        """The encoder of a preset, ``"paper"`` or ``"tiny"``."""
        return HybridDepthConfig.preset(name).encoder

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = _to_json(self)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> HybridEncoderConfig:
        return _from_json(cls, values, "encoder")

    def replace(self, **changes: Any) -> HybridEncoderConfig:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class DecoderConfig:
    """The DPT decoder.

    Args:
        features: channels of the fusion blocks.
        channels: channels of the four projections.
        head_channels: channels before the last 1x1 convolution.
        scales: output scales; scale s is 1 / 2**s of the image size (0 to 3).
        activation: ``"relu"`` as published (disparity may pass 1), or ``"sigmoid"`` (always in [0, 1]).
    """

    features: int = 256
    channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    head_channels: int = 32
    scales: tuple[int, ...] = (0,)
    activation: Literal["relu", "sigmoid"] = "relu"

    def __post_init__(self) -> None:
        _choice("decoder.activation", self.activation, ("relu", "sigmoid"))
        _positive("decoder.features", self.features)
        _positive("decoder.head_channels", self.head_channels)
        if len(self.channels) != 4:
            raise ConfigError(f"decoder.channels is {self.channels}; four numbers are needed, one for each map.")
        if not self.scales or not set(self.scales) <= {0, 1, 2, 3}:
            raise ConfigError(f"decoder.scales is {self.scales}; give one or more of 0, 1, 2, 3.")


@dataclass(frozen=True)
class HybridDepthConfig:
    """Encoder and decoder, with the depth range that disparity 1 and 0 stand for.

    Args:
        min_depth, max_depth: depth = 1 / (1 / max_depth + (1 / min_depth - 1 / max_depth) * disparity).
        metric: whether that depth is in metres (``depth_m``) or of unknown scale (``relative_depth``).
        size: height and width that the weights were fitted at, None when unknown.
    """

    encoder: HybridEncoderConfig = field(default_factory=HybridEncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    min_depth: float = 0.1
    max_depth: float = 100.0
    metric: bool = False
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.min_depth < self.max_depth:
            raise ConfigError(
                f"min_depth is {self.min_depth} and max_depth {self.max_depth}; 0 < min_depth < max_depth is needed."
            )

    @classmethod
    def preset(cls, name: str) -> HybridDepthConfig:
        """``"paper"``: DINOv2 ViT-B/14 and CLIP RN50, 256 prompts. ``"tiny"``: both towers built small."""
        if name not in PRESETS:
            raise ConfigError(f"unknown preset {name!r}; the presets are {', '.join(map(repr, PRESETS))}.")
        return PRESETS[name]

    @classmethod
    def for_encoder(cls, encoder: HybridEncoderConfig) -> HybridDepthConfig:
        """An encoder with the decoder of the preset that has the same towers, or else the paper's."""
        towers = (encoder.semantic, encoder.spatial)
        alike = (p for p in PRESETS.values() if (p.encoder.semantic, p.encoder.spatial) == towers)
        return next(alike, PRESETS["paper"]).replace(encoder=encoder)

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = _to_json(self)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> HybridDepthConfig:
        return _from_json(cls, values, "config")

    def replace(self, **changes: Any) -> HybridDepthConfig:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def _choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}.")


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} is {value}; it must be at least 1.")


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [_to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    return value


def _from_json(cls: type[T], values: Any, where: str) -> T:
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is {values!r}; a JSON object is needed.")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(f"{where} has the unknown field {unknown[0]!r}; the fields are {', '.join(sorted(hints))}.")
    try:
        return cls(**{name: _decode(hints[name], value, f"{where}.{name}") for name, value in values.items()})
    except TypeError as error:
        raise ConfigError(f"{where} does not hold what {cls.__name__} needs: {error}.") from error


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        # Unions here are "T or None" and "int or a literal": the first part says how to read a container.
        return _decode(args[0], value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _from_json(hint, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} is {value!r}; a list is needed.")
        return tuple(value)
    return value


_TINY_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2}
_TINY_VISION = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}

PRESETS: dict[str, HybridDepthConfig] = {
    "paper": HybridDepthConfig(encoder=HybridEncoderConfig(spatial=SpatialConfig(blocks=(2, 5, 8, 11)))),
    "tiny": HybridDepthConfig(
        encoder=HybridEncoderConfig(
            semantic=SemanticConfig(
                name="RN50-quickgelu",
                pretrained=None,
                overrides={"embed_dim": 128, "vision_cfg": _TINY_VISION, "text_cfg": _TINY_TEXT},
                mean=IMAGENET_MEAN,
                std=IMAGENET_STD,
            ),
            spatial=SpatialConfig(
                name="vit_small_patch14_dinov2",
                pretrained=False,
                overrides={"embed_dim": 96, "depth": 4, "num_heads": 3, "img_size": 224},
                blocks=(0, 1, 2, 3),
                mean=IMAGENET_MEAN,
                std=IMAGENET_STD,
                trainable_blocks="all",
            ),
            fusion=FusionConfig(channels=32),
            prompts=PromptConfig(count=16, train_text=True),
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
