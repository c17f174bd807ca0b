"""What a class of a repository takes and gives, compared with what its replacement does, before anything runs."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from hybrid_encoder.errors import AdapterError


@dataclass(frozen=True)
class Interface:
    """What a replacement reads of a call, takes in ``forward``, and gives.

    Args:
        arguments: of the constructor, which say what to build.
        inputs: of ``forward``, in order; None where it is not ours.
        key: what the keys of ``forward``'s outputs begin with, ``(key, scale)``; None where they are not named.
    """

    arguments: tuple[str, ...] = ()
    inputs: tuple[str, ...] | None = None
    key: str | None = None


def check_interface(real: Callable[..., Any], interface: Interface, where: str, fix: str) -> None:
    """Raise AdapterError unless a replacement can take the place of a class or function.

    Args:
        real: the repository's own.
        interface: of the replacement.
        where: it was found, for the message.
        fix: what to do where it cannot, for the message.
    """
    taken = inspect.signature(real).parameters
    missing = [argument for argument in interface.arguments if argument not in taken]
    if missing:
        raise AdapterError(f"{where} takes no argument {missing[0]!r}, which says what to build: {fix}")
    if not isinstance(real, type) or interface.inputs is None:
        return
    further = required_inputs(real)[len(interface.inputs) :]
    if further:
        more, known = (", ".join(map(repr, names)) for names in (further, interface.inputs))
        raise AdapterError(f"{where}: its forward needs {more} beside {known}, which nothing of ours reads: {fix}")
    keys = output_keys(real)
    if interface.key is not None and keys is not None and (interface.key, 2) not in keys:
        found = ", ".join(sorted(f"({name!r}, {', '.join('…' * (size - 1))})" for name, size in keys))
        raise AdapterError(
            f"{where}: its forward gives {found or 'no outputs under such keys'}, and the DPT decoder "
            f"({interface.key!r}, scale): {fix}"
        )


def required_inputs(real: type) -> list[str]:
    """Return the inputs that ``forward`` cannot do without, in order."""
    try:
        parameters: Sequence[inspect.Parameter] = list(inspect.signature(vars(real)["forward"]).parameters.values())[1:]
    except (KeyError, TypeError, ValueError):
        return []  # inherited or made of something else: nothing is known
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [x.name for x in parameters if x.default is inspect.Parameter.empty and x.kind not in variable]


def output_keys(real: type) -> set[tuple[str, int]] | None:
    """Return the keys under which a class stores tensors: the text that each begins with, and its length.

    Its methods and those of its bases are read, not run. None where there is no ``forward``, or no source to read.
    """
    if real.forward is nn.Module.forward:  # type: ignore[attr-defined]
        return None
    keys: set[tuple[str, int]] = set()
    for cls in real.__mro__:
        if cls is nn.Module:
            break
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        except (OSError, TypeError, SyntaxError):
            return None
        methods = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name != "__init__"]
        keys.update(key for method in methods for key in _stored_keys(method))
    return keys


def _stored_keys(method: ast.FunctionDef) -> Iterator[tuple[str, int]]:
    """Return the keys of ``outputs["disp", s] = ...``, ``{("disp", s): ...}`` and the like."""
    for node in ast.walk(method):
        places: list[ast.expr | None] = []
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            places = [node.slice]
        elif isinstance(node, ast.Dict):
            places = list(node.keys)
        elif isinstance(node, ast.DictComp):
            places = [node.key]
        for place in places:
            if isinstance(place, ast.Tuple) and place.elts and isinstance(place.elts[0], ast.Constant):
                first = place.elts[0].value
                if isinstance(first, str):
                    yield first, len(place.elts)
