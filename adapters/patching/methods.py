"""One method of a repository's classes, extended wherever a class defines it, with a way back."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any


class ExtendedMethod:
    """Wraps the method of one name in every class that defines it.

    Args:
        name: of the method.
        wrap: takes the class's own function to the one in its place.

    Attributes:
        classes: those whose method is extended now.
    """

    def __init__(self, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self.name = name
        self.wrap = wrap
        self._extended: dict[type, tuple[Callable[..., Any], Callable[..., Any]]] = {}  # own method, extended one

    @property
    def classes(self) -> list[type]:
        return list(self._extended)

    @property
    def replaced(self) -> list[str]:
        """Every extended method, as ``module.class.method``."""
        return [f"{cls.__module__}.{cls.__qualname__}.{self.name}" for cls in self._extended]

    def serve(self, module: ModuleType) -> None:
        """Extend the method in the classes that a module holds by now."""
        for cls in list(vars(module).values()):
            if isinstance(cls, type) and self.name in vars(cls) and cls not in self._extended:
                own = vars(cls)[self.name]
                extended = self.wrap(own)
                self._extended[cls] = own, extended
                setattr(cls, self.name, extended)

    def undo(self) -> None:
        """Give every class its own method back, unless it was given another one in the meantime."""
        for cls, (own, extended) in self._extended.items():
            if vars(cls).get(self.name) is extended:
                setattr(cls, self.name, own)
        self._extended.clear()
