"""The networks of a codebase, checked, and replaced by what a builder builds.

A :class:`Patch` knows where: which classes and functions, and the way back. A :class:`Builder` knows what: which
network stands in for which name. :func:`install` brings the two together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

from torch import nn
from torch.optim.optimizer import Optimizer

from hybrid_encoder.errors import AdapterError

from .construction import Answer, Call, ReplacedClass, bind
from .legacy import Legacy, active_shims, apply_shims
from .methods import ExtendedMethod
from .names import ReplacedNames
from .repository import Repository, find_repository
from .seams import Interface, check_interface
from .stand_ins import FILES_READ
from .watching import LOG, Watch


@dataclass(frozen=True)
class Replacement:
    """What is built where one name of a codebase is called.

    Args:
        name: of the class or function, as one of the modules holds it; ``"module.Name"`` is looked for inside them.
        build: makes the network of a call; ``call.build_own()`` leaves it to the repository.
        interface: what the repository's own must take and give, so that ours can take its place.
        fix: what to do where it does not.
        optional: whether a codebase may go without the name.
    """

    name: str
    build: Answer
    interface: Interface = field(default_factory=Interface)
    fix: str = "say with recipe= what this codebase calls its networks (docs/your_codebase.md)."
    optional: bool = False


class Builder(Protocol):
    """What is built in the place of a codebase's networks; one builder serves one patch."""

    @property
    def settings(self) -> Any:
        """What was asked for, a dataclass: two calls of ``patch`` ask for the same if these are equal."""

    @property
    def required(self) -> Mapping[type[nn.Module], str]:
        """Classes of ours without which no training makes sense, and what they are; see :class:`Watch`."""

    def replacements(self) -> Sequence[Replacement]:
        """Return one for each name that is replaced; the first is of a network that every trainer builds."""

    def extensions(self) -> Sequence[ExtendedMethod]:
        """Return the methods of the repository's classes that are extended."""

    def guard(self, cls: type[nn.Module]) -> Answer | None:
        """Return what looks at the calls of a class that is not replaced; None where it is of no interest."""

    def read(self, loaded: Any) -> None:
        """Take note of what the repository has read by ``torch.load``; it is told where there are shims."""

    def before_step(self, optimizer: Optimizer) -> None:
        """Prepare a step of an optimizer that holds parameters of ours."""


class Patch(ReplacedNames):
    """What a ``patch`` function replaced, and the way back: ``undo()``, or leave the ``with`` block.

    Made by :func:`install`.

    Args:
        modules: those that hold the networks.
        repository: the code around them.
        builder: builds what takes their place.
        found: the repository's own classes and functions, and what takes their place.
        legacy: whether the repository was to get shims.
        shims: those that came along with this patch, and go with it.
    """

    def __init__(
        self,
        modules: Sequence[ModuleType],
        repository: Repository,
        builder: Builder,
        found: Sequence[tuple[Callable[..., Any], Replacement]],
        legacy: bool,
        shims: Legacy | None,
    ) -> None:
        functions = any(not isinstance(real, type) for real, _ in found)  # a class needs no search for its places
        super().__init__(f"hybrid encoder in {repository.root}", repository, registries=functions)
        self.modules = tuple(modules)
        self.builder = builder
        self.legacy = legacy
        self.shims = shims
        self.watch = Watch(repository, builder.required, builder.before_step)
        self._extensions = tuple(builder.extensions())
        self._classes: list[ReplacedClass] = []
        self._guards: list[ReplacedClass] = []
        self._seen: set[type] = set()
        for real, replacement in found:
            answer = self._watched(replacement.build)
            if isinstance(real, type):
                self._classes.append(ReplacedClass(real, answer))
                self._seen.add(real)
            else:
                self.replace(real, _answer_function(real, answer))
            self.watch.replaced.append(_title(real))

    @property
    def settings(self) -> Any:
        """What was asked for; see :class:`Builder`."""
        return self.builder.settings

    @property
    def built(self) -> list[str]:
        """One line for each network of ours that was built: in whose place, how large, how much of it trains."""
        return self.watch.lines()

    def start(self) -> None:
        for cls in self._classes:
            cls.start()
        for module in self.modules:
            self.serve(module)  # a module given as an object may be unknown to sys.modules
        super().start()
        self.watch.start()
        FILES_READ.append(self.builder.read)
        ACTIVE.append(self)
        LOG.info("%s: %s", self.title, ", ".join(self.watch.replaced))

    def serve(self, module: ModuleType) -> None:
        super().serve(module)
        for extension in self._extensions:
            extension.serve(module)
        for value in list(vars(module).values()):
            if isinstance(value, type) and issubclass(value, nn.Module) and value not in self._seen:
                self._guard(value)

    @property
    def replaced(self) -> list[str]:
        """Every replaced name, as ``module.name``; extended methods and the shims' names come last."""
        if not self.active:
            return []
        classes = [cls.name for cls in self._classes]
        methods = [name for extension in self._extensions for name in extension.replaced]
        return classes + super().replaced + methods + (self.shims.replaced if self.shims else [])

    def undo(self) -> None:
        """Put everything back; a second call does nothing. Networks built meanwhile stay ours."""
        if self in ACTIVE:
            ACTIVE.remove(self)
        self.watch.stop()
        if self.builder.read in FILES_READ:
            FILES_READ.remove(self.builder.read)
        for extension in self._extensions:
            extension.undo()
        for cls in (*self._classes, *self._guards):
            cls.undo()
        if self.shims is not None:
            self.shims.undo()
        super().undo()

    def __repr__(self) -> str:
        return "\n".join([str(self), *(f"built: {line}" for line in self.built)])

    def _watched(self, build: Answer) -> Answer:
        """Return an answer that also tells the watch what was built."""

        def answer(call: Call) -> nn.Module:
            network = build(call)
            if type(network).__module__.partition(".")[0] == "hybrid_encoder":
                self.watch.note(_title(call.real), network, call.owner(network))
            else:
                self.watch.asked += 1  # and was left to the repository
            return network

        return answer

    def _guard(self, cls: type[nn.Module]) -> None:
        """Look at the calls of a class that is not replaced, where the builder wants to."""
        self._seen.add(cls)
        module = sys.modules.get(cls.__module__)
        if module is None or not self.repository.owns(vars(module).get("__file__")):
            return
        answer = self.builder.guard(cls)
        if answer is not None:
            guard = ReplacedClass(cls, answer)
            guard.start()
            self._guards.append(guard)


ACTIVE: list[Patch] = []  # the patches at work
_INSTALLING = threading.RLock()  # threads patch one after the other; importing the package may patch, too


def install(networks: Sequence[str | ModuleType], builder: Builder, *, legacy: bool) -> Patch:
    """Import the modules that hold networks, check them, and patch them; or return the patch that is at work.

    Args:
        networks: the modules, or their names; the code around the first is the repository.
        builder: builds what takes their place.
        legacy: apply the shims to the repository, too.

    Raises:
        AdapterError: there is no such module, it lacks what is needed, or it is patched otherwise already. Nothing
            is changed then.
    """
    repository = find_repository(networks[0])
    with _INSTALLING, contextlib.ExitStack() as on_error:
        shims = None
        if legacy and active_shims(repository.root) is None:
            shims = apply_shims(repository.root)  # before the import, which may need it
            on_error.callback(shims.undo)
        modules = [importlib.import_module(each) if isinstance(each, str) else each for each in networks]
        present = next((patch for patch in ACTIVE if not set(patch.modules).isdisjoint(modules)), None)
        if present is not None:
            if different := differences(present, builder, legacy):
                raise AdapterError(
                    f"{modules[0].__name__} is patched already with another {', '.join(different)}; "
                    "call undo() on that handle first."
                )
            return present
        found = find_offered(modules, builder.replacements())
        check_nothing_built(found[0][0])
        patch = Patch(modules, repository, builder, found, legacy, shims)
        on_error.callback(patch.undo)
        patch.start()
        on_error.pop_all()
        return patch


def differences(patch: Patch, builder: Builder, legacy: bool) -> list[str]:
    """Return in which settings a patch is another one than what is asked for now."""
    if type(patch.builder) is not type(builder):
        return ["adapter"]
    names = [each.name for each in dataclasses.fields(builder.settings) if each.compare]
    different = [name for name in names if getattr(patch.settings, name) != getattr(builder.settings, name)]
    return different if patch.legacy == legacy else [*different, "legacy"]


def find_offered(
    modules: Sequence[ModuleType], replacements: Sequence[Replacement]
) -> list[tuple[Callable[..., Any], Replacement]]:
    """Return the classes and functions that are replaced, each once, after their interfaces were checked.

    Raises:
        AdapterError: one is not there, or what stands in for it could not take its place.
    """
    where = " and ".join(f"{module.__name__} ({_file(module)})" for module in modules)
    found: dict[int, tuple[Callable[..., Any], Replacement]] = {}
    for replacement in replacements:
        real = _find(modules, replacement.name)
        if not callable(real):
            if real is None and replacement.optional:
                continue
            problem = "lacks" if real is None else "does not hold as a class or function"
            names = " and ".join(each.name for each in replacements if not each.optional)
            raise AdapterError(
                f"{where} {problem} the attribute {replacement.name!r}; give the module that holds {names} with "
                "networks=, or say with recipe= what this codebase calls them."
            )
        check_interface(real, replacement.interface, f"{where}: {replacement.name}", replacement.fix)
        found.setdefault(id(real), (real, replacement))
    return list(found.values())


def _find(modules: Sequence[ModuleType], name: str) -> Any:
    """Return what modules hold under a name, ``"module.Name"`` included; None if none does."""
    path, _, attribute = name.rpartition(".")
    for module in modules:
        if path:
            full = f"{module.__name__}.{path}"
            inner = getattr(module, path, None) or sys.modules.get(full)
            if inner is None and importlib.util.find_spec(full) is not None:
                inner = importlib.import_module(full)
        else:
            inner = module
        if inner is not None and hasattr(inner, attribute):
            return getattr(inner, attribute)
    return None


def _file(module: ModuleType) -> str:
    return str(vars(module).get("__file__") or next(iter(vars(module).get("__path__", ())), "no file"))


def _title(real: Callable[..., Any]) -> str:
    return f"{real.__module__}.{real.__qualname__}"


def check_nothing_built(real: Callable[..., Any]) -> None:
    """Raise AdapterError if an instance of a class exists: a trainer goes on using its networks."""
    if isinstance(real, type) and any(type(thing) is real for thing in gc.get_objects()):
        raise AdapterError(
            f"a {real.__name__} of {real.__module__} exists already, so a Trainer was built before; "
            "call patch() before Trainer(opts)."
        )


def _answer_function(real: Callable[..., Any], answer: Answer) -> Callable[..., Any]:
    """Return a function in the place of another one, which is answered by a builder."""
    signature = inspect.signature(real)

    @functools.wraps(real)
    def build(*args: Any, **kwargs: Any) -> Any:
        arguments = bind(signature, args, kwargs)
        return answer(Call(real, args, kwargs, arguments, lambda: real(*args, **kwargs)))

    return build
