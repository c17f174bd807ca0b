"""Monodepth2 with this encoder inside, from the user's own checkout and without a change to its files.

```python
from hybrid_encoder import adapters

adapters.monodepth2.patch()  # before Trainer(opts)
```

Codebases that kept Monodepth2's ``networks`` package work the same way; its name goes into ``networks``.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
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
from .modules import DepthDecoder, DepthEncoder
from .repository import Patch, Repository, StandsFor

PRESETS = ("paper", "tiny")
Source = str | Path | HybridEncoderConfig | HybridDepthEncoder

# The names that are replaced, and the constructor arguments that say what to build.
NEEDED = {
    "ResnetEncoder": ("pretrained", "num_input_images"),
    "DepthDecoder": ("num_ch_enc", "scales", "num_output_channels"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a patch builds. Two calls ask for the same if these are equal."""

    encoder: str | HybridEncoderConfig | HybridDepthEncoder
    decoder: str
    decoder_config: DecoderConfig
    legacy: bool

    def make_encoder(self, arguments: dict[str, Any]) -> nn.Module | None:
        """The encoder for one image; None leaves the pose encoder to the repository."""
        if arguments["num_input_images"] != 1:
            return None
        encoder = self.encoder
        if isinstance(encoder, str):
            encoder = HybridDepthEncoder.from_pretrained(encoder)
        elif isinstance(encoder, HybridEncoderConfig):
            encoder = HybridDepthEncoder(encoder, pretrained=bool(arguments["pretrained"]))
        neck = PyramidNeck(encoder.feature_info.channels()) if self.decoder == "monodepth2" else None
        return DepthEncoder(encoder, neck)

    def make_decoder(self, arguments: dict[str, Any]) -> nn.Module | None:
        """The decoder on our features; None leaves those of another encoder to the repository."""
        channels = list(arguments["num_ch_enc"])
        if channels[0] != 0:
            return None
        return DepthDecoder(
            channels,
            arguments["scales"],
            arguments["num_output_channels"],
            self.decoder_config,
        )


class Patched(Patch):
    """What :func:`patch` replaced, and the way back: ``undo()``, or leave the ``with`` block."""

    def __init__(self, networks: ModuleType, settings: Settings) -> None:
        repository = _repository(networks)
        super().__init__(f"hybrid encoder in {repository.root}", repository)
        self.networks = networks
        self.settings = settings
        self.legacy: shims.Legacy | None = None
        if settings.legacy and shims.active(repository.root) is None:
            self.legacy = shims.apply(repository.root)
        real = networks.ResnetEncoder
        self._replace(real, _dispatching(real, DepthEncoder, settings.make_encoder))
        if settings.decoder == "dpt":
            real = networks.DepthDecoder
            self._replace(real, _dispatching(real, DepthDecoder, settings.make_decoder))
        self.serve(networks)  # a module given as an object may be unknown to sys.modules
        self._start()
        _ACTIVE[networks] = self

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
    networks: str | ModuleType = "networks",
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
        networks: the package that holds ``ResnetEncoder`` and ``DepthDecoder``, or its name.
        legacy: also apply the shims of :mod:`~hybrid_encoder.adapters.legacy` to that repository.

    Returns:
        The handle. The same call again returns the same one.

    Raises:
        AdapterError: the repository lacks what is needed, or is patched otherwise already; nothing changes.
        ConfigError: an encoder or decoder that does not exist.
    """
    if decoder not in ("dpt", "monodepth2"):
        raise ConfigError(f"decoder is {decoder!r}; it must be 'dpt' or 'monodepth2'.")
    source, widths = _resolve(encoder)
    settings = Settings(source, decoder, decoder_config or widths, legacy)
    module = _import(networks) if isinstance(networks, str) else networks
    present = _ACTIVE.get(module)
    if present is not None:
        if present.settings != settings:
            names = [field.name for field in dataclasses.fields(Settings)]
            other = [name for name in names if getattr(present.settings, name) != getattr(settings, name)]
            raise AdapterError(
                f"{module.__name__} is patched already with another {', '.join(other)}; "
                "call undo() on that handle first."
            )
        return present
    _check(module)
    return Patched(module, settings)


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


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name and not name.startswith(f"{error.name}."):
            raise  # the package is there, and something that it needs is missing
        raise AdapterError(
            f"there is no module {name!r}; run the script from a Monodepth2 checkout, put the checkout's "
            "folder on sys.path, or name its package with networks=."
        ) from error


def _check(networks: ModuleType) -> None:
    """Raises AdapterError unless the package offers what is replaced."""
    where = f"{networks.__name__} ({getattr(networks, '__file__', None)})"
    if not getattr(networks, "__file__", None):
        raise AdapterError(f"{where} has no file; give the package of a Monodepth2 checkout.")
    for name, arguments in NEEDED.items():
        real = getattr(networks, name, None)
        if not isinstance(real, type):
            problem = "lacks" if real is None else "does not hold as a class"
            raise AdapterError(
                f"{where} {problem} the attribute {name!r}; give the package of a Monodepth2 checkout that "
                f"holds the classes {' and '.join(NEEDED)} with networks=."
            )
        known = inspect.signature(real).parameters
        missing = [argument for argument in arguments if argument not in known]
        if missing:
            raise AdapterError(
                f"{where}: {name} takes no argument {missing[0]!r}, which says what to build; "
                f"{', '.join(arguments)} are needed, as in Monodepth2."
            )


def _repository(networks: ModuleType) -> Repository:
    """The code around the package: the folder that holds it."""
    file = Path(os.path.realpath(str(networks.__file__)))
    return Repository(file.parents[1] if hasattr(networks, "__path__") else file.parent)


def _dispatching(
    real: type,
    ours: type[nn.Module],
    make: Callable[[dict[str, Any]], nn.Module | None],
) -> type:
    """A class in ``real``'s place: builds what ``make`` gives for the arguments, or else the real thing."""
    signature = inspect.signature(real)

    class Dispatch(StandsFor):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            if "stands_for" not in vars(cls):
                return super().__call__(*args, **kwargs)  # a subclass of the repository's own
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            made = make(bound.arguments)
            return real(*args, **kwargs) if made is None else made

    names = {
        "stands_for": (real, ours),
        "__module__": real.__module__,
        "__doc__": real.__doc__,
    }
    return Dispatch(real.__name__, (real,), names)
