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

from .patching.replacing import Patch


def run_script(command: Sequence[str], patch: Callable[[], Patch], *, show: bool = False) -> Patch:
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
        AdapterError: the program built or trained networks, and none of ours.
    """
    as_module = command[0] == "-m"
    file, package = _enter_module(command) if as_module else _enter_script(command[0])
    code = compile(file.read_bytes(), str(file), "exec")  # a syntax error is found before anything is patched

    main = ModuleType("__main__")
    vars(main).update({"__file__": str(file), "__package__": package, "__builtins__": __builtins__})
    sys.modules["__main__"] = main
    sys.argv = [str(file), *command[2:]] if as_module else list(command)
    applied = patch()
    if show:
        applied.undo()
        return applied
    try:
        exec(code, vars(main))
    except SystemExit as end:
        if end.code:
            raise
        applied.watch.check_used()  # a program that ends by itself has still to be told
        raise
    applied.watch.check_used()
    return applied


def _enter_script(script: str) -> tuple[Path, None]:
    """Return where a script lies, with its folder put first on the path."""
    file = Path(script).absolute()
    if not file.is_file():
        raise InputError(f"{script} is not a script; run this where it lies, or give its path.")
    sys.path.insert(0, str(file.parent))
    return file, None


def _enter_module(command: Sequence[str]) -> tuple[Path, str]:
    """Return where a module's source lies, and its package, with the current folder put first on the path."""
    if len(command) < 2:
        raise InputError("-m names no module; give -m package.module and its arguments.")
    sys.path.insert(0, os.getcwd())
    name = command[1]
    spec = None
    try:
        if not name.startswith("."):
            spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name != name and not name.startswith(f"{error.name}."):
            raise  # the package is there, and something that it needs is missing
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise InputError(f"there is no module {name!r}; run this in the folder that holds its package.")
    return Path(spec.origin), spec.parent or ""
