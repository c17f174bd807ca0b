"""The seam with other people's code: their repositories, as checked out by the user, on this encoder.

Submodules are loaded on first use; importing this package loads none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import manydepth, monodepth2, patching, recipes, runner

__all__ = ["manydepth", "monodepth2", "patching", "recipes", "runner"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
