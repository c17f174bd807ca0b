"""The import hook: modules of a repository are served once they have been executed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType
from typing import Protocol

from .repository import Repository


class ImportListener(Protocol):
    """What wants to know of the imports of one repository."""

    repository: Repository

    def importing(self) -> AbstractContextManager[None]:
        """Return a context in which a module of the repository is executed."""

    def serve(self, module: ModuleType) -> None:
        """Take note of a module of the repository, which has been executed."""


class ImportHook(MetaPathFinder):
    """Tells listeners of the modules of their repository; other imports pass by.

    It stands on ``sys.meta_path`` as long as there is a listener. The other finders find the module, and its own
    loader runs it: only the moment of execution is watched.
    """

    def __init__(self) -> None:
        self.listeners: list[ImportListener] = []
        self._searched: set[str] = set()

    def add(self, listener: ImportListener) -> None:
        """Tell a listener of every import from now on."""
        self.listeners.append(listener)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def remove(self, listener: ImportListener) -> None:
        """Forget a listener; one that is not known is passed over."""
        if listener in self.listeners:
            self.listeners.remove(listener)
        if not self.listeners and self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the other finders find, with its execution watched; None leaves the import to them."""
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
                for listener in self._owners(spec.origin):
                    stack.enter_context(listener.importing())
                watched.exec_module(module)
            for listener in self._owners(spec.origin):  # the module itself may have patched, or undone
                listener.serve(module)

        vars(watched)["exec_module"] = exec_module
        return spec

    def _owners(self, file: object) -> list[ImportListener]:
        return [listener for listener in self.listeners if listener.repository.owns(file)]


HOOK = ImportHook()
