"""ManyDepth with this encoder inside, from the user's own checkout and without a change to its files.

```python
from hybrid_encoder import adapters

adapters.manydepth.patch()  # before Trainer(opts)
```
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

from torch import nn
from torch.optim.optimizer import Optimizer

from hybrid_encoder.checkpoints.described import Description
from hybrid_encoder.config import PRESETS, DecoderConfig, HybridMatchingConfig
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.models.matching import HybridMatchingEncoder, Match
from hybrid_encoder.models.neck import PyramidNeck

from .adoption import Adoption
from .codebases import MULTI_FRAME
from .decoders import DecoderChoice, Readers
from .encoders import EncoderLike, EncoderSource, Handover
from .networks import DepthDecoder, DepthEncoder, MatchingEncoder
from .patching.construction import Answer, Call
from .patching.methods import ExtendedMethod
from .patching.replacing import Patch, Replacement, install
from .patching.repository import search_folders
from .patching.seams import Interface
from .published_training import PublishedTraining
from .recipes import MatchingRecipe
from .recognition import find_recipes, recipes_named

STUDENT_INPUTS = ("current_image", "lookup_images", "poses", "K", "invK")
BINS = ("adaptive_bins", "min_depth_bin", "max_depth_bin", "depth_binning", "num_depth_bins")


def patch(
    encoder: EncoderLike | None = None,
    *,
    decoder: DecoderChoice = "dpt",
    decoder_config: DecoderConfig | None = None,
    networks: str | ModuleType | Sequence[str | ModuleType] | None = None,
    teacher: Literal["hybrid", "repository"] = "hybrid",
    share_frozen: bool = False,
    match: Match = "semantic",
    recipe: str | MatchingRecipe | None = None,
    training: Literal["repository", "published"] = "repository",
    legacy: bool = True,
) -> Patch:
    """Put the hybrid encoder into a ManyDepth checkout. Call it before ``Trainer(opts)``.

    ``networks.ResnetEncoderMatching`` gives a ``HybridMatchingEncoder``, with the depth bins that the repository asks
    for and for any image size; ``networks.ResnetEncoder`` gives the single-frame teacher where one image is fed, and
    the repository's ResNet where two are (pose). Options, losses, freezing and checkpoints are the repository's.

    Args:
        encoder: a preset (None is ``"paper"``), whose multi-frame configuration the student gets; or a configuration,
            Hub id, folder or encoder as in :func:`hybrid_encoder.adapters.monodepth2.patch`, for both.
        decoder: ``"dpt"``, sigmoid disparity from a DPT decoder, or ``"repository"``, the codebase's own decoder on
            a pyramid made of our maps; for the student and a hybrid teacher.
        decoder_config: widths of the DPT decoder; None takes the preset's.
        networks: the modules that hold the networks, or their names; None takes the recipe's.
        teacher: ``"hybrid"``, or ``"repository"``, which leaves the teacher a ResNet.
        share_frozen: hold one copy of what is frozen in student and hybrid teacher alike.
        match: in which tower's first map lookup frames are matched: ``"semantic"``, ``"spatial"`` or ``"both"``.
        recipe: what the codebase calls its networks: a name from ``codebases.MULTI_FRAME``, or your own for another
            fork; None finds out from the files of the checkout.
        training: ``"repository"`` leaves the optimizer alone; ``"published"`` clips gradients at norm 10 and decays
            weights as AdamW does, before each step of the trainer's Adam. The learning rate stays the trainer's: the
            published one is ``--learning_rate 1e-5``, the batch size ``--batch_size 12``.
        legacy: also apply the shims of :mod:`~hybrid_encoder.adapters.patching.legacy` to that repository.

    Returns:
        The handle. The same call again returns the same one.

    Raises:
        AdapterError: the repository lacks what is needed, or is patched otherwise already; nothing changes.
        ConfigError: a setting that does not exist.
    """
    for name, value, choices in (
        ("decoder", decoder, ("dpt", "repository")),
        ("teacher", teacher, ("hybrid", "repository")),
        ("match", match, ("semantic", "spatial", "both")),
        ("training", training, ("repository", "published")),
    ):
        if value not in choices:
            raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}.")
    source = EncoderSource.resolve(encoder)
    modules: Sequence[str | ModuleType] | None = [networks] if isinstance(networks, str | ModuleType) else networks
    if isinstance(recipe, str):
        recipe = recipes_named(recipe, MULTI_FRAME)[0]
    found = recipe or find_recipes(search_folders(modules, "manydepth"), MULTI_FRAME)[0]
    named = encoder is not None
    settings = Settings(source, named, decoder, decoder_config, teacher, share_frozen, match, found, training)
    return install(modules or found.networks, ManyDepthBuilder(settings), legacy=legacy)


@dataclass(frozen=True)
class Settings:
    """What is built: the arguments of :func:`patch`, with the defaults filled in.

    ``named`` says whether the encoder was; a decoder configuration of None is the one that goes with the encoder.
    """

    encoder: EncoderSource
    named: bool = field(compare=False)
    decoder: DecoderChoice
    decoder_config: DecoderConfig | None
    teacher: str
    share_frozen: bool
    match: Match
    recipe: MatchingRecipe
    training: str


class ManyDepthBuilder:
    """Builds ManyDepth's student, which matches several frames, and its single-frame teacher."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._handover = Handover()  # between student and teacher, which share what is frozen
        self._adoption = Adoption(settings.named)
        others = settings.teacher == "repository"
        self._readers = Readers(settings.decoder, settings.decoder_config, self._adoption, others=others)
        self._training = PublishedTraining() if settings.training == "published" else None

    @property
    def required(self) -> Mapping[type[nn.Module], str]:
        needed: dict[type[nn.Module], str] = {MatchingEncoder: "multi-frame encoder (the student)"}
        return needed | ({DepthDecoder: "depth decoder"} if self.settings.decoder == "dpt" else {})

    def replacements(self) -> Sequence[Replacement]:
        recipe = self.settings.recipe
        student = Interface(("pretrained", *BINS), STUDENT_INPUTS)
        teacher = Interface(("pretrained", "num_input_images"), ("images",))
        return [
            *self._readers.replacements(
                recipe.decoders,
                self._readers.build,
                lambda call: call.build_own(),
                num_optional=len(recipe.decoders) - 1,
            ),
            Replacement(recipe.teacher, self.build_teacher, teacher),
            *(
                Replacement(name, self.build_student, student, optional=name != recipe.students[0])
                for name in recipe.students
            ),
        ]

    def guard(self, cls: type[nn.Module]) -> Answer | None:
        return self._readers.guard(cls)

    def read(self, loaded: Any) -> None:
        self._adoption.read(loaded)

    def before_step(self, optimizer: Optimizer) -> None:
        if self._training is not None:
            self._training.before_step(optimizer)

    def extensions(self) -> Sequence[ExtendedMethod]:
        return []

    def build_student(self, call: Call) -> nn.Module:
        """Build the matching encoder, with the depth bins of the call."""
        pretrained = bool(call["pretrained"])
        source = self._adoption.source("MatchingEncoder", student_source(self.settings.encoder), pretrained)
        encoder = source.build(pretrained)
        bins = {name: call[name] for name in BINS}

        def around(encoder: HybridDepthEncoder, match: Match) -> MatchingEncoder:
            return MatchingEncoder(HybridMatchingEncoder(encoder, match=match, **bins), self._neck(encoder))

        described = None if pretrained else self._adoption.description("MatchingEncoder")
        student = around(encoder, self.settings.match if described is None else described.config.match)
        self._readers.add(call.owner(student))

        def rebuild(description: Description) -> nn.Module:
            config = description.config
            return around(HybridDepthEncoder(config.encoder, pretrained=False), config.match)

        self._adoption.leave_encoder_open(call.owner(student), rebuild, pretrained)
        if self.settings.share_frozen and self.settings.teacher == "hybrid":
            teacher = self._meet("student", "teacher", encoder, pretrained, call.owner(student))
            if teacher is not None:
                share_frozen(encoder, teacher)
        return student

    def build_teacher(self, call: Call) -> nn.Module:
        """Build the teacher for one image, where it is ours; the rest is the repository's."""
        if self.settings.teacher == "repository" or call["num_input_images"] != 1:
            return call.build_own()
        pretrained = bool(call["pretrained"])
        source = self._adoption.source("DepthEncoder", self.settings.encoder, pretrained)
        encoder = source.build(pretrained)
        if encoder is source.origin:
            encoder = copy.deepcopy(encoder)  # the student has the encoder itself
        teacher = DepthEncoder(encoder, self._neck(encoder))
        self._readers.add(call.owner(teacher))

        def rebuild(description: Description) -> nn.Module:
            encoder = HybridDepthEncoder(description.config, pretrained=False)
            return DepthEncoder(encoder, self._neck(encoder))

        self._adoption.leave_encoder_open(call.owner(teacher), rebuild, pretrained)
        if self.settings.share_frozen:
            student = self._meet("teacher", "student", encoder, pretrained, call.owner(teacher))
            if student is not None:
                share_frozen(student, encoder)
        return teacher

    def _meet(
        self, role: str, other: str, encoder: HybridDepthEncoder, pretrained: bool, network: nn.Module
    ) -> HybridDepthEncoder | None:
        """Return the other role's encoder if that was built before; else leave this one for it."""
        found = self._handover.take(role)
        if found is None:
            self._handover.leave(other, encoder, pretrained, network)
        return found

    def _neck(self, encoder: HybridDepthEncoder) -> PyramidNeck | None:
        return None if self.settings.decoder == "dpt" else PyramidNeck(encoder.feature_info.channels())


def student_source(source: EncoderSource) -> EncoderSource:
    """Return what the student is built from: a preset's multi-frame configuration, or else the source itself."""
    for name, preset in PRESETS.items():
        if source.origin == preset.encoder:
            return EncoderSource(HybridMatchingConfig.preset_encoder(name))
    return source


def share_frozen(student: HybridDepthEncoder, teacher: HybridDepthEncoder) -> int:
    """Let the teacher hold the student's parameters where neither is to train them.

    These are what the configuration or ``set_trainable`` froze, and what is frozen by hand now.

    Args:
        student: keeps its parameters.
        teacher: of the same layout where it is to share.

    Returns:
        How many numbers are held once instead of twice.

    Raises:
        ConfigError: nothing is frozen in both.
    """
    frozen = {id(parameter) for model in (student, teacher) for parameter in model.frozen_parameters()}
    frozen |= {id(x) for model in (student, teacher) for x in model.parameters() if not x.requires_grad}
    held = {name: parameter for name, parameter in student.named_parameters() if id(parameter) in frozen}
    shared = 0
    for path, module in teacher.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            other = held.get(f"{path}.{name}" if path else name)
            if other is None or id(parameter) not in frozen or other.shape != parameter.shape:
                continue
            setattr(module, name, other)
            shared += other.numel()
    if not shared:
        raise ConfigError(
            "share_frozen is set, and no parameter is frozen in student and teacher alike: freeze a tower in the "
            "configuration (trainable_blocks=0), or leave share_frozen out."
        )
    return shared
