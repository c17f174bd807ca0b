"""Monodepth2 with this encoder inside, from the user's own checkout and without a change to its files.

```python
from hybrid_encoder import adapters

adapters.monodepth2.patch()  # before Trainer(opts)
```

Codebases that grew out of Monodepth2 work the same way: :mod:`~hybrid_encoder.adapters.recipes` says what they call
their networks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib.util
import inspect
import os
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from torch import nn

from hybrid_encoder.config import DecoderConfig, HybridDepthConfig, HybridEncoderConfig
from hybrid_encoder.decoder import PyramidNeck
from hybrid_encoder.encoder import HybridDepthEncoder
from hybrid_encoder.errors import AdapterError, ConfigError

from . import legacy as shims
from . import recipes
from .modules import DepthDecoder, DepthEncoder, PoseDecoder, PoseEncoder
from .recipes import Recipe
from .repository import Patch, Repository, StandsFor

PRESETS = ("paper", "tiny")
Make = Callable[[inspect.BoundArguments], nn.Module | None]
Source = str | Path | HybridEncoderConfig | HybridDepthEncoder

# What pose from class tokens replaces besides, and the arguments that say what to build.
NEEDED_FOR_POSE: dict[str, tuple[str, ...]] = {
    "ResnetEncoder": ("num_input_images",),
    "PoseDecoder": ("num_ch_enc",),
    "PoseCNN": (),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a patch builds. Two calls ask for the same if these are equal."""

    encoder: str | HybridEncoderConfig | HybridDepthEncoder
    decoder: str
    decoder_config: DecoderConfig
    pose: str
    recipe: Recipe
    legacy: bool

    @property
    def needed(self) -> dict[str, tuple[str, ...]]:
        """The names that are replaced, and the arguments that say what to build."""
        return (NEEDED_FOR_POSE if self.pose == "class_token" else {}) | self.recipe.needed

    def build_encoder(self, pretrained: bool) -> HybridDepthEncoder:
        """The encoder, with the weights that it comes with."""
        if isinstance(self.encoder, HybridDepthEncoder):
            return self.encoder
        if isinstance(self.encoder, HybridEncoderConfig):
            return HybridDepthEncoder(self.encoder, pretrained=pretrained)
        return HybridDepthEncoder.from_pretrained(self.encoder)


class Patched(Patch):
    """What :func:`patch` replaced, and the way back: ``undo()``, or leave the ``with`` block."""

    def __init__(
        self, networks: ModuleType, settings: Settings, repository: Repository, legacy: shims.Legacy | None
    ) -> None:
        super().__init__(f"hybrid encoder in {repository.root}", repository)
        self.networks = networks
        self.settings = settings
        self.legacy = legacy
        self._encoder: weakref.ref[HybridDepthEncoder] | None = None
        recipe = settings.recipe
        for decoder in recipe.decoders:
            if settings.decoder == "dpt":
                self._dispatch(decoder, (DepthDecoder,), self._make_decoder)
            else:
                self._dispatch(decoder, (), functools.partial(self._make_own_decoder, getattr(networks, decoder)))
        self._dispatch(recipe.encoder, (DepthEncoder, PoseEncoder), self._make_encoder)
        if settings.pose == "class_token":
            if recipe.encoder != "ResnetEncoder":
                self._dispatch("ResnetEncoder", (PoseEncoder,), self._make_pose_encoder)
            self._dispatch("PoseDecoder", (PoseDecoder,), self._make_pose)
            self._dispatch("PoseCNN", (), _refuse_pose_cnn)
        self.serve(networks)  # a module given as an object may be unknown to sys.modules
        self._start()
        _ACTIVE[networks] = self

    def _dispatch(self, name: str, ours: tuple[type, ...], make: Make) -> None:
        real = getattr(self.networks, name)
        self._replace(real, _dispatching(real, ours, make))

    def _make_encoder(self, call: inspect.BoundArguments) -> nn.Module | None:
        """The encoder for one image; more go to the pose encoder."""
        recipe = self.settings.recipe
        if recipe.frames is not None and call.arguments[recipe.frames] != 1:
            return self._make_pose_encoder(call)
        encoder = self.settings.build_encoder(recipe.pretrained is None or bool(call.arguments[recipe.pretrained]))
        self._encoder = weakref.ref(encoder)
        neck = None
        if self.settings.decoder == "monodepth2":
            neck = PyramidNeck(encoder.feature_info.channels(), recipe.channels, recipe.strides)
        return DepthEncoder(encoder, neck, recipe.mean, recipe.std)

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
        widths = self.settings.decoder_config
        return DepthDecoder(channels, call.arguments["scales"], call.arguments["num_output_channels"], widths)

    def _make_pose(self, call: inspect.BoundArguments) -> nn.Module:
        channels = list(call.arguments["num_ch_enc"])
        if len(channels) != 1:
            raise AdapterError(
                f"the pose network is asked to read {len(channels)} maps of the depth encoder; pose='class_token' "
                "reads class tokens: train with --pose_model_type separate_resnet."
            )
        return PoseDecoder(channels)

    def reaches(self, module: ModuleType, real: Any) -> bool:
        """Everywhere but where a class is defined: ``super(Name, self)`` there needs the real one."""
        return module is self.networks or module.__name__ != real.__module__

    @property
    def replaced(self) -> list[str]:
        """Every replaced name, as ``module.name``, the shims' among them."""
        return super().replaced + (self.legacy.replaced if self.legacy else [])

    def undo(self) -> None:
        """Put every replaced name back; a second call does nothing. Networks built meanwhile stay ours."""
        if self.active:
            del _ACTIVE[self.networks]
            if self.legacy is not None:
                self.legacy.undo()
        super().undo()


_ACTIVE: dict[ModuleType, Patched] = {}


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
        encoder: a preset (None is ``"paper"``) or a configuration, built anew for every training; a Hub id or
            folder, loaded by ``HybridDepthEncoder.from_pretrained``; or an encoder, used itself.
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
        language_loss: weight of the pixel-language alignment loss; only 0 in this version.
        legacy: also apply the shims of :mod:`~hybrid_encoder.adapters.legacy` to that repository.

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
    if language_loss != 0:
        raise ConfigError(
            f"language_loss is {language_loss}; this version has no pixel-language loss yet: leave it at 0."
        )
    source, widths = _resolve(encoder)
    if isinstance(recipe, str) and recipe not in recipes.RECIPES:
        raise ConfigError(f"recipe is {recipe!r}; give one of {', '.join(recipes.RECIPES)}, or a Recipe of your own.")
    networks = "networks" if networks is None else networks
    repository = _locate(networks)
    with contextlib.ExitStack() as on_error:
        shim = None
        if legacy and shims.active(repository.root) is None:
            shim = shims.apply(repository.root)  # before the import, which may need it
            on_error.callback(shim.undo)
        module = importlib.import_module(networks) if isinstance(networks, str) else networks
        if recipe is None:
            recipe = recipes.find(module)
        elif isinstance(recipe, str):
            recipe = recipes.RECIPES[recipe]
        settings = Settings(source, decoder, decoder_config or widths, pose, recipe, legacy)
        present = _ACTIVE.get(module)
        if present is not None:
            _check_same(present, settings)
            return present
        _check(module, settings.needed)
        _check_nothing_built(module, recipe)
        on_error.pop_all()
        return Patched(module, settings, repository, shim)


def _resolve(
    encoder: Source | None,
) -> tuple[str | HybridEncoderConfig | HybridDepthEncoder, DecoderConfig]:
    """What to build the encoder from, and the decoder widths that go with it."""
    encoder = "paper" if encoder is None else encoder
    presets = {name: HybridDepthConfig.preset(name) for name in PRESETS}
    if isinstance(encoder, str) and encoder in presets:
        encoder = presets[encoder].encoder
    if isinstance(encoder, (str, Path)):
        if not os.path.isdir(encoder) and "/" not in str(encoder):
            names = ", ".join(map(repr, presets))
            raise ConfigError(
                f"encoder is {str(encoder)!r}; give a preset ({names}), a folder, or a Hub id 'org/name'."
            )
        encoder = os.path.abspath(encoder) if os.path.isdir(encoder) else str(encoder)
    elif not isinstance(encoder, (HybridEncoderConfig, HybridDepthEncoder)):
        raise ConfigError(
            f"encoder is a {type(encoder).__name__}; give a preset, a HybridEncoderConfig, a Hub id "
            "or folder, or a HybridDepthEncoder."
        )
    for preset in presets.values():
        if encoder == preset.encoder:
            return encoder, preset.decoder
    return encoder, presets["paper"].decoder


def _locate(networks: str | ModuleType) -> Repository:
    """The code around the package, found without running it: the folder that holds the package."""
    name = networks if isinstance(networks, str) else networks.__name__
    module = sys.modules.get(networks) if isinstance(networks, str) else networks
    if module is not None:
        file = getattr(module, "__file__", None)
    else:
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError as error:
            if error.name != name and not name.startswith(f"{error.name}."):
                raise  # the package is there, and something that it needs is missing
            spec = None
        if spec is None:
            raise AdapterError(
                f"there is no module {name!r}; run the script from a Monodepth2 checkout, put the checkout's "
                "folder on sys.path, or name its package with networks=."
            )
        file = spec.origin
    if not file:
        raise AdapterError(f"{name} has no file; give the package of a Monodepth2 checkout.")
    path = Path(os.path.realpath(file))
    return Repository(path.parents[1] if path.name == "__init__.py" else path.parent)


def _check_same(present: Patched, settings: Settings) -> None:
    """Raises AdapterError unless the patch at work is what is asked for again."""
    names = [field.name for field in dataclasses.fields(Settings)]
    other = [name for name in names if getattr(present.settings, name) != getattr(settings, name)]
    if other:
        raise AdapterError(
            f"{present.networks.__name__} is patched already with another {', '.join(other)}; "
            "call undo() on that handle first."
        )


def _check(networks: ModuleType, needed: dict[str, tuple[str, ...]]) -> None:
    """Raises AdapterError unless the package offers what is replaced."""
    where = f"{networks.__name__} ({networks.__file__})"
    for name, arguments in needed.items():
        real = getattr(networks, name, None)
        if not callable(real):
            problem = "lacks" if real is None else "does not hold as a class or function"
            raise AdapterError(
                f"{where} {problem} the attribute {name!r}; give the package that holds {' and '.join(needed)} with "
                "networks=, or say with recipe= what this codebase calls them."
            )
        known = inspect.signature(real).parameters
        missing = [argument for argument in arguments if argument not in known]
        if missing:
            raise AdapterError(
                f"{where}: {name} takes no argument {missing[0]!r}, which says what to build; "
                f"{', '.join(arguments)} are needed, as in Monodepth2."
            )


def _check_nothing_built(networks: ModuleType, recipe: Recipe) -> None:
    """Raises AdapterError if networks were built before: a trainer goes on using those."""
    real = getattr(networks, recipe.decoders[0])
    if any(type(thing) is real for thing in gc.get_objects()):
        raise AdapterError(
            f"a {real.__name__} of {networks.__name__} exists already, so a Trainer was built before; "
            "call patch() before Trainer(opts)."
        )


def _refuse_pose_cnn(call: inspect.BoundArguments) -> nn.Module:
    raise AdapterError(
        "PoseCNN reads images; pose='class_token' takes its place: train with --pose_model_type separate_resnet, "
        "or patch with pose='repository'."
    )


def _dispatching(real: Callable[..., Any], ours: tuple[type, ...], make: Make) -> Callable[..., Any]:
    """In ``real``'s place: builds what ``make`` gives for the arguments, or else the real thing."""
    signature = inspect.signature(real)

    def build(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        made = make(bound)
        return real(*args, **kwargs) if made is None else made

    if not isinstance(real, type):
        return functools.wraps(real)(build)

    class Dispatch(StandsFor):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            if "stands_for" not in vars(cls):
                return super().__call__(*args, **kwargs)  # a subclass of the repository's own
            return build(*args, **kwargs)

    names = {
        "stands_for": (real, *ours),
        "__module__": real.__module__,
        "__doc__": real.__doc__,
    }
    return Dispatch(real.__name__, (real,), names)
