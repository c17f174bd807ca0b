"""Settings of a training from a file: the ``run.json`` of an earlier run, or a recipe in YAML or JSON."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from hybrid_encoder.errors import ConfigError, shortened

if TYPE_CHECKING:
    from hybrid_encoder.training.stage_recipe import StageRecipe

R = TypeVar("R", bound="StageRecipe")
LARGEST = 1 << 24  # bytes: a run.json names the frames of a large training
# In a run.json: what it was, not what was asked for.
OF_THE_RUN = {"processes", "trained_on", "teacher_sha256", "items_sha256", "pictures"}
SAID_BY_ALL = (("compile", False),)  # in every run.json, and not every command has the option
ELSEWHERE = {"config_file", "resume", "resume_from", "output"}  # what a file does not decide
SETTINGS = "settings"


def _take_config(context: typer.Context, file: Path | None) -> Path | None:
    """Make what a file says the defaults of the command, and keep the recipe's settings for :func:`from_file`."""
    if file is None or context.resilient_parsing:
        return file
    settings = {name: value for name, value in read_settings(file).items() if name not in OF_THE_RUN}
    if isinstance(numbers := settings.get("intrinsics"), list) or "," in str(numbers):  # the option's name for them
        del settings["intrinsics"]
        settings["camera_matrix"] = ",".join(map(str, numbers)) if isinstance(numbers, list) else numbers
    context.meta[SETTINGS] = (file, settings)
    in_recipes, defaults = _fields_of_recipes(), {}
    for parameter in context.command.params:
        name = parameter.name or ""
        value = settings.get(name)
        if value is not None and name not in ELSEWHERE and name not in in_recipes:
            several = parameter.nargs != 1 or getattr(parameter, "multiple", False)
            defaults[name] = [value] if several and not isinstance(value, list) else value
    context.default_map = {**(context.default_map or {}), **defaults}
    return file


def _fields_of_recipes() -> set[str]:
    """Return the names of the settings that recipes have: an option of that name changes the recipe by itself."""
    from hybrid_encoder.config.checking import field_hints
    from hybrid_encoder.pretraining.recipes import ClipRecipe, DinoRecipe
    from hybrid_encoder.training.bev import BevRecipe
    from hybrid_encoder.training.recipes import CoarseRecipe, FineRecipe

    recipes = (CoarseRecipe, FineRecipe, BevRecipe, ClipRecipe, DinoRecipe)
    return {name for recipe in recipes for name in field_hints(recipe)}


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="The run.json of an earlier run, to repeat it, or settings in a YAML or JSON file; options override it.",
        is_eager=True,
        callback=_take_config,
    ),
]


def read_settings(file: Path) -> dict[str, Any]:
    """Read settings by name from a JSON or YAML file.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        if not file.is_file():
            raise ConfigError(f"{file} is not a file; give a run.json, or settings in a YAML or JSON file.")
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ConfigError(f"{file} has more than {LARGEST} bytes; give a file of settings.")
        settings = json.loads(content) if file.suffix.lower() == ".json" else _parse_yaml(content)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}); give another file.") from None
    except (ValueError, RecursionError) as error:
        reason = shortened(" ".join(str(error).split()), 200)
        raise ConfigError(f"{file} holds no settings ({reason}); write JSON, or YAML such as 'lr: 0.0001'.") from None
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise ConfigError(f"{file} holds no settings by name; write lines such as 'lr: 0.0001'.")
    return settings


def _parse_yaml(content: bytes) -> Any:
    import yaml  # type: ignore[import-untyped]

    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(content, yaml.SafeLoader)):
            raise ValueError("it has references, *name; write the values themselves")
        return yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def from_file(context: typer.Context, recipe: R) -> R:
    """Return a recipe with the settings of the file that ``--config`` names.

    Raises:
        ConfigError: a setting that is neither one of the recipe nor an option of the command, or a wrong value.
    """
    from hybrid_encoder.config.checking import check_value, field_hints

    file, settings = context.meta.get(SETTINGS, (None, {}))
    hints, changes = field_hints(type(recipe)), {}
    options = {parameter.name for parameter in context.command.params} - ELSEWHERE
    for name, value in settings.items():
        if name in hints:
            changes[name] = _fitting(hints[name], value, name)
            check_value(hints[name], changes[name], f"{file}: {name}")
        elif name not in options and (name, value) not in SAID_BY_ALL:
            known = ", ".join(sorted(options | hints.keys()))
            raise ConfigError(f"{file} has the unknown setting {shortened(name, 80)!r}; the settings are {known}.")
    if "epochs" in changes and "steps" not in changes:
        changes["steps"] = 0
    return dataclasses.replace(recipe, **changes)


def _fitting(hint: Any, value: Any, name: str) -> Any:
    """Return a value as recipes have it: a size from text, a number that YAML takes for text (1e-4), no lists."""
    from hybrid_encoder.cli.options import parse_size
    from hybrid_encoder.config.checking import fits

    if isinstance(value, str) and not fits(hint, value):
        if name == "size":
            return parse_size(value)
        if hint == tuple[int, int]:
            return parse_size(value, name)
        with suppress(ValueError):
            return float(value)
    return _as_tuples(value)


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value
