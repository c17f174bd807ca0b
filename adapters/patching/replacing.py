"""The classes of a ``networks`` package, found, checked, and replaced by what builds ours."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from torch import nn

from hybrid_encoder.checkpoints import read_config
from hybrid_encoder.checkpoints.files import CONFIG
from hybrid_encoder.config import PRESETS, DecoderConfig, HybridDepthConfig, HybridEncoderConfig, find_encoder_config
from hybrid_encoder.errors import AdapterError, ConfigError
from hybrid_encoder.models.encoder import HybridDepthEncoder

from . import legacy as shims
from .repository import Patch, Repository, StandsFor

Make = Callable[[inspect.BoundArguments], nn.Module | None]
Source = str | Path | HybridEncoderConfig | HybridDepthEncoder


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a patch builds. Two calls ask for the same if these are equal."""

    encoder: str | HybridEncoderConfig | HybridDepthEncoder
    decoder: str
    decoder_config: DecoderConfig
    legacy: bool

    @property
    def needed(self) -> dict[str, tuple[str, ...]]:
        """The names that are replaced, and the arguments that say what to build; a decoder's comes first."""
        raise TypeError(f"{type(self).__name__} does not say what it replaces.")

    def build_encoder(self, pretrained: bool) -> HybridDepthEncoder:
        """The encoder, with the weights that it comes with."""
        if isinstance(self.encoder, HybridDepthEncoder):
            return self.encoder
        if isinstance(self.encoder, HybridEncoderConfig):
            return HybridDepthEncoder(self.encoder, pretrained=pretrained)
        return HybridDepthEncoder.from_pretrained(self.encoder)


S = TypeVar("S", bound=Settings)


class NetworksPatch(Patch, Generic[S]):
    """What a ``patch`` function replaced, and the way back: ``undo()``, or leave the ``with`` block."""

    def __init__(
        self, networks: ModuleType, settings: S, repository: Repository, legacy: shims.Legacy | None = None
    ) -> None:
        super().__init__(f"hybrid encoder in {repository.root}", repository)
        self.networks = networks
        self.settings = settings
        self.legacy = legacy
        self.replace_networks()
        self.serve(networks)  # a module given as an object may be unknown to sys.modules
        self._start()
        ACTIVE[networks] = self

    def replace_networks(self) -> None:
        """Call :meth:`dispatch` for every name that is replaced."""
        raise TypeError(f"{type(self).__name__} replaces nothing.")

    def dispatch(self, name: str, ours: tuple[type, ...], make: Make) -> None:
        """Build what ``make`` gives where ``networks.<name>`` is called, or the real thing where it gives None."""
        real = getattr(self.networks, name)
        self._replace(real, dispatching(real, ours, make))

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
            del ACTIVE[self.networks]
            if self.legacy is not None:
                self.legacy.undo()
        super().undo()


ACTIVE: dict[ModuleType, NetworksPatch[Any]] = {}
P = TypeVar("P", bound=NetworksPatch[Any])


def apply(kind: type[P], networks: str | ModuleType, settings_for: Callable[[ModuleType], Settings], legacy: bool) -> P:
    """Import a package, check it, and patch it; or give the patch that is at work with the same settings.

    Raises:
        AdapterError: there is no such package, it lacks what is needed, or it is patched otherwise already. Nothing
            is changed then.
    """
    repository = locate(networks)
    with contextlib.ExitStack() as on_error:
        shim = None
        if legacy and shims.active(repository.root) is None:
            shim = shims.apply(repository.root)  # before the import, which may need it
            on_error.callback(shim.undo)
        module = importlib.import_module(networks) if isinstance(networks, str) else networks
        settings = settings_for(module)
        present = ACTIVE.get(module)
        if isinstance(present, kind) and type(present.settings) is type(settings):
            fields = [field.name for field in dataclasses.fields(settings)]
            other = [name for name in fields if getattr(present.settings, name) != getattr(settings, name)]
            if not other:
                return present
        elif present is not None:
            other = ["adapter"]
        if present is not None:
            raise AdapterError(
                f"{module.__name__} is patched already with another {', '.join(other)}; "
                "call undo() on that handle first."
            )
        check(module, settings.needed)
        check_nothing_built(module, next(iter(settings.needed)))
        on_error.pop_all()
        return kind(module, settings, repository, shim)


def resolve_encoder(
    encoder: Source | None,
) -> tuple[str | HybridEncoderConfig | HybridDepthEncoder, DecoderConfig]:
    """What to build the encoder from, and the decoder widths that go with it."""
    encoder = "paper" if encoder is None else encoder
    presets = PRESETS
    if isinstance(encoder, str) and encoder in presets:
        encoder = presets[encoder].encoder
    if isinstance(encoder, (str, Path)):
        there = os.path.exists(encoder)
        if not there and "/" not in str(encoder):
            names = ", ".join(map(repr, presets))
            raise ConfigError(
                f"encoder is {str(encoder)!r}; give a preset ({names}), a folder, a stage-1 .ckpt "
                "file, or a Hub id 'org/name'."
            )
        encoder = os.path.abspath(encoder) if there else str(encoder)
    elif not isinstance(encoder, (HybridEncoderConfig, HybridDepthEncoder)):
        raise ConfigError(
            f"encoder is a {type(encoder).__name__}; give a preset, a HybridEncoderConfig, a Hub id "
            "or folder, or a HybridDepthEncoder."
        )
    config: HybridEncoderConfig | None = None
    if isinstance(encoder, HybridDepthEncoder):
        config = encoder.config
    elif isinstance(encoder, HybridEncoderConfig):
        config = encoder
    elif os.path.isfile(os.path.join(encoder, CONFIG)):
        config = find_encoder_config(read_config(Path(encoder)))
    return encoder, presets["paper"].decoder if config is None else HybridDepthConfig.for_encoder(config).decoder


def locate(networks: str | ModuleType) -> Repository:
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


def check(networks: ModuleType, needed: dict[str, tuple[str, ...]]) -> None:
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


def check_nothing_built(networks: ModuleType, decoder: str) -> None:
    """Raises AdapterError if networks were built before: a trainer goes on using those."""
    real = getattr(networks, decoder)
    if any(type(thing) is real for thing in gc.get_objects()):
        raise AdapterError(
            f"a {real.__name__} of {networks.__name__} exists already, so a Trainer was built before; "
            "call patch() before Trainer(opts)."
        )


def dispatching(real: Callable[..., Any], ours: tuple[type, ...], make: Make) -> Callable[..., Any]:
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
