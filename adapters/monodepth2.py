"""Monodepth2 with this encoder inside, from the user's own checkout and without a change to its files.

```python
from hybrid_encoder import adapters

adapters.monodepth2.patch()  # before Trainer(opts)
```

Codebases that grew out of Monodepth2 work the same way: :mod:`~hybrid_encoder.adapters.recipes` says what they call
their networks.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from torch import nn

from hybrid_encoder.config import DecoderConfig
from hybrid_encoder.errors import AdapterError, ConfigError
from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.models.neck import PyramidNeck

from .encoders import EncoderLike, EncoderSource, Handover
from .language_loss import extend_compute_losses
from .networks import DepthDecoder, DepthEncoder, PoseDecoder, PoseEncoder
from .patching.methods import ExtendedMethod
from .patching.replacing import Call, Patch, Replacement, install
from .recipes import CodebaseRecipe, find_recipe, recipe_named


def patch(
    encoder: EncoderLike | None = None,
    *,
    decoder: Literal["dpt", "monodepth2"] = "dpt",
    decoder_config: DecoderConfig | None = None,
    networks: str | ModuleType | None = None,
    pose: Literal["repository", "class_token"] = "repository",
    recipe: str | CodebaseRecipe | None = None,
    language_loss: float = 0.0,
    legacy: bool = True,
) -> Patch:
    """Put the hybrid encoder into a Monodepth2 checkout. Call it before ``Trainer(opts)``.

    ``networks.ResnetEncoder`` gives the hybrid encoder where one image is fed, and the repository's ResNet
    where several are (pose). The repository's own options still hold: ``--weights_init`` says whether the towers
    start from their public weights, ``--scales`` which disparities come out; ``--num_layers`` means the pose
    encoder alone.

    Args:
        encoder: a preset (None is ``"paper"``) or a configuration, built anew for every training; a Hub id,
            folder or stage-1 ``.ckpt`` file, loaded by ``HybridDepthEncoder.from_pretrained``; or an encoder, used
            itself.
        decoder: ``"dpt"``, sigmoid disparity from a DPT decoder, or ``"monodepth2"``, the repository's own
            decoder on a pyramid made of our maps.
        decoder_config: widths of the DPT decoder; the repository sets its scales and activation.
            None takes the preset's, and the paper's where the encoder is not a preset.
        networks: the package that holds ``ResnetEncoder`` and ``DepthDecoder``, or its name; None is
            ``"networks"``.
        pose: ``"repository"`` leaves the pose network alone; ``"class_token"`` puts one linear layer on the DINO
            class tokens of the two frames in its place (with ``--pose_model_type separate_resnet``).
        recipe: what the codebase calls its networks: a name from ``recipes.RECIPES``, or your own for another fork;
            None finds out.
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
    widths = decoder_config or source.decoder_config
    chosen = recipe_named(recipe) if isinstance(recipe, str) else recipe

    def make_builder(module: ModuleType) -> Monodepth2Builder:
        found = chosen or find_recipe(module)
        return Monodepth2Builder(Settings(source, decoder, widths, pose, found, language_loss))

    return install("networks" if networks is None else networks, make_builder, legacy=legacy)


def _check(decoder: str, pose: str, language_loss: float) -> None:
    if decoder not in ("dpt", "monodepth2"):
        raise ConfigError(f"decoder is {decoder!r}; it must be 'dpt' or 'monodepth2'.")
    if pose not in ("repository", "class_token"):
        raise ConfigError(f"pose is {pose!r}; it must be 'repository' or 'class_token'.")
    if not 0 <= language_loss < math.inf:
        raise ConfigError(f"language_loss is {language_loss}; it is a weight, 0 or more.")
    if language_loss and decoder != "dpt":
        raise ConfigError(f"language_loss needs decoder='dpt', which hands the logits on; decoder is {decoder!r}.")


@dataclass(frozen=True)
class Settings:
    """What is built: the arguments of :func:`patch`, with the defaults filled in."""

    encoder: EncoderSource
    decoder: str
    decoder_config: DecoderConfig
    pose: str
    recipe: CodebaseRecipe
    language_loss: float


class Monodepth2Builder:
    """Builds the networks of Monodepth2 and of the codebases that a recipe describes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._handover = Handover()  # from a pose encoder that is built first to the depth encoder
        self._leading: weakref.ref[HybridDepthEncoder] | None = None  # of a depth encoder that is built first
        self._num_prompts: int | None = None  # of the depth encoder that was built last
        self._trainers = extend_compute_losses(settings.language_loss)

    def replacements(self) -> Sequence[Replacement]:
        recipe = self.settings.recipe
        read_by_encoder = tuple(name for name in (recipe.pretrained, recipe.frames) if name is not None)
        read_by_decoder = ("num_ch_enc", "scales", "num_output_channels")
        if self.settings.decoder == "dpt":
            found = [Replacement(x, self.build_decoder, read_by_decoder, (DepthDecoder,)) for x in recipe.decoders]
        else:
            found = [Replacement(x, self.build_own_decoder, read_by_decoder) for x in recipe.decoders]
        found.append(Replacement(recipe.encoder, self.build_encoder, read_by_encoder, (DepthEncoder, PoseEncoder)))
        if self.settings.pose == "class_token":
            if recipe.encoder != "ResnetEncoder":  # otherwise the same name builds the pose encoder, too
                found.append(Replacement("ResnetEncoder", self.build_resnet, ("num_input_images",), (PoseEncoder,)))
            found.append(Replacement("PoseDecoder", build_pose_decoder, ("num_ch_enc",), (PoseDecoder,)))
            found.append(Replacement("PoseCNN", refuse_pose_cnn))
        return found

    def extensions(self) -> Sequence[ExtendedMethod]:
        return [self._trainers] if self.settings.language_loss else []

    # -- encoders ----------------------------------------------------------------------------------------

    def build_encoder(self, call: Call) -> nn.Module:
        """Build the depth encoder for one image; more images go to the pose encoder."""
        recipe = self.settings.recipe
        num_frames = 1 if recipe.frames is None else call[recipe.frames]
        pretrained = None if recipe.pretrained is None else bool(call[recipe.pretrained])
        if num_frames != 1:
            return self._build_pose_encoder(call, num_frames, pretrained)
        encoder = self._depth_encoder(pretrained)
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
        self._handover.leave("depth", encoder, pretrained is not False, network)
        return network

    def _depth_encoder(self, pretrained: bool | None) -> HybridDepthEncoder:
        """Return the pose encoder's, where that came first, or else a new one.

        Args:
            pretrained: what the call asks for; None where the codebase cannot say.
        """
        source = self.settings.encoder
        encoder = self._handover.take("depth", None if source.brings_weights else pretrained)
        if encoder is None:
            encoder = source.build(pretrained is not False)
            self._leading = weakref.ref(encoder)
        return encoder

    # -- decoders ----------------------------------------------------------------------------------------

    def build_decoder(self, call: Call) -> nn.Module:
        """Build the DPT decoder on our features; those of another encoder go to the repository's decoder."""
        channels = list(call["num_ch_enc"])
        if channels[0] != 0:  # ours begin with an empty map
            return call.build_own()
        outputs = call["num_output_channels"]
        # A decoder with more outputs, as for predictive masks, gives no disparity: the loss needs one alone.
        num_prompts = self._count_prompts() if self.settings.language_loss and outputs == 1 else 0
        return DepthDecoder(channels, call["scales"], outputs, self.settings.decoder_config, num_prompts)

    def build_own_decoder(self, call: Call) -> nn.Module:
        """Build the repository's decoder on our pyramid."""
        try:
            return call.build_own()
        except IndexError as error:
            recipe = self.settings.recipe
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
