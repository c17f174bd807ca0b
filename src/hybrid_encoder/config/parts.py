"""The parts of a model as frozen data: towers, fusion, prompts, decoder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from typing_extensions import Self

from hybrid_encoder.config.architectures import (
    NO_MEAN,
    NO_STD,
    OPEN_CLIP,
    ModelName,
    check_spatial,
    own_normalisation,
)
from hybrid_encoder.config.checking import Count, Text, Within, check_fields, check_table, check_value, shown
from hybrid_encoder.errors import ConfigError

MAX_PROMPTS = 16384
MIN_SIZE = 32  # pixels: the least height and width that an encoder takes

_MeanValue = Annotated[float, Within(-1000, 1000)]
_StdValue = Annotated[float, Within(1e-3, 1000)]
Mean = tuple[_MeanValue, _MeanValue, _MeanValue]
Std = tuple[_StdValue, _StdValue, _StdValue]
Block = Annotated[int, Within(0, 255)]
_Token = Annotated[int, Within(0, 2_000_000)]
TrainText = bool | Literal["all_but_blocks"]
Readout = Literal["published", "joint"]

_OWN: Any = None  # until the model is known

STREET = "street"
"""Names, as ``pretrained``, the weights that ship with the package for towers of the preset ``tiny``."""

TOWER_KIND = "hybrid_encoder.kind"
"""Names what a file of weights of one tower says beside its tensors: of which kind it is, ``"clip"`` or ``"dino"``."""

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


class _Tower:
    """What the configurations of both towers have in common: the normalisation of RGB in [0, 1]."""

    name: str
    mean: Mean
    std: Std

    def _take_own_normalisation(self) -> None:
        """Fill in what was left out; a frozen dataclass has no other way."""
        mean, std = own_normalisation(str(self.name)) or (NO_MEAN, NO_STD)
        for field_name, own in (("mean", mean), ("std", std)):
            if getattr(self, field_name) is None:
                object.__setattr__(self, field_name, own)

    def without_weights(self) -> Self:
        """Return a copy that names no weights: what is left says how the tower is built and trained."""
        none = None if isinstance(self, SemanticConfig) else False
        return dataclasses.replace(self, pretrained=none)  # type: ignore[type-var]  # of the dataclasses below

    def normalised(self, mean: Mean, std: Std) -> Self:
        """Return a copy with the mean and std of a published recipe; a family with its own keeps what it has."""
        if own_normalisation(self.name):
            return self
        return dataclasses.replace(self, mean=mean, std=std)  # type: ignore[type-var]  # of the dataclasses below


@dataclass(frozen=True)
class SemanticConfig(_Tower):
    """The CLIP tower: an open_clip model with a ResNet, ViT, EVA, ConvNeXt or FastViT image tower (CLIP, SigLIP, ...).

    Args:
        name: open_clip architecture. OpenAI's weights need the ``-quickgelu`` names.
        pretrained: open_clip weight tag for a new model; ``"street"`` for the weights that ship with the package, which
            fit the sizes of the preset ``tiny``; or a file of weights, such as ``pretrain_clip`` writes, of which a
            saved model keeps the name alone. None for random weights.
        overrides: sizes laid over the architecture's configuration, for example ``{"vision_cfg": {"width": 16}}``;
            those of :data:`hybrid_encoder.config.architectures.OPEN_CLIP`.
        mean, std: normalisation of RGB in [0, 1]. Left out, they are the model's own
            (:func:`hybrid_encoder.config.architectures.own_normalisation`); the published models feed raw [0, 1].
        trainable: whether the image tower trains.

    Raises:
        ConfigError: a value of another type or out of its range, here as in all configurations.
    """

    name: ModelName = "RN50-quickgelu"
    pretrained: Text | None = "openai"
    overrides: dict[str, Any] = field(default_factory=dict)
    mean: Mean = _OWN
    std: Std = _OWN
    trainable: bool = True

    def __post_init__(self) -> None:
        self._take_own_normalisation()
        check_fields(self, "semantic.")
        check_table(OPEN_CLIP, self.overrides, "semantic.overrides")


@dataclass(frozen=True)
class SpatialConfig(_Tower):
    """The DINO tower: a timm vision transformer or ConvNeXt, or ``hf:<repository or folder>`` for transformers.

    Args:
        name: timm model name, or ``hf:`` and a Hub id or folder.
        pretrained: whether a new model starts from the public weights; ``"street"`` for the weights that ship with the
            package, as of the semantic tower; or a file of weights that ``pretrain_dino`` has written.
        overrides: sizes of the timm model (``embed_dim``, ``depth``, ...), those of
            :data:`hybrid_encoder.config.architectures.TIMM`; a model of transformers keeps its architecture here.
        blocks: 0-based blocks whose outputs are the four maps; None spreads them evenly, or takes a ConvNeXt's stages.
        position_embedding: how a learned position grid is resampled. ``"dinov2"`` is the rule of
            the DINOv2 code (bicubic, scale factor (n + 0.1) / n0, no antialias); ``"size"`` is bicubic
            to the exact size with antialias (timm's); ``"auto"`` takes what the model was made with.
        mean, std: normalisation of RGB in [0, 1]; left out, the model's own as for the semantic tower.
        trainable_blocks: how many of the last blocks train; ``"all"`` trains the whole tower.
    """

    name: Text = "vit_base_patch14_dinov2.lvd142m"
    pretrained: bool | Text = True
    overrides: dict[str, Any] = field(default_factory=dict)
    blocks: tuple[Block, Block, Block, Block] | None = None
    position_embedding: Literal["auto", "dinov2", "size"] = "auto"
    mean: Mean = _OWN
    std: Std = _OWN
    trainable_blocks: Annotated[int, Within(0, 256)] | Literal["all"] = 1

    def __post_init__(self) -> None:
        self._take_own_normalisation()
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
        readout: what pixels are compared with the prompts by. ``"published"``: each of the four maps by itself, which
            gives four logits. ``"joint"``: all four together, as the coarse stage compares patches, so that what words
            learned there still holds; the four levels share these logits.
        train_text: whether the text tower trains: whole, not at all, or ``"all_but_blocks"``, its embeddings, last norm
            and projection around frozen blocks, as published for one frame.
        token_ids: texts and their tokens, as a tokenizer of the Hugging Face Hub gave them (SigLIP's, say). A model
            fills this in, so that its checkpoint is loaded without asking the Hub.
    """

    template: Text = "This patch appears to be {}"
    num_tokens: Annotated[int, Within(1, MAX_PROMPTS)] = 256
    words: tuple[Text, ...] | None = None
    init: Literal["random", "words"] = "random"
    decoder_input: Literal["concat", "logits"] = "concat"
    readout: Readout = "published"
    train_text: TrainText = "all_but_blocks"
    token_ids: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, "prompts.")
        for text, ids in self.token_ids.items():
            check_value(tuple[_Token, ...], ids, f"prompts.token_ids[{shown(text)}]")
        if self.template.count("{}") != 1:
            raise ConfigError(f"prompts.template is {self.template!r}; it needs exactly one {{}} for the depth word.")
        if not 2 <= self.num_prompts <= MAX_PROMPTS:
            name = "num_tokens" if self.words is None else "words"
            raise ConfigError(
                f"prompts.{name} gives {self.num_prompts} prompts; at least 2 are needed to tell near from far, and "
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
