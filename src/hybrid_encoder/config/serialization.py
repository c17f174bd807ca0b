"""Configurations as JSON: checked when they are read, and read from files of older versions too."""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, Union

from typing_extensions import Self

from hybrid_encoder.config.architectures import dino_settings
from hybrid_encoder.config.checking import field_hints, shown
from hybrid_encoder.errors import ConfigError

MAX_BYTES = 2**20  # of a config.json; those of transformers are the longest, and have some thousand
FORMAT_VERSION = 3  # of config.json; a file without one is of version 0

T = TypeVar("T")
Content = dict[str, Any]


class Serializable:
    """What every configuration can do: become a dictionary and come back, and be copied with changes."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, nested, as JSON can hold them; of a tower's file of weights, its name alone."""
        return without_folders(dataclasses.asdict(self))  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build the configuration that ``to_dict`` describes.

        Raises:
            ConfigError: a field that does not exist, or a value that cannot be.
        """
        return decode(cls, values, cls.__name__)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        copy: Self = dataclasses.replace(self, **changes)  # type: ignore[type-var]
        return copy


def without_folders(values: Content) -> Content:
    """Return the fields of a configuration without the folders of the files that towers started from.

    They are one machine's, and a saved model has its weights beside it.
    """
    found = dict(values)
    for tower in ("semantic", "spatial"):
        if isinstance(part := found.get(tower), dict) and isinstance(start := part.get("pretrained"), str):
            found[tower] = {**part, "pretrained": re.split(r"[\\/]", start)[-1]}
    if isinstance(found.get("encoder"), dict):
        found["encoder"] = without_folders(found["encoder"])
    return found


def decode(cls: type[T], values: Any, where: str) -> T:
    """Build a dataclass from a dictionary, nested dataclasses and tuples included.

    Args:
        cls: the dataclass.
        values: its fields by name; those left out take their defaults.
        where: what to call this place in an error message.

    Raises:
        ConfigError: no dictionary, a field that does not exist, or a value that cannot be.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is {shown(values)}; a JSON object is needed.")
    hints = field_hints(cls)
    for name in values:
        if name not in hints:
            raise ConfigError(
                f"{where} has the unknown field {shown(name)}; the fields are {', '.join(sorted(hints))}."
            )
    # Types and ranges are checked by the dataclass itself, whoever makes it.
    return cls(**{name: _decode_value(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _decode_value(hint: Any, value: Any, where: str) -> Any:
    """Turn a value's containers into those of the hint."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _decode_value(args[0], value, where)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        # Unions here are "T or None", "int or a literal", and several configurations: of these the one that has most of
        # the fields says how to read a container, and otherwise the first part.
        names = set(value) if isinstance(value, dict) else set()
        kinds = [kind for kind in args if dataclasses.is_dataclass(kind) and isinstance(kind, type)]
        kind = max(kinds, key=lambda each: len(names & set(field_hints(each))), default=args[0])
        return _decode_value(kind, value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return decode(hint, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} is {shown(value)}; a list is needed.")
        return tuple(value)
    return value


def parse(text: bytes) -> Content:
    """Parse the text of a ``config.json``, of any version, as :func:`migrate` returns it.

    Raises:
        ConfigError: no JSON object in UTF-8, one that is too long or too deep, or a name that stands twice.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"it has {len(text)} bytes, and a configuration at most {MAX_BYTES}.")
    try:
        content = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_object)
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(f"it is not JSON in UTF-8 ({reason}).") from error
    if not isinstance(content, dict):
        raise ConfigError(f"it holds {shown(content)}; a JSON object is needed.")
    return migrate(content)


def _object(pairs: list[tuple[str, Any]]) -> Content:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{shown(twice)} stands twice; remove one of the two.")
    return content


def migrate(content: Content) -> Content:
    """Return the content of a ``config.json`` of any version as this version writes it.

    Raises:
        ConfigError: a newer version than this one, or no version number.
    """
    version = content.get("format_version", 0)
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise ConfigError(f"format_version is {shown(version)}; it must be a whole number of at least 0.")
    if version > FORMAT_VERSION:
        raise ConfigError(
            f"format_version is {shown(version)}, and this release of hybrid-encoder reads up to {FORMAT_VERSION}; "
            "upgrade it: pip install -U hybrid-encoder."
        )
    for step in MIGRATIONS[version:]:
        content = step(content)
    return {**content, "format_version": FORMAT_VERSION}


def _from_version_0(content: Content) -> Content:
    """Rename two fields of the prompts: ``count`` was ``num_tokens``' name, and ``align`` that of ``decoder_input``."""
    renamed = {"count": "num_tokens", "align": "decoder_input"}
    if not isinstance(content.get("config"), dict):
        return content  # an error of its own, once it is decoded
    config = dict(content["config"])
    holder = config
    if isinstance(config.get("encoder"), dict):  # of a whole model
        holder = config["encoder"] = dict(config["encoder"])
    if isinstance(holder.get("prompts"), dict):
        holder["prompts"] = {renamed.get(name, name): value for name, value in holder["prompts"].items()}
    return {**content, "config": config}


def _from_version_1(content: Content) -> Content:
    """Keep of a model of transformers what describes its architecture; all that transformers writes was kept before."""
    try:
        overrides = _holders(content)[-1]["spatial"]["overrides"]
        if isinstance(overrides["config"], dict):
            overrides["config"] = dino_settings(overrides["config"])
    except (IndexError, KeyError, TypeError):
        pass  # no such model, or an error of its own once it is decoded
    return content


def _from_version_2(content: Content) -> Content:
    """Write out that the text tower is frozen where a file leaves ``train_text`` out: that was the default."""
    for holder in _holders(content):
        if isinstance(holder.get("prompts"), dict):
            holder["prompts"] = {"train_text": False, **holder["prompts"]}
    return content


def _holders(content: Content) -> list[Content]:
    """Return the configurations in a file, from the whole model to its encoder, which may be inside another one."""
    config: Any = content.get("config")
    found: list[Content] = []
    while isinstance(config, dict) and len(found) < 3:  # whole model, multi-frame encoder, encoder
        found.append(config)
        config = config.get("encoder")
    return found


MIGRATIONS: tuple[Callable[[Content], Content], ...] = (_from_version_0, _from_version_1, _from_version_2)
"""The step at index n takes a file of version n to version n + 1."""
