"""Monodepth2 with this encoder inside, from the user's own checkout and without a change to its files.

```python
from hybrid_encoder import adapters

adapters.monodepth2.patch()  # before Trainer(opts)
```

Codebases that grew out of Monodepth2 work the same way: :mod:`~hybrid_encoder.adapters.codebases` says what they call
their networks, and recognises their checkouts.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

from torch import nn
from torch.optim.optimizer import Optimizer

from hybrid_encoder.checkpoints.described import Description
from hybrid_encoder.config import DecoderConfig
from hybrid_encoder.errors import AdapterError, ConfigError
from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.models.neck import PyramidNeck

from .adoption import Adoption
from .codebases import SINGLE_FRAME
from .decoders import OWN_DECODER, DecoderChoice, Readers
from .encoders import EncoderLike, EncoderSource, Handover
from .language_loss import extend_compute_losses
from .networks import DepthDecoder, DepthEncoder, PoseDecoder, PoseEncoder
from .patching.construction import Answer, Call
from .patching.methods import ExtendedMethod
from .patching.replacing import Patch, Replacement, install
from .patching.repository import search_folders
from .patching.seams import Interface
from .recipes import CodebaseRecipe
from .recognition import find_recipes, recipes_named


def patch(
    encoder: EncoderLike | None = None,
    *,
    decoder: DecoderChoice | None = None,
    decoder_config: DecoderConfig | None = None,
    networks: str | ModuleType | Sequence[str | ModuleType] | None = None,
    pose: Literal["repository", "class_token"] = "repository",
    recipe: str | CodebaseRecipe | Sequence[CodebaseRecipe] | None = None,
    language_loss: float = 0.0,
    legacy: bool = True,
) -> Patch:
    """Put the hybrid encoder into a Monodepth2 checkout. Call it before ``Trainer(opts)``.

    ``networks.ResnetEncoder`` gives the hybrid encoder where one image is fed, and the repository's ResNet
    where several are (pose). The repository's own options still hold: ``--weights_init`` says whether the towers
    start from their public weights, ``--scales`` which disparities come out; ``--num_layers`` means the pose
    encoder alone.

    A training that goes on without the hybrid encoder is an AdapterError at the first step of its optimizer.

    Args:
        encoder: a preset (None is ``"paper"``) or a configuration, built anew for every training; a Hub id,
            folder or stage-1 ``.ckpt`` file, loaded by ``HybridDepthEncoder.from_pretrained``; or an encoder, used
            itself.
        decoder: ``"dpt"``, sigmoid disparity from a DPT decoder, or ``"repository"``, the codebase's own
            decoder on a pyramid made of our maps. None is ``"dpt"`` wherever that can take the place of its decoder.
        decoder_config: widths of the DPT decoder; the repository sets its scales and activation.
            None takes the preset's, and the paper's where the encoder is not a preset.
        networks: the modules that hold the classes of the recipe, or their names; None takes the recipe's.
        pose: ``"repository"`` leaves the pose network alone; ``"class_token"`` puts one linear layer on the DINO
            class tokens of the two frames in its place (with ``--pose_model_type separate_resnet``).
        recipe: what the codebase calls its networks: a name from ``codebases.SINGLE_FRAME``, or your own for another
            fork; None finds out from the files of the checkout.
        language_loss: weight of the pixel-language alignment loss (:func:`hybrid_encoder.losses.pixel_language_loss`)
            in the trainer's ``loss``, with the trainer's own depth as the target; it is logged under this name. Prompts
            stand for depths from ``--min_depth`` to ``--max_depth``, even in log-depth.
        legacy: also apply the shims of :mod:`~hybrid_encoder.adapters.patching.legacy` to that repository.

    Returns:
        The handle. The same call again returns the same one.

    Raises:
        AdapterError: the repository lacks what is needed, or is patched otherwise already; nothing changes.
        ConfigError: a setting that does not exist.
    """
    _check(decoder, pose, language_loss)
    source = EncoderSource.resolve(encoder)
    modules: Sequence[str | ModuleType] | None = [networks] if isinstance(networks, str | ModuleType) else networks
    recipes = _resolve(recipe, modules)
    chosen = _choose_decoder(decoder, recipes, bool(language_loss))
    settings = Settings(source, encoder is not None, chosen, decoder_config, pose, recipes, language_loss)
    return install(modules or recipes[0].networks, Monodepth2Builder(settings), legacy=legacy)


def _choose_decoder(asked: DecoderChoice | None, recipes: Sequence[CodebaseRecipe], guided: bool) -> DecoderChoice:
    """Return which decoder reads our maps: what was asked for, else what can work.

    Args:
        asked: None where nothing was.
        recipes: of the codebase.
        guided: whether the language loss is to read the logits, which the DPT decoder hands on.

    Raises:
        AdapterError: the codebase leaves no such choice.
        ConfigError: the language loss without the DPT decoder.
    """
    decoder: DecoderChoice = "dpt"
    if asked is not None:
        decoder = asked
    elif any(recipe.own_decoder for recipe in recipes) and not guided:
        decoder = "repository"
    for recipe in recipes:
        if decoder == "dpt" and recipe.own_decoder is not None:
            raise AdapterError(
                f"{recipe.name}'s decoder cannot be replaced by the DPT decoder, as {recipe.own_decoder}: {OWN_DECODER}"
            )
        if decoder == "repository" and recipe.dpt_decoder is not None:
            raise AdapterError(
                f"{recipe.name}'s own decoder cannot read the hybrid encoder's maps, as {recipe.dpt_decoder}: "
                "decoder='dpt' (--decoder dpt), the default there, takes its place."
            )
    if guided and decoder != "dpt":
        raise ConfigError(f"language_loss needs decoder='dpt', which hands the logits on; decoder is {decoder!r}.")
    return decoder


def _resolve(
    recipe: str | CodebaseRecipe | Sequence[CodebaseRecipe] | None, modules: Sequence[str | ModuleType] | None
) -> tuple[CodebaseRecipe, ...]:
    """Return the recipes that were asked for, or those of the checkout."""
    if isinstance(recipe, str):
        return recipes_named(recipe, SINGLE_FRAME)
    if isinstance(recipe, CodebaseRecipe):
        return (recipe,)
    if recipe:
        return tuple(recipe)
    return find_recipes(search_folders(modules, "networks"), SINGLE_FRAME)


def _check(decoder: str | None, pose: str, language_loss: float) -> None:
    if decoder not in (None, "dpt", "repository"):
        raise ConfigError(f"decoder is {decoder!r}; it must be 'dpt' or 'repository'.")
    if pose not in ("repository", "class_token"):
        raise ConfigError(f"pose is {pose!r}; it must be 'repository' or 'class_token'.")
    if not 0 <= language_loss < math.inf:
        raise ConfigError(f"language_loss is {language_loss}; it is a weight, 0 or more.")


@dataclass(frozen=True)
class Settings:
    """What is built: the arguments of :func:`patch`, with the defaults filled in.

    ``named`` says whether the encoder was; a decoder configuration of None is the one that goes with the encoder.
    """

    encoder: EncoderSource
    named: bool = field(compare=False)
    decoder: DecoderChoice
    decoder_config: DecoderConfig | None
    pose: str
    recipes: tuple[CodebaseRecipe, ...]
    language_loss: float


class Monodepth2Builder:
    """Builds the networks of Monodepth2 and of the codebases that a recipe describes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._handover = Handover()  # from a pose encoder that is built first to the depth encoder
        self._leading: weakref.ref[HybridDepthEncoder] | None = None  # of a depth encoder that is built first
        self._num_prompts: int | None = None  # of the depth encoder that was built last
        self._trainers = extend_compute_losses(settings.language_loss)
        self._adoption = Adoption(settings.named)
        self._readers = Readers(settings.decoder, settings.decoder_config, self._adoption)

    @property
    def required(self) -> Mapping[type[nn.Module], str]:
        needed: dict[type[nn.Module], str] = {DepthEncoder: "depth encoder"}
        return needed | ({DepthDecoder: "depth decoder"} if self.settings.decoder == "dpt" else {})

    def replacements(self) -> Sequence[Replacement]:
        encoders: list[Replacement] = []
        decoders: list[Replacement] = []
        for recipe in self.settings.recipes:
            own = functools.partial(self.build_own_decoder, recipe)
            decoders += self._readers.replacements(recipe.decoders, self.build_decoder, own)
            read = tuple(name for name in (recipe.pretrained, recipe.frames) if name is not None)
            build = functools.partial(self.build_encoder, recipe)
            encoders.append(Replacement(recipe.encoder, build, Interface(read, ("images",))))
        others: list[Replacement] = []
        if self.settings.pose == "class_token":
            if all(recipe.encoder != "ResnetEncoder" for recipe in self.settings.recipes):
                # Otherwise the same name builds the pose encoder, too.
                others.append(Replacement("ResnetEncoder", self.build_resnet, Interface(("num_input_images",))))
            others.append(Replacement("PoseDecoder", build_pose_decoder, Interface(("num_ch_enc",))))
            others.append(Replacement("PoseCNN", refuse_pose_cnn, optional=True))
        return decoders + encoders + others

    def guard(self, cls: type[nn.Module]) -> Answer | None:
        return self._readers.guard(cls)

    def read(self, loaded: Any) -> None:
        self._adoption.read(loaded)

    def before_step(self, optimizer: Optimizer) -> None:
        """Leave the optimizer alone."""

    def extensions(self) -> Sequence[ExtendedMethod]:
        return [self._trainers] if self.settings.language_loss else []

    # -- encoders ----------------------------------------------------------------------------------------

    def build_encoder(self, recipe: CodebaseRecipe, call: Call) -> nn.Module:
        """Build the depth encoder for one image; more images go to the pose encoder."""
        if any(call.arguments.get(name) == value for name, value in recipe.left_alone):
            return call.build_own()
        num_frames = call.arguments.get(recipe.frames or "num_input_images", 1)
        pretrained = None if recipe.pretrained is None else bool(call[recipe.pretrained])
        if num_frames != 1:
            return self._build_pose_encoder(call, num_frames, pretrained)
        encoder = self._depth_encoder(pretrained)
        network = self._around(recipe, encoder)
        owner = call.owner(network)
        self._readers.add(owner)

        def rebuild(description: Description) -> nn.Module:
            return self._around(recipe, HybridDepthEncoder(description.config, pretrained=False))

        self._adoption.leave_encoder_open(owner, rebuild, pretrained)
        return network

    def _around(self, recipe: CodebaseRecipe, encoder: HybridDepthEncoder) -> DepthEncoder:
        """Put an encoder behind the codebase's interface."""
        self._num_prompts = None if encoder.prompts is None else encoder.prompts.num_prompts
        neck = None
        if self.settings.decoder != "dpt":
            neck = PyramidNeck(encoder.feature_info.channels(), recipe.channels, recipe.strides)
        return DepthEncoder(encoder, neck, recipe.mean, recipe.std)

    def build_resnet(self, call: Call) -> nn.Module:
        """Build the pose encoder of a codebase whose depth encoder has another name than ``ResnetEncoder``."""
        num_frames = call["num_input_images"]
        if num_frames == 1:
            return call.build_own()
        return self._build_pose_encoder(call, num_frames, bool(call.arguments.get("pretrained", False)))

    def _build_pose_encoder(self, call: Call, num_frames: int, pretrained: bool | None) -> nn.Module:
        """Build the pose encoder for two images, around the depth encoder's DINO tower.

        Args:
            call: which asks for it.
            num_frames: how many images it is to read at once.
            pretrained: what the call asks for; None where the codebase cannot say.
        """
        if self.settings.pose == "repository":
            return call.build_own()
        if num_frames != 2:
            raise AdapterError(
                f"the pose encoder is asked to read {num_frames} images; pose='class_token' reads two: "
                "train with --pose_model_input pairs."
            )
        # Further pose encoders of a training share its encoder, too.
        encoder = (self._leading and self._leading()) or self._handover.look("depth")
        if encoder is not None:
            return PoseEncoder(encoder)
        # It comes first; or alone, for evaluation, and gets the weights of its own file.
        encoder = self.settings.encoder.build(pretrained is not False)
        network = PoseEncoder(encoder)
        self._handover.leave("depth", encoder, pretrained is not False, call.owner(network))
        return network

    def _depth_encoder(self, pretrained: bool | None) -> HybridDepthEncoder:
        """Return the pose encoder's, where that came first, or else a new one.

        Args:
            pretrained: what the call asks for; None where the codebase cannot say.
        """
        source = self._adoption.source("DepthEncoder", self.settings.encoder, pretrained)
        encoder = self._handover.take("depth", None if source.brings_weights else pretrained)
        if encoder is None:
            encoder = source.build(pretrained is not False)
            self._leading = weakref.ref(encoder)
        return encoder

    # -- decoders ----------------------------------------------------------------------------------------

    def build_decoder(self, call: Call) -> nn.Module:
        """Build the DPT decoder on our features; those of another encoder go to the repository's decoder."""
        # A decoder with more outputs, as for predictive masks, gives no disparity: the loss needs one alone.
        disparity = call.arguments.get("num_output_channels", 1) == 1
        ours = self._readers.encoder_of(call["num_ch_enc"]) is not None
        return self._readers.build(
            call, self._count_prompts() if self.settings.language_loss and disparity and ours else 0
        )

    def build_own_decoder(self, recipe: CodebaseRecipe, call: Call) -> nn.Module:
        """Build the repository's decoder on our pyramid."""
        try:
            return call.build_own()
        except IndexError as error:
            raise AdapterError(
                f"{call.real.__name__} reads more than the {len(recipe.strides)} levels of recipe {recipe.name!r}, "
                f"strides {recipe.strides}: give a recipe= with all that the decoder reads."
            ) from error

    def _count_prompts(self) -> int:
        """Return how many prompts the language loss compares."""
        if self._num_prompts is None:
            raise ConfigError(
                "language_loss is set, and the encoder has no prompts; take one that has, or leave it at 0."
            )
        if not self._trainers.classes:
            raise AdapterError(
                "language_loss is set, and no class with compute_losses(inputs, outputs), as Monodepth2's Trainer has, "
                "was imported: there is no loss to add to. Leave language_loss at 0 where nothing trains."
            )
        return self._num_prompts


def build_pose_decoder(call: Call) -> nn.Module:
    """Build the linear layer on two class tokens."""
    channels = list(call["num_ch_enc"])
    if len(channels) != 1:
        raise AdapterError(
            f"the pose network is asked to read {len(channels)} maps of the depth encoder; pose='class_token' "
            "reads class tokens: train with --pose_model_type separate_resnet."
        )
    return PoseDecoder(channels)


def refuse_pose_cnn(call: Call) -> nn.Module:
    """Raise AdapterError: there is no encoder whose class tokens it could read."""
    raise AdapterError(
        "PoseCNN reads images; pose='class_token' takes its place: train with --pose_model_type separate_resnet, "
        "or patch with pose='repository'."
    )
