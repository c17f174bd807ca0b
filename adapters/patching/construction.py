"""A class of a repository, answered by another network wherever and however it is reached."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Call:
    """A call of a replaced class or function.

    Args:
        real: the repository's own class or function.
        args, kwargs: as they were given.
        arguments: by name, defaults included.
        build_own: builds what the repository itself would have built.
        place: the object that the caller gets, of a class; what is built becomes it. None of a function.
    """

    real: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    arguments: dict[str, Any]
    build_own: Callable[[], nn.Module]
    place: nn.Module | None = None

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def owner(self, network: nn.Module) -> nn.Module:
        """Return the object that lives on as a network that was built for this call."""
        return network if self.place is None else self.place


Answer = Callable[[Call], nn.Module]
"""Makes the network of a call; ``call.build_own()`` leaves it to the repository."""


class ReplacedClass:
    """A class whose construction is answered by another network.

    The class itself stays what and where it is, and only its ``__init__`` is extended. So it does not matter whether a
    caller finds it in the package, in the module that defines it, in a registry or in a dict, and
    ``super(Name, self).__init__()`` in it means what it meant. The object that Python has made for the call becomes the
    network that was built, of that network's class. Subclasses of the repository's own are left alone.

    Args:
        real: the class.
        answer: builds what takes its place.
    """

    def __init__(self, real: type[nn.Module], answer: Answer) -> None:
        self.real = real
        self._own = vars(real).get("__init__")  # None where it is inherited
        own = real.__init__
        signature = inspect.signature(real)

        @functools.wraps(own)
        def __init__(self: nn.Module, *args: Any, **kwargs: Any) -> None:
            if type(self) is not real:
                own(self, *args, **kwargs)
                return

            def build_own() -> nn.Module:
                own(self, *args, **kwargs)
                return self

            arguments = bind(signature, args, kwargs)
            network = answer(Call(real, args, kwargs, arguments, build_own, self))
            if network is not self:
                become(self, network)
                vars(self)["stands_for"] = real

        self._extended = __init__

    @property
    def name(self) -> str:
        """Of the class, with the module that defines it."""
        return f"{self.real.__module__}.{self.real.__qualname__}"

    def start(self) -> None:
        """Let the builder answer from now on."""
        self.real.__init__ = self._extended  # type: ignore[method-assign]

    def undo(self) -> None:
        """Give the class its own constructor back, unless it was given another one in the meantime."""
        if vars(self.real).get("__init__") is not self._extended:
            return
        if self._own is None:
            del self.real.__init__
        else:
            self.real.__init__ = self._own  # type: ignore[method-assign]


def bind(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name, defaults included."""
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def become(place: nn.Module, network: nn.Module) -> None:
    """Let an object be a network from now on; for what class it passes is kept."""
    stands_for = vars(place).get("stands_for")
    place.__dict__ = network.__dict__
    if type(place) is not type(network):
        place.__class__ = type(network)
    if stands_for is not None:
        vars(place)["stands_for"] = stands_for
