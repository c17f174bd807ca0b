"""Names replaced in the modules of one repository, nowhere else, with a way back."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from typing_extensions import Self

_INSTALLED = {"site-packages", "dist-packages"}
_STANDARD_LIBRARY = os.path.realpath(sysconfig.get_paths()["stdlib"])
_REAL = "__hybrid_encoder_real__"


class Repository:
    """The Python modules whose files lie in one folder.

    An environment kept inside that folder (``.venv``) is none of the repository's code.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = os.path.realpath(root)

    def owns(self, file: object) -> bool:
        """Whether a module's ``__file__`` lies in the repository."""
        if not isinstance(file, str):
            return False
        path = os.path.realpath(file)
        if not path.startswith(self.root + os.sep):
            return False
        inside = path[len(self.root) :].split(os.sep)
        return _INSTALLED.isdisjoint(inside) and not path.startswith(_STANDARD_LIBRARY + os.sep)

    def loaded(self) -> list[ModuleType]:
        """Its modules that are imported already, the running script (``__main__``) among them."""
        # vars() instead of getattr: lazily filled modules would start importing.
        modules = [module for module in list(sys.modules.values()) if isinstance(module, ModuleType)]
        return [module for module in modules if self.owns(vars(module).get("__file__"))]


class Patch:
    """Objects replaced in the modules of one repository, imported already or still to come, and the way back:
    ``undo()``, or leave the ``with`` block.
    """

    def __init__(self, title: str, repository: Repository) -> None:
        self.title = title
        self.repository = repository
        self.active = False
        # By id: a real object and its stand-in; the object that a stand-in stands for.
        self._stand_ins: dict[int, tuple[Any, Any]] = {}
        self._originals: dict[int, Any] = {}
        self._modules: dict[int, ModuleType] = {}
        self._replaced: dict[tuple[int, str], tuple[ModuleType, Any, Any]] = {}

    @property
    def replaced(self) -> list[str]:
        """Every replaced name, as ``module.name``."""
        return [f"{module.__name__}.{name}" for (_, name), (module, _, _) in self._replaced.items()]

    def undo(self) -> None:
        """Put every replaced name back and stop watching imports; a second call does nothing."""
        HOOK.remove(self)
        for (_, name), (module, old, new) in self._replaced.items():
            # A name that its module bound anew in the meantime is the module's own again.
            if vars(module).get(name) is new:
                vars(module)[name] = old
        self._replaced.clear()
        self.active = False

    def serve(self, module: ModuleType) -> None:
        """Replace what a module of the repository holds by now."""
        if module.__name__.partition(".")[0] == "hybrid_encoder":
            return
        self._modules[id(module)] = module
        # All of them again: the running script goes on importing after it was served first.
        for known in self._modules.values():
            for name, value in list(vars(known).items()):
                if id(value) in self._stand_ins:
                    real, new = self._stand_ins[id(value)]
                elif id(value) in self._originals:
                    # Copied from a module that was served before (``from layers import *``).
                    real, new = self._originals[id(value)], value
                else:
                    continue
                if self.reaches(known, real):
                    self._replaced[id(known), name] = (known, real, new)
                    vars(known)[name] = new

    @contextlib.contextmanager
    def importing(self) -> Iterator[None]:
        """Around the execution of a module of the repository."""
        yield

    def reaches(self, module: ModuleType, real: Any) -> bool:
        """Whether an object is replaced in a module."""
        return True

    def _replace(self, real: Any, new: Any) -> None:
        self._stand_ins[id(real)] = (real, new)
        self._originals[id(new)] = real

    def _start(self) -> None:
        for module in self.repository.loaded():
            self.serve(module)
        HOOK.add(self)
        self.active = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.undo()

    def __str__(self) -> str:
        if not self.active:
            return f"{self.title}: undone"
        return "\n  ".join([f"{self.title}: {len(self.replaced)} names replaced", *self.replaced])


class ImportHook(MetaPathFinder):
    """Lets patches serve a module of their repository once it has been executed; other imports pass by."""

    def __init__(self) -> None:
        self.patches: list[Patch] = []
        self._searched: set[str] = set()

    def add(self, patch: Patch) -> None:
        self.patches.append(patch)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def remove(self, patch: Patch) -> None:
        if patch in self.patches:
            self.patches.remove(patch)
        if not self.patches and self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if name in self._searched:
            return None  # another finder asks all finders, as this one does
        self._searched.add(name)
        try:
            for finder in list(sys.meta_path):
                find = getattr(finder, "find_spec", None)
                spec = None if finder is self or find is None else find(name, path, target)
                if spec is not None:
                    return self._watched(spec)
            return None
        finally:
            self._searched.discard(name)

    def _watched(self, spec: ModuleSpec) -> ModuleSpec | None:
        loader = spec.loader
        if not isinstance(loader, SourceFileLoader) or not self._owners(spec.origin):
            return None
        watched = loader  # narrowed for the closure

        def exec_module(module: ModuleType) -> None:
            del vars(watched)["exec_module"]  # the loader stays behind as it was
            with contextlib.ExitStack() as stack:
                for patch in self._owners(spec.origin):
                    stack.enter_context(patch.importing())
                watched.exec_module(module)
            for patch in self._owners(spec.origin):  # the module itself may have patched, or undone
                patch.serve(module)

        vars(watched)["exec_module"] = exec_module
        return spec

    def _owners(self, file: object) -> list[Patch]:
        return [patch for patch in self.patches if patch.repository.owns(file)]


HOOK = ImportHook()


class ModuleProxy(ModuleType):
    """A module with some names of its own; everything else is the real module's."""

    def __init__(self, real: ModuleType, names: dict[str, Any]) -> None:
        super().__init__(real.__name__)
        vars(self).clear()  # the blank __doc__, __spec__, ... of a new module would hide the real ones
        vars(self).update(names, __doc__=real.__doc__)
        vars(self)[_REAL] = real

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)[_REAL], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)[_REAL], name, value)

    def __delattr__(self, name: str) -> None:
        delattr(vars(self)[_REAL], name)

    def __dir__(self) -> list[str]:
        return sorted({*dir(vars(self)[_REAL]), *vars(self)} - {_REAL})

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, (vars(self)[_REAL].__name__,)


class StandsFor(type):
    """Metaclass of a class that takes another's place: ``isinstance`` and ``issubclass`` see the other.

    ``stands_for`` in the class body names the other, or a tuple of classes; subclasses are ordinary again.
    """

    def __instancecheck__(cls, instance: Any) -> bool:
        real = vars(cls).get("stands_for")
        return isinstance(instance, real) if real else super().__instancecheck__(instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        real = vars(cls).get("stands_for")
        return issubclass(subclass, real) if real else super().__subclasscheck__(subclass)
