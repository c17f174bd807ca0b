"""The classes of a ``networks`` package, checked, and replaced by what a builder builds.

A :class:`Patch` knows where: which modules hold the names, and the way back. A :class:`Builder` knows what: which
network stands in for which name. :func:`install` brings the two together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib
import inspect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from torch import nn

from hybrid_encoder.errors import AdapterError

from .legacy import Legacy, active_shims, apply_shims
from .methods import ExtendedMethod
from .names import ReplacedNames
from .proxies import StandsFor
from .repository import Repository, find_repository


@dataclass(frozen=True)
class Call:
    """A call of a replaced name.

    Args:
        real: the repository's own class or function.
        args, kwargs: as they were given.
        arguments: by name, defaults included.
    """

    real: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    arguments: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def build_own(self) -> nn.Module:
        """Build what the repository itself would have built."""
        made: nn.Module = self.real(*self.args, **self.kwargs)
        return made


@dataclass(frozen=True)
class Replacement:
    """What is built where one name of a ``networks`` package is called.

    Args:
        name: of the class or function in the package.
        build: makes the network of a call; ``call.build_own()`` leaves it to the repository.
        arguments: which ``build`` reads, so that the repository's own must take them.
        ours: classes of what ``build`` makes, whose instances pass for the replaced class in ``isinstance``.
    """

    name: str
    build: Callable[[Call], nn.Module]
    arguments: tuple[str, ...] = ()
    ours: tuple[type[nn.Module], ...] = ()


class Builder(Protocol):
    """What is built in the place of a codebase's networks; one builder serves one patch."""

    @property
    def settings(self) -> Any:
        """What was asked for, a dataclass: two calls of ``patch`` ask for the same if these are equal."""

    def replacements(self) -> Sequence[Replacement]:
        """Return one for each name that is replaced; the first is the depth decoder, which every trainer builds."""

    def extensions(self) -> Sequence[ExtendedMethod]:
        """Return the methods of the repository's classes that are extended."""


class Patch(ReplacedNames):
    """What a ``patch`` function replaced, and the way back: ``undo()``, or leave the ``with`` block.

    Made by :func:`install`.

    Args:
        networks: the package that holds the networks.
        repository: the code around it.
        builder: builds what takes their place.
        legacy: whether the repository was to get shims.
        shims: those that came along with this patch, and go with it.
    """

    def __init__(
        self, networks: ModuleType, repository: Repository, builder: Builder, legacy: bool, shims: Legacy | None
    ) -> None:
        super().__init__(f"hybrid encoder in {repository.root}", repository)
        self.networks = networks
        self.builder = builder
        self.legacy = legacy
        self.shims = shims
        self._extensions = tuple(builder.extensions())
        for replacement in builder.replacements():
            real = getattr(networks, replacement.name)
            self.replace(real, make_stand_in(real, replacement))

    @property
    def settings(self) -> Any:
        """What was asked for; see :class:`Builder`."""
        return self.builder.settings

    def start(self) -> None:
        self.serve(self.networks)  # a module given as an object may be unknown to sys.modules
        super().start()
        ACTIVE[self.networks] = self

    def serve(self, module: ModuleType) -> None:
        super().serve(module)
        for extension in self._extensions:
            extension.serve(module)

    def reaches(self, module: ModuleType, real: Any) -> bool:
        """Return True everywhere but where a class is defined: ``super(Name, self)`` there needs the real one."""
        return module is self.networks or module.__name__ != real.__module__

    @property
    def replaced(self) -> list[str]:
        """Every replaced name, as ``module.name``; extended methods and the shims' names come last."""
        methods = [name for extension in self._extensions for name in extension.replaced]
        return super().replaced + methods + (self.shims.replaced if self.shims else [])

    def undo(self) -> None:
        """Put every replaced name back; a second call does nothing. Networks built meanwhile stay ours."""
        if ACTIVE.get(self.networks) is self:
            del ACTIVE[self.networks]
        for extension in self._extensions:
            extension.undo()
        if self.shims is not None:
            self.shims.undo()
        super().undo()


ACTIVE: dict[ModuleType, Patch] = {}  # by the package that is patched
_INSTALLING = threading.RLock()  # threads patch one after the other; importing the package may patch, too


def install(networks: str | ModuleType, make_builder: Callable[[ModuleType], Builder], *, legacy: bool) -> Patch:
    """Import a package, check it, and patch it; or return the patch that is at work with the same settings.

    Args:
        networks: the package that holds the networks, or its name.
        make_builder: takes the package to the builder for it.
        legacy: apply the shims to the repository around it, too.

    Raises:
        AdapterError: there is no such package, it lacks what is needed, or it is patched otherwise already. Nothing
            is changed then.
    """
    repository = find_repository(networks)
    with _INSTALLING, contextlib.ExitStack() as on_error:
        shims = None
        if legacy and active_shims(repository.root) is None:
            shims = apply_shims(repository.root)  # before the import, which may need it
            on_error.callback(shims.undo)
        module = importlib.import_module(networks) if isinstance(networks, str) else networks
        builder = make_builder(module)
        present = ACTIVE.get(module)
        if present is not None:
            if different := differences(present, builder, legacy):
                raise AdapterError(
                    f"{module.__name__} is patched already with another {', '.join(different)}; "
                    "call undo() on that handle first."
                )
            return present
        replacements = builder.replacements()
        check_offered(module, replacements)
        check_nothing_built(module, replacements[0].name)
        patch = Patch(module, repository, builder, legacy, shims)
        on_error.callback(patch.undo)
        patch.start()
        on_error.pop_all()
        return patch


def differences(patch: Patch, builder: Builder, legacy: bool) -> list[str]:
    """Return in which settings a patch is another one than what is asked for now."""
    if type(patch.builder) is not type(builder):
        return ["adapter"]
    names = [field.name for field in dataclasses.fields(builder.settings)]
    different = [name for name in names if getattr(patch.settings, name) != getattr(builder.settings, name)]
    return different if patch.legacy == legacy else [*different, "legacy"]


def check_offered(networks: ModuleType, replacements: Sequence[Replacement]) -> None:
    """Raise AdapterError unless the package offers what is replaced."""
    where = f"{networks.__name__} ({networks.__file__})"
    for replacement in replacements:
        real = getattr(networks, replacement.name, None)
        if not callable(real):
            problem = "lacks" if real is None else "does not hold as a class or function"
            raise AdapterError(
                f"{where} {problem} the attribute {replacement.name!r}; give the package that holds "
                f"{' and '.join(each.name for each in replacements)} with networks=, or say with recipe= what this "
                "codebase calls them."
            )
        taken = inspect.signature(real).parameters
        missing = [argument for argument in replacement.arguments if argument not in taken]
        if missing:
            raise AdapterError(
                f"{where}: {replacement.name} takes no argument {missing[0]!r}, which says what to build; "
                f"{', '.join(replacement.arguments)} are needed, as in Monodepth2."
            )


def check_nothing_built(networks: ModuleType, decoder: str) -> None:
    """Raise AdapterError if a decoder was built before: a trainer goes on using its networks."""
    real = getattr(networks, decoder)
    if any(type(thing) is real for thing in gc.get_objects()):
        raise AdapterError(
            f"a {real.__name__} of {networks.__name__} exists already, so a Trainer was built before; "
            "call patch() before Trainer(opts)."
        )


def make_stand_in(real: Callable[..., Any], replacement: Replacement) -> Callable[..., Any]:
    """Return what takes the place of a class or function: called, it builds what the replacement says.

    A class stays a class: it can be subclassed, and ``isinstance`` accepts the real one's instances and ours.
    """
    signature = inspect.signature(real)

    def build(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return replacement.build(Call(real, args, kwargs, dict(bound.arguments)))

    if not isinstance(real, type):
        return functools.wraps(real)(build)

    class Dispatch(StandsFor):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            if "stands_for" not in vars(cls):
                return super().__call__(*args, **kwargs)  # a subclass of the repository's own
            return build(*args, **kwargs)

    names = {"stands_for": (real, *replacement.ours), "__module__": real.__module__, "__doc__": real.__doc__}
    return Dispatch(real.__name__, (real,), names)
