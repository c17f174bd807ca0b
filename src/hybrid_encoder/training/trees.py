"""Nested numbers and tensors as JSON and safetensors, which cannot run code when they are read; pickles can."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from hybrid_encoder.errors import CheckpointError, ConfigError

KINDS = {"tuple": tuple, "dict": dict, "counter": Counter}


def to_json(tree: Any) -> tuple[str, dict[str, Tensor]]:
    """Return a tree of dicts, lists, tuples, numbers, text and tensors as JSON, and its tensors by name.

    Raises:
        ConfigError: something else is in it.
    """
    tensors: dict[str, Tensor] = {}
    return json.dumps(_encode(tree, tensors, ""), indent=1), tensors


def from_json(text: bytes, tensors: dict[str, Tensor] | None = None) -> Any:
    """Return the tree that was written by :func:`to_json`.

    Raises:
        CheckpointError: it was not.
    """
    try:
        return _decode(json.loads(text), tensors or {})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"this is not the state of a run ({error}); take another checkpoint.") from None


def tensors_of(content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, in memory of their own.

    Raises:
        CheckpointError: it is none.
    """
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"this is not a safetensors file ({error}); take another checkpoint.") from None


def check_alike(found: Any, expected: Any, where: str) -> None:
    """Raise CheckpointError unless a tree that was read has the keys, lengths and kinds of value of another one."""
    if isinstance(expected, dict):
        alike = isinstance(found, dict) and found.keys() == expected.keys()
    elif isinstance(expected, list | tuple):
        alike = isinstance(found, list | tuple) and len(found) == len(expected)
    elif isinstance(expected, Tensor):
        alike = isinstance(found, Tensor) and found.shape == expected.shape
    elif isinstance(expected, bool | str):
        alike = type(found) is type(expected)
    elif isinstance(expected, int | float | np.number):
        alike = isinstance(found, int | float) and not isinstance(found, bool)
    else:
        alike = True  # what begins as None may become anything
    if not alike:
        raise CheckpointError(f"{where} is another one than that of this run; resume with the same settings.")
    if isinstance(expected, dict):
        for key, value in expected.items():
            check_alike(found[key], value, where)
    elif isinstance(expected, list | tuple):
        for one, other in zip(found, expected, strict=True):
            check_alike(one, other, where)


def _encode(value: Any, tensors: dict[str, Tensor], place: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor):
        tensors[place] = value.detach().cpu().contiguous().clone()
        return {"tensor": place}
    if isinstance(value, dict):
        pairs = [[_encode(key, tensors, ""), _encode(item, tensors, f"{place}/{key}")] for key, item in value.items()]
        return {"counter" if isinstance(value, Counter) else "dict": pairs}
    if isinstance(value, list | tuple):
        items = [_encode(item, tensors, f"{place}/{index}") for index, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    raise ConfigError(
        f"the state of the run holds {type(value).__name__} at {place!r}; only numbers, text, tensors, lists and dicts "
        "can be saved: take another optimizer or scheduler."
    )


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    return KINDS[kind](_decode(content, tensors) if kind == "tuple" else {k: _decode(v, tensors) for k, v in content})
