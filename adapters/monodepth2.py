"""Monodepth2 with this encoder inside, from the user's own checkout and without a change to its files.

```python
from hybrid_encoder import adapters

adapters.monodepth2.patch()  # before Trainer(opts)
```

Codebases that grew out of Monodepth2 work the same way: :mod:`~hybrid_encoder.adapters.recipes` says what they call
their networks.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

from torch import nn

from hybrid_encoder.config import DecoderConfig
from hybrid_encoder.errors import AdapterError, ConfigError
from hybrid_encoder.language.depth_words import bin_centers
from hybrid_encoder.losses.pixel_language import PixelLanguageLoss
from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.models.neck import PyramidNeck

from . import recipes
from .networks import DepthDecoder, DepthEncoder, PoseDecoder, PoseEncoder
from .patching import replacing
from .patching.replacing import Source
from .recipes import Recipe

# What pose from class tokens replaces besides, and the arguments that say what to build.
NEEDED_FOR_POSE: dict[str, tuple[str, ...]] = {
    "ResnetEncoder": ("num_input_images",),
    "PoseDecoder": ("num_ch_enc",),
    "PoseCNN": (),
}


@dataclasses.dataclass(frozen=True)
class Settings(replacing.Settings):
    """What a patch builds. Two calls ask for the same if these are equal."""

    pose: str
    recipe: Recipe
    language_loss: float

    @property
    def needed(self) -> dict[str, tuple[str, ...]]:
        # The recipe's twice: its decoder comes first, and its arguments hold.
        return self.recipe.needed | (NEEDED_FOR_POSE if self.pose == "class_token" else {}) | self.recipe.needed


class Patched(replacing.NetworksPatch[Settings]):
    """What :func:`patch` replaced, and the way back: ``undo()``, or leave the ``with`` block."""

    _encoder: weakref.ref[HybridDepthEncoder] | None = None
    _trainers: dict[type, Callable[..., Any]]  # and their own compute_losses

    def replace_networks(self) -> None:
        self._trainers = {}
        settings = self.settings
        recipe = settings.recipe
        for decoder in recipe.decoders:
            if settings.decoder == "dpt":
                self.dispatch(decoder, (DepthDecoder,), self._make_decoder)
            else:
                self.dispatch(decoder, (), functools.partial(self._make_own_decoder, getattr(self.networks, decoder)))
        self.dispatch(recipe.encoder, (DepthEncoder, PoseEncoder), self._make_encoder)
        if settings.pose == "class_token":
            if recipe.encoder != "ResnetEncoder":
                self.dispatch("ResnetEncoder", (PoseEncoder,), self._make_pose_encoder)
            self.dispatch("PoseDecoder", (PoseDecoder,), self._make_pose)
            self.dispatch("PoseCNN", (), _refuse_pose_cnn)

    def _make_encoder(self, call: inspect.BoundArguments) -> nn.Module | None:
        """The encoder for one image; more go to the pose encoder."""
        recipe = self.settings.recipe
        if recipe.frames is not None and call.arguments[recipe.frames] != 1:
            return self._make_pose_encoder(call)
        encoder = self.settings.build_encoder(recipe.pretrained is None or bool(call.arguments[recipe.pretrained]))
        self._encoder = weakref.ref(encoder)
        return DepthEncoder(encoder, self._make_neck(encoder), recipe.mean, recipe.std)

    def _make_neck(self, encoder: HybridDepthEncoder) -> PyramidNeck | None:
        if self.settings.decoder == "dpt":
            return None
        return PyramidNeck(encoder.feature_info.channels(), self.settings.recipe.channels, self.settings.recipe.strides)

    def _make_pose_encoder(self, call: inspect.BoundArguments) -> nn.Module | None:
        """The pose encoder for two images; None leaves it to the repository."""
        frames = call.arguments["num_input_images"]
        if self.settings.pose == "repository" or frames == 1:
            return None
        if frames != 2:
            raise AdapterError(
                f"the pose encoder is asked to read {frames} images; pose='class_token' reads two: "
                "train with --pose_model_input pairs."
            )
        shared = self._encoder() if self._encoder is not None else None
        # Pose evaluation builds no depth encoder; the tower then comes from the pose encoder's own weights.
        return PoseEncoder(shared if shared is not None else self.settings.build_encoder(pretrained=False))

    def _make_own_decoder(self, real: Callable[..., nn.Module], call: inspect.BoundArguments) -> nn.Module:
        """The repository's decoder on our pyramid."""
        try:
            return real(*call.args, **call.kwargs)
        except IndexError as error:
            strides = self.settings.recipe.strides
            raise AdapterError(
                f"{real.__name__} reads more than the {len(strides)} levels of recipe {self.settings.recipe.name!r}, "
                f"strides {strides}: give a recipe= with all that the decoder reads."
            ) from error

    def _make_decoder(self, call: inspect.BoundArguments) -> nn.Module | None:
        """The decoder on our features; None leaves those of another encoder to the repository."""
        channels = list(call.arguments["num_ch_enc"])
        if channels[0] != 0:
            return None
        outputs, widths = call.arguments["num_output_channels"], self.settings.decoder_config
        prompts = self._count_prompts() if self.settings.language_loss and outputs == 1 else 0
        return DepthDecoder(channels, call.arguments["scales"], outputs, widths, prompts)

    # -- language in the loss ----------------------------------------------------------------------------

    def serve(self, module: ModuleType) -> None:
        """As any patch; and the trainers that the module defines add the language loss to theirs."""
        super().serve(module)
        if not self.settings.language_loss:
            return
        for trainer in vars(module).values():
            if isinstance(trainer, type) and "compute_losses" in vars(trainer) and trainer not in self._trainers:
                self._trainers[trainer] = own = vars(trainer)["compute_losses"]
                trainer.compute_losses = _with_language(own, self.settings.language_loss)  # type: ignore[attr-defined]

    @property
    def replaced(self) -> list[str]:
        """Every replaced name, as ``module.name``, the shims' among them."""
        methods = [f"{t.__module__}.{t.__qualname__}.compute_losses" for t in self._trainers]
        return super().replaced + methods

    def undo(self) -> None:
        """Put every replaced name back; a second call does nothing. Networks built meanwhile stay ours."""
        for trainer, own in self._trainers.items():
            trainer.compute_losses = own  # type: ignore[attr-defined]
        self._trainers.clear()
        super().undo()

    def _count_prompts(self) -> int:
        encoder = self._encoder() if self._encoder is not None else None
        config = encoder.config.prompts if encoder is not None else None
        if config is None:
            raise ConfigError(
                "language_loss is set, and the encoder has no prompts; take one that has, or leave it at 0."
            )
        if not self._trainers:
            raise AdapterError(
                "language_loss is set, and no class with compute_losses(inputs, outputs), as Monodepth2's Trainer has, "
                "was imported: there is no loss to add to. Leave language_loss at 0 where nothing trains."
            )
        return config.num_prompts

    def _make_pose(self, call: inspect.BoundArguments) -> nn.Module:
        channels = list(call.arguments["num_ch_enc"])
        if len(channels) != 1:
            raise AdapterError(
                f"the pose network is asked to read {len(channels)} maps of the depth encoder; pose='class_token' "
                "reads class tokens: train with --pose_model_type separate_resnet."
            )
        return PoseDecoder(channels)


def patch(
    encoder: Source | None = None,
    *,
    decoder: Literal["dpt", "monodepth2"] = "dpt",
    decoder_config: DecoderConfig | None = None,
    networks: str | ModuleType | None = None,
    pose: Literal["repository", "class_token"] = "repository",
    recipe: str | Recipe | None = None,
    language_loss: float = 0.0,
    legacy: bool = True,
) -> Patched:
    """Put the hybrid encoder into a Monodepth2 checkout. Call it before ``Trainer(opts)``.

    ``networks.ResnetEncoder`` gives the hybrid encoder where one image is fed, and the repository's ResNet
    where several are (pose). The repository's own options hold on: ``--weights_init`` says whether the towers
    start from their public weights, ``--scales`` which disparities come out; ``--num_layers`` means the pose
    encoder alone.

    Args:
        encoder: a preset (None is ``"paper"``) or a configuration, built anew for every training; a Hub id,
            folder or stage-1 ``.ckpt`` file, loaded by ``HybridDepthEncoder.from_pretrained``; or an encoder, used
            itself.
        decoder: ``"dpt"``, sigmoid disparity from a DPT decoder, or ``"monodepth2"``, the repository's own
            decoder on a pyramid made of our maps.
        decoder_config: widths of the DPT decoder; its scales and activation are the repository's to say.
            None takes the preset's, and the paper's where the encoder is no preset.
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
        ConfigError: an encoder or decoder that does not exist.
    """
    if decoder not in ("dpt", "monodepth2"):
        raise ConfigError(f"decoder is {decoder!r}; it must be 'dpt' or 'monodepth2'.")
    if pose not in ("repository", "class_token"):
        raise ConfigError(f"pose is {pose!r}; it must be 'repository' or 'class_token'.")
    if not 0 <= language_loss < math.inf:
        raise ConfigError(f"language_loss is {language_loss}; it is a weight, 0 or more.")
    if language_loss and decoder != "dpt":
        raise ConfigError(f"language_loss needs decoder='dpt', which hands the logits on; decoder is {decoder!r}.")
    source, widths = replacing.resolve_encoder(encoder)
    if isinstance(recipe, str) and recipe not in recipes.RECIPES:
        raise ConfigError(f"recipe is {recipe!r}; give one of {', '.join(recipes.RECIPES)}, or a Recipe of your own.")

    def settings_for(module: ModuleType) -> Settings:
        chosen = (
            recipes.find(module) if recipe is None else recipes.RECIPES[recipe] if isinstance(recipe, str) else recipe
        )
        return Settings(source, decoder, decoder_config or widths, legacy, pose, chosen, language_loss)

    return replacing.apply(Patched, "networks" if networks is None else networks, settings_for, legacy)


def _with_language(own: Callable[..., Any], weight: float) -> Callable[..., Any]:
    """A trainer's ``compute_losses`` and the language loss."""

    @functools.wraps(own)
    def compute_losses(trainer: Any, inputs: Any, outputs: Any, *args: Any, **kwargs: Any) -> Any:
        losses = own(trainer, inputs, outputs, *args, **kwargs)
        logits = [value for key, value in outputs.items() if isinstance(key, tuple) and key[0] == "language"]
        if logits:
            language = PixelLanguageLoss(
                bin_centers(logits[0].shape[1], trainer.opt.min_depth, trainer.opt.max_depth).to(logits[0].device)
            )
            losses["language_loss"] = sum(language(x, outputs["depth", 0, 0]) for x in logits) / len(logits)
            losses["loss"] = losses["loss"] + weight * losses["language_loss"]
        return losses

    return compute_losses


def _refuse_pose_cnn(call: inspect.BoundArguments) -> nn.Module:
    raise AdapterError(
        "PoseCNN reads images; pose='class_token' takes its place: train with --pose_model_type separate_resnet, "
        "or patch with pose='repository'."
    )
