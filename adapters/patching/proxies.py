"""Objects that pass for another one: modules with some names of their own, and classes in another's place."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

_REAL = "__hybrid_encoder_real__"


class ModuleProxy(ModuleType):
    """A module with some names of its own; everything else is the real module's.

    Args:
        real: the module that it stands for.
        names: the proxy's own.
    """

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


class PassesFor:
    """Mixin of a module that takes the place of another class's instance: ``isinstance`` sees both classes.

    ``stands_for`` in the instance names the other class; without it an instance is what it is.
    """

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        stands_for: type | None = vars(self).get("stands_for")
        return type(self) if stands_for is None else stands_for

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The default compares __class__ with the type; and a copy is an instance of the type alone.
        state = {name: value for name, value in vars(self).items() if name != "stands_for"}
        return object.__new__, (type(self),), state

    def _get_name(self) -> str:
        return type(self).__name__
