"""Names replaced in the modules of one repository, nowhere else, with a way back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType, TracebackType
from typing import Any

from typing_extensions import Self

from .hook import HOOK
from .repository import Repository


class ReplacedNames:
    """Objects replaced wherever a module of one repository holds them, and the way back.

    :meth:`replace` says which objects; nothing happens before :meth:`start`, which serves the modules that have been
    imported and watches imports to come. :meth:`undo`, or leaving the ``with`` block, puts every name back.

    Args:
        title: begins the text that ``str()`` gives.
        repository: whose modules are served.
    """

    def __init__(self, title: str, repository: Repository) -> None:
        self.title = title
        self.repository = repository
        self.active = False
        # By id, as not every object has a hash: (real object, its stand-in), and a stand-in's real object.
        self._stand_ins: dict[int, tuple[Any, Any]] = {}
        self._originals: dict[int, Any] = {}
        self._modules: dict[int, ModuleType] = {}
        self._replaced: dict[tuple[int, str], tuple[ModuleType, Any, Any]] = {}

    def replace(self, real: Any, stand_in: Any) -> None:
        """Note that ``stand_in`` takes the place of ``real``."""
        self._stand_ins[id(real)] = (real, stand_in)
        self._originals[id(stand_in)] = real

    def start(self) -> None:
        """Serve every module that has been imported, and those that will be."""
        for module in self.repository.loaded_modules():
            self.serve(module)
        HOOK.add(self)
        self.active = True

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
            return  # this library may lie in the repository's folder; it needs the real objects
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
        """Surround the execution of a module of the repository."""
        yield

    def reaches(self, module: ModuleType, real: Any) -> bool:
        """Return whether an object is replaced in a module; here always."""
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def __str__(self) -> str:
        if not self.active:
            return f"{self.title}: undone"
        return "\n  ".join([f"{self.title}: {len(self.replaced)} names replaced", *self.replaced])
