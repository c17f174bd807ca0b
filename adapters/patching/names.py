"""Names replaced in the modules of one repository, nowhere else, with a way back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, MutableMapping, MutableSequence
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any

from typing_extensions import Self

from .hook import HOOK
from .repository import Repository

_Holder = MutableMapping[Any, Any] | MutableSequence[Any]


@dataclass(frozen=True)
class _Place:
    """Where an object was replaced: ``held[key]`` was ``real`` and is ``new``."""

    name: str
    held: _Holder
    key: Any
    real: Any
    new: Any

    def put_back(self) -> None:
        """Put the real object back, unless the place was given another one in the meantime."""
        with contextlib.suppress(LookupError):
            if self.held[self.key] is self.new:
                self.held[self.key] = self.real


class ReplacedNames:
    """Objects replaced wherever a module of one repository holds them, and the way back.

    :meth:`replace` says which objects; nothing happens before :meth:`start`, which serves the modules that have been
    imported and watches imports to come. :meth:`undo`, or leaving the ``with`` block, puts every name back.

    Args:
        title: begins the text that ``str()`` gives.
        repository: whose modules are served.
        registries: also replace what the dicts and lists of a module hold.
    """

    def __init__(self, title: str, repository: Repository, *, registries: bool = False) -> None:
        self.title = title
        self.repository = repository
        self.registries = registries
        self.active = False
        # By id, as not every object has a hash: (real object, its stand-in), and a stand-in's real object.
        self._stand_ins: dict[int, tuple[Any, Any]] = {}
        self._originals: dict[int, Any] = {}
        self._modules: dict[int, ModuleType] = {}
        self._replaced: dict[tuple[int, Any], _Place] = {}

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
        return [place.name for place in self._replaced.values()]

    def undo(self) -> None:
        """Put every replaced name back and stop watching imports; a second call does nothing."""
        HOOK.remove(self)
        for place in self._replaced.values():
            place.put_back()
        self._replaced.clear()
        self.active = False

    def serve(self, module: ModuleType) -> None:
        """Replace what a module of the repository holds by now."""
        if module.__name__.partition(".")[0] == "hybrid_encoder":
            return  # this library may lie in the repository's folder; it needs the real objects
        self._modules[id(module)] = module
        # All of them again: the running script goes on importing after it was served first.
        for known in self._modules.values():
            self._serve_held(vars(known), known.__name__, depth=2 if self.registries else 0, form="{}.{}")

    def _serve_held(self, held: _Holder, title: str, depth: int, form: str = "{}[{!r}]") -> None:
        """Replace what a module, dict or list holds.

        Args:
            held: by name, key or position.
            title: what is said of it.
            depth: how many dicts and lists within each other are looked into.
            form: of the title of one of its objects, from its own and the name, key or position.
        """
        items = held.items() if isinstance(held, MutableMapping) else enumerate(held)
        for key, value in list(items):
            if id(value) in self._stand_ins:
                real, new = self._stand_ins[id(value)]
            elif id(value) in self._originals:
                # Copied from a module that was served before (``from layers import *``).
                real, new = self._originals[id(value)], value
            else:
                if depth and type(value) in (dict, list):
                    self._serve_held(value, form.format(title, key), depth - 1)
                continue
            self._replaced[id(held), key] = _Place(form.format(title, key), held, key, real, new)
            held[key] = new

    @contextlib.contextmanager
    def importing(self) -> Iterator[None]:
        """Surround the execution of a module of the repository."""
        yield

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
