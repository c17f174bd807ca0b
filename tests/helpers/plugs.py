"""Tests that run the real library: each gives a row of the table of what plugs in where, docs/integrations.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Test = TypeVar("Test", bound=Callable[..., object])


def plugs(library: str, what: str, *does: str) -> Callable[[Test], Test]:
    """Mark a test as the evidence of one row; ``tests/integrations/test_table.py`` reads the arguments, as literals.

    Args:
        library: as its package is called.
        what: what of it the encoder plugs into, in code.
        does: what the test does with the real library: build, run, train, save, load, export.
    """
    unknown = set(does) - {"build", "run", "train", "save", "load", "export"}
    if unknown or not does:
        raise ValueError(f"does is {does}; words of build, run, train, save, load, export are needed.")
    return lambda test: test
