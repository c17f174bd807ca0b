"""The parts of a model as frozen data: towers, fusion, prompts, decoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from hybrid_encoder.config.architectures import OPEN_CLIP, ModelName, check_spatial
from hybrid_encoder.config.checking import Count, Text, Within, check_fields, check_table, shown
from hybrid_encoder.errors import ConfigError

MAX_PROMPTS = 16384
MIN_SIZE = 32  # pixels: the least height and width that an encoder takes

Triple = tuple[float, float, float]
_MeanValue = Annotated[float, Within(-1000, 1000)]
_StdValue = Annotated[float, Within(1e-3, 1000)]
Mean = tuple[_MeanValue, _MeanValue, _MeanValue]
Std = tuple[_StdValue, _StdValue, _StdValue]
Block = Annotated[int, Within(0, 255)]
TrainText = bool | Literal["all_but_blocks"]

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
        overrides: sizes laid over the architecture's configuration, for example ``{"vision_cfg": {"width": 16}}``;
            those of :data:`hybrid_encoder.config.architectures.OPEN_CLIP`.
        mean, std: normalisation of RGB in [0, 1]; the published models feed raw [0, 1].
        trainable: whether the image tower trains.

    Raises:
        ConfigError: a value of another type or out of its range, here as in all configurations.
    """

    name: ModelName = "RN50-quickgelu"
    pretrained: Text | None = "openai"
    overrides: dict[str, Any] = field(default_factory=dict)
    mean: Mean = NO_MEAN
    std: Std = NO_STD
    trainable: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "semantic.")
        check_table(OPEN_CLIP, self.overrides, "semantic.overrides")


@dataclass(frozen=True)
class SpatialConfig:
    """The DINO tower: a timm vision transformer, or ``hf:<repository or folder>`` for transformers.

    Args:
        name: timm model name, or ``hf:`` and a Hub id or folder.
        pretrained: whether a new model starts from the public weights.
        overrides: sizes of the timm model (``embed_dim``, ``depth``, ...), those of
            :data:`hybrid_encoder.config.architectures.TIMM`; a model of transformers keeps its architecture here.
        blocks: 0-based blocks whose outputs are the four maps; None spreads them evenly.
        position_embedding: how a learned position grid is resampled. ``"dinov2"`` is the rule of
            the DINOv2 code (bicubic, scale factor (n + 0.1) / n0, no antialias); ``"size"`` is bicubic
            to the exact size with antialias (timm's); ``"auto"`` takes what the model was made with.
        mean, std: normalisation of RGB in [0, 1]; the published models feed raw [0, 1].
        trainable_blocks: how many of the last blocks train; ``"all"`` trains the whole tower.
    """

    name: Text = "vit_base_patch14_dinov2.lvd142m"
    pretrained: bool = True
    overrides: dict[str, Any] = field(default_factory=dict)
    blocks: tuple[Block, Block, Block, Block] | None = None
    position_embedding: Literal["auto", "dinov2", "size"] = "auto"
    mean: Mean = NO_MEAN
    std: Std = NO_STD
    trainable_blocks: Annotated[int, Within(0, 256)] | Literal["all"] = 1

    def __post_init__(self) -> None:
        check_fields(self, "spatial.")
        check_spatial(self.name, self.overrides)


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
    channels: Count = 256
    grid_stride: Annotated[int, Within(1, 1024)] = 14

    def __post_init__(self) -> None:
        check_fields(self, "fusion.")


@dataclass(frozen=True)
class PromptConfig:
    """The depth prompts, near before far, and what the decoder reads of them.

    Args:
        template: the sentence; ``{}`` is the place of the depth word or learned token.
        num_tokens: number of learned tokens; ignored where ``words`` is given.
        words: fixed phrases instead of learned tokens.
        init: learned tokens start from noise (std 0.02) or from ``DEPTH_WORDS``, interpolated.
        decoder_input: what the decoder reads: ``"concat"``, [logits, map], or the ``"logits"`` alone.
        train_text: whether the text tower trains: whole, not at all, or ``"all_but_blocks"``, its embeddings, last norm
            and projection around frozen blocks, as published for one frame.
    """

    template: Text = "This patch appears to be {}"
    num_tokens: Annotated[int, Within(1, MAX_PROMPTS)] = 256
    words: tuple[Text, ...] | None = None
    init: Literal["random", "words"] = "random"
    decoder_input: Literal["concat", "logits"] = "concat"
    train_text: TrainText = "all_but_blocks"

    def __post_init__(self) -> None:
        check_fields(self, "prompts.")
        if self.template.count("{}") != 1:
            raise ConfigError(f"prompts.template is {self.template!r}; it needs exactly one {{}} for the depth word.")
        if not 2 <= self.num_prompts <= MAX_PROMPTS:
            field = "num_tokens" if self.words is None else "words"
            raise ConfigError(
                f"prompts.{field} gives {self.num_prompts} prompts; at least 2 are needed to tell near from far, and "
                f"at most {MAX_PROMPTS} are taken."
            )

    @property
    def num_prompts(self) -> int:
        """How many prompts there are: one for each of the words, or else for each learned token."""
        return self.num_tokens if self.words is None else len(self.words)


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

    features: Count = 256
    channels: tuple[Count, Count, Count, Count] = (256, 512, 1024, 1024)
    head_channels: Count = 32
    scales: tuple[int, ...] = (0,)
    activation: Literal["relu", "sigmoid"] = "relu"

    def __post_init__(self) -> None:
        check_fields(self, "decoder.")
        if not 1 <= len(self.scales) <= 4 or not set(self.scales) <= {0, 1, 2, 3}:
            raise ConfigError(f"decoder.scales is {shown(self.scales)}; give one or more of 0, 1, 2, 3.")
