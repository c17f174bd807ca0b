"""How the checkout of a codebase is recognised by its files, and which recipes serve it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from hybrid_encoder.errors import AdapterError, ConfigError

from .recipes import CodebaseRecipe, MatchingRecipe
from .unserved import REFUSED

Recipe = TypeVar("Recipe", CodebaseRecipe, MatchingRecipe)


@dataclass(frozen=True)
class Codebase(Generic[Recipe]):
    """A codebase that recipes serve.

    Args:
        marks: files of its checkout that no other codebase has together, ``"file"`` or ``"file:text in it"``, relative
            to the folder that is on the path; none for the one that is taken where no other is recognised.
        recipes: of its depth networks; several where a training may build one or another.
    """

    marks: tuple[str, ...]
    recipes: tuple[Recipe, ...]


def recipes_named(name: str, codebases: Mapping[str, Codebase[Recipe]]) -> tuple[Recipe, ...]:
    """Return the recipes of a codebase that is known by a name.

    Raises:
        ConfigError: another name.
    """
    if name not in codebases:
        raise ConfigError(f"recipe is {name!r}; give one of {', '.join(codebases)}, or a recipe of your own.")
    return codebases[name].recipes


def find_recipes(folders: Iterable[str], codebases: Mapping[str, Codebase[Recipe]]) -> tuple[Recipe, ...]:
    """Return the recipes of the checkout in the first folder that holds one, or of the first codebase.

    Args:
        folders: as on ``sys.path``.
        codebases: that may be there.

    Raises:
        AdapterError: the checkout is of a codebase that no recipe can serve.
    """
    usual = next(iter(codebases.values()))
    for folder in folders:
        for codebase in codebases.values():
            if codebase.marks and holds(folder, codebase.marks):
                return codebase.recipes
        for name, refused in REFUSED.items():
            if holds(folder, refused.marks):
                raise AdapterError(f"{Path(folder).absolute()} is a checkout of {name}: {refused.reason}")
        if any(holds(folder, [place]) for place in _places(usual)):
            break  # this is where Python would find the networks
    return usual.recipes


def _places(codebase: Codebase[Recipe]) -> list[str]:
    """Return where the modules of an unmarked codebase stand in its folder: a package or a file."""
    tops = {module.partition(".")[0] for recipe in codebase.recipes for module in recipe.networks}
    return [place for top in sorted(tops) for place in (top, f"{top}.py")]


def holds(folder: str, marks: Iterable[str]) -> bool:
    """Return whether a folder holds all of some files, and they the text that is looked for."""
    for mark in marks:
        file, _, text = mark.partition(":")
        path = os.path.join(folder, *file.split("/"))
        if not os.path.exists(path):
            return False
        if text and text.encode() not in Path(path).read_bytes():
            return False
    return True
