"""Types and ranges of settings: stated once, as annotations, and checked wherever a configuration is made.

A hint is a type (``int``, ``bool``, ``tuple[int, int]``, ``Literal[...]``, unions of these), a type with a rule
(``Annotated[int, Within(1, 256)]``), or a table of hints by name for a dictionary of settings.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from hybrid_encoder.errors import ConfigError


@dataclass(frozen=True)
class Within:
    """The range of a number, both ends included."""

    low: float
    high: float


@dataclass(frozen=True)
class Matching:
    """What a text looks like.

    Args:
        pattern: that matches the whole of it.
        says: the same in words.
    """

    pattern: str
    says: str


Table = Mapping[str, Any]
Text = Annotated[
    str, Matching(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{0,1000}", "a text of up to 1000 characters, none of control")
]
Count = Annotated[int, Within(1, 16384)]


def check_fields(config: Any, where: str) -> None:
    """Check every field of a dataclass against its annotation.

    Args:
        config: the dataclass.
        where: what error messages put before the names of its fields, ``"fusion."`` say.

    Raises:
        ConfigError: a value of another type, or out of its range.
    """
    for name, hint in field_hints(type(config)).items():
        check_value(hint, getattr(config, name), f"{where}{name}")


def field_hints(cls: type[Any]) -> dict[str, Any]:
    """Return the hints of a dataclass's fields, rules included."""
    hints: dict[str, Any] = _field_hints(cls)  # type: ignore[arg-type]  # a class has a hash
    return hints


@functools.cache
def _field_hints(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def check_value(hint: Any, value: Any, where: str) -> None:
    """Check one value.

    Raises:
        ConfigError: of another type, or out of its range.
    """
    if isinstance(hint, Mapping):
        check_table(hint, value, where)
    elif not fits(hint, value):
        raise ConfigError(f"{where} is {shown(value)}; it must be {describe(hint)}.")


def check_table(table: Table, values: Any, where: str) -> None:
    """Check a dictionary of settings by name.

    Raises:
        ConfigError: no dictionary, a name that the table lacks, or a wrong value.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is {shown(values)}; a JSON object is needed.")
    for name, value in values.items():
        if name not in table:
            raise ConfigError(
                f"{where} has the unknown setting {shown(name)}; the settings are {', '.join(sorted(table))}."
            )
        check_value(table[name], value, f"{where}.{name}")


def fits(hint: Any, value: Any) -> bool:
    """Return whether a value is what the hint says."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return fits(args[0], value) and all(_obeys(rule, value) for rule in args[1:])
    if origin in (Union, types.UnionType):
        return any(fits(part, value) for part in args)
    if origin is Literal:
        return any(type(value) is type(allowed) and value == allowed for allowed in args)
    if origin is tuple:  # JSON has lists
        if not isinstance(value, (tuple, list)):
            return False
        parts = args[:1] * len(value) if args[1:] == (...,) else args
        return len(parts) == len(value) and all(map(fits, parts, value))
    if origin is dict:
        return isinstance(value, dict)
    if hint in (type(None), None):
        return value is None
    if hint is bool or isinstance(value, bool):
        return hint is bool and isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float))
    return isinstance(value, hint)


def describe(hint: Any) -> str:
    """Return in words what a value has to be."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        rule = args[1]
        if isinstance(rule, Matching):
            return rule.says
        return f"{describe(args[0])} from {rule.low:g} to {rule.high:g}"
    if origin in (Union, types.UnionType):
        return " or ".join(describe(part) for part in args)
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(map(repr, args))
    if origin is tuple:
        if args[1:] == (...,):
            return f"a list, each {describe(args[0])}"
        return f"a list of {len(args)}, each {describe(args[0])}"
    if hint in (type(None), None):
        return "null"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names.get(hint, f"a {getattr(hint, '__name__', 'JSON object')}")


def shown(value: Any) -> str:
    """Return a value as an error message shows it: cut where it is long or nested."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a huge number"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxtuple = _SHORT.maxlist = _SHORT.maxdict = 8


def _obeys(rule: Any, value: Any) -> bool:
    if isinstance(rule, Within):
        return bool(rule.low <= value <= rule.high)
    if isinstance(rule, Matching):
        return re.fullmatch(rule.pattern, value) is not None
    return True
