"""Files of weights: read safely, checked once, and handed on as tensors and settings."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hybrid_encoder.checkpoints.archives import read_content
from hybrid_encoder.checkpoints.pickles import Foreign
from hybrid_encoder.checkpoints.stored import Damaged, StoredTensor, load
from hybrid_encoder.config.checking import shown
from hybrid_encoder.config.serialization import MAX_BYTES, parse
from hybrid_encoder.errors import CheckpointError, ConfigError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = "model.safetensors.index.json"  # in the place of WEIGHTS where they are in several files
FILES = (".ckpt", ".pth", ".pt", ".safetensors", ".bin")
FOLDER_HINT = "For a folder with encoder.pth and depth.pth, name the folder."
STATES = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params")
SHARD = re.compile(r"\w[\w.-]*\.safetensors", re.ASCII)
WRAPPERS = ("module.", "_orig_mod.", "model.")  # what DataParallel, torch.compile and Lightning put before every name


@dataclass(frozen=True)
class WeightFile:
    """What a file of weights holds, checked.

    Attributes:
        path: of the file.
        tensors: by name; dense, of whole or floating-point numbers, in memory of their own.
        settings: the numbers and texts that stand beside them.
        under: the name that the tensors stood under in a whole training checkpoint, such as ``"state_dict"``.
    """

    path: Path
    tensors: dict[str, Tensor]
    settings: dict[str, int | float | str | None]
    under: str | None = None


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a file of weights; see :func:`read_weights`."""
    return read_weights(Path(path)).tensors


def read_weights(path: Path) -> WeightFile:
    """Read a ``.safetensors`` file, or one that ``torch.save`` wrote, in its format of today or of before 1.6.

    Nothing in the file is run, and objects other than tensors, numbers and text are not read. In a whole training
    checkpoint, the state dict is found under its usual names. A prefix that wrappers put before all names is taken off.

    Raises:
        CheckpointError: the file is missing, damaged, or holds no state dict.
    """
    try:
        with open(path, "rb", opener=open_file) as file:
            size = os.fstat(file.fileno()).st_size
            content, spans = read_content(file, size, path.suffix == ".safetensors")
            entries, under = _state_dict(content)
            stored, settings = _sort(entries if under is None else {**_plain(content), **entries})
            tensors = load(file, size, stored, spans)
    except Damaged as error:
        raise CheckpointError(f"{path} {error}.") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"{path} cannot be read ({reason}); check the path.") from error
    except (MemoryError, RuntimeError) as error:  # the latter is torch's
        raise CheckpointError(f"{path} has more tensors than fit into memory.") from error
    return WeightFile(path, tensors, settings, under)


def open_file(path: str, flags: int) -> int:
    """Open a regular file alone: a pipe would wait for a writer for ever, and a device has no end."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(None, "it is not a file")
    return handle


def _state_dict(content: Any) -> tuple[Mapping[Any, Any], str | None]:
    """Return the dictionary of names and tensors, and the name that it stands under, if any."""
    if not isinstance(content, dict):
        raise Damaged(f"holds a {_kind(content)}; a state dict (names to tensors) is needed")
    inside = {name: value for name, value in content.items() if isinstance(value, dict) and _has_tensors(value)}
    usual = [name for name in STATES if name in inside]
    if not usual and _has_tensors(content):
        return content, None
    usual = usual or list(inside)
    if not usual:
        names = ", ".join(repr(name) for name in list(content)[:5]) or "nothing"
        raise Damaged(f"holds no 'state_dict' and no tensors: its entries are {names}; a file of weights is needed")
    if usual[0] not in STATES and len(usual) > 1:
        names = ", ".join(repr(name) for name in usual[:5])
        raise Damaged(f"holds several state dicts ({names}); save the one to be loaded alone")
    return inside[usual[0]], str(usual[0])


def _has_tensors(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, StoredTensor) for value in content.values())


def _plain(content: Mapping[Any, Any]) -> dict[Any, Any]:
    return {name: value for name, value in content.items() if isinstance(value, (int, float, str))}


def _sort(entries: Mapping[Any, Any]) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """Tell tensors from what stands beside them, and take off the prefix that all tensors' names have in common."""
    tensors: dict[str, StoredTensor] = {}
    settings: dict[str, Any] = {}
    for name, value in entries.items():
        if isinstance(value, StoredTensor):
            if not isinstance(name, str):
                raise Damaged(f"has the key {name!r}; a state dict has names, which are text")
            tensors[name] = value
        elif isinstance(name, str) and (value is None or isinstance(value, (int, float))):
            settings[name] = value
        elif isinstance(name, str) and ("." in name or (isinstance(value, Foreign) and value.is_tensor)):
            # A setting has no such name, and another kind of tensor is no setting.
            raise Damaged(f"has the key {name!r}, which is a {_kind(value)}; a dense tensor of plain numbers is needed")
        elif isinstance(name, str) and isinstance(value, str):
            settings[name] = value
    while prefix := next((p for p in WRAPPERS if tensors and all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors, settings


def _kind(value: Any) -> str:
    return value.name if isinstance(value, Foreign) else type(value).__name__


def read_shards(index: Path) -> dict[str, Tensor]:
    """Read the tensors of a model that was saved in several safetensors files, as transformers does with large ones.

    Args:
        index: ``model.safetensors.index.json``, whose ``weight_map`` says for each tensor which file it is in.

    Raises:
        CheckpointError: no such index; files elsewhere than beside it, or without what it says of them.
    """
    try:
        with open(index, "rb", opener=open_file) as file:
            places = parse(file.read(MAX_BYTES + 1)).get("weight_map")
    except OSError as error:
        raise CheckpointError(f"{index} cannot be read ({error.strerror or error}); check the path.") from error
    except ConfigError as error:
        raise CheckpointError(f"{index} is not an index of weights: {error}") from error
    if not isinstance(places, dict):
        raise CheckpointError(f"{index} has no 'weight_map', which says in which file each tensor is.")
    if wrong := [name for name in places.values() if not isinstance(name, str) or not SHARD.fullmatch(name)]:
        raise CheckpointError(f"{index} names {shown(wrong[0])}; the weights' files must be .safetensors beside it.")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        found = read_tensors(index.with_name(name))
        for key in (key for key, place in places.items() if place == name):
            if key not in found:
                raise CheckpointError(f"{index.with_name(name)} has no {key!r}, which {index.name} says it holds.")
            tensors[key] = found[key]
    return tensors
