"""Run somebody's script, patched, without editing it.

What ``python train.py ARGS`` or ``python -m package.module ARGS`` would run, with the patch in place before its
first line.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from hybrid_encoder.errors import InputError

from .patching.repository import Patch


def run(command: Sequence[str], patch: Callable[[], Patch], *, show: bool = False) -> Patch:
    """Patch, then run a script or module as the main program.

    ``sys.argv``, ``sys.path`` and ``__main__`` are what they would be under ``python``, and stay so: a process runs
    one program.

    Args:
        command: ``["train.py", *arguments]`` or ``["-m", "package.module", *arguments]``.
        patch: applies the patch; called when the program's folder is on the path.
        show: patch, and do not run.

    Returns:
        The patch, still in place unless only shown.

    Raises:
        InputError: no such script or module.
    """
    if command[0] == "-m":
        if len(command) < 2:
            raise InputError("-m names no module; give -m package.module and its arguments.")
        arguments = list(command[2:])
        sys.path.insert(0, os.getcwd())
        file, package = _module_file(command[1])
    else:
        arguments = list(command[1:])
        file, package = Path(command[0]).absolute(), None
        if not file.is_file():
            raise InputError(f"{command[0]} is no script; run this where it lies, or give its path.")
        sys.path.insert(0, str(file.parent))
    code = compile(file.read_bytes(), str(file), "exec")  # a script that cannot run is found out before the patch

    main = ModuleType("__main__")
    vars(main).update({"__file__": str(file), "__package__": package, "__builtins__": __builtins__})
    sys.modules["__main__"] = main
    sys.argv = [str(file) if command[0] == "-m" else command[0], *arguments]
    applied = patch()
    if show:
        applied.undo()
        return applied
    exec(code, vars(main))
    return applied


def _module_file(name: str) -> tuple[Path, str]:
    """Where a module's source lies, and its package."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise InputError(f"there is no module {name!r}; run this in the folder that holds its package.")
    return Path(spec.origin), spec.parent or ""
