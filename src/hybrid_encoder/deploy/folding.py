"""What is done to a model before it is traced, and to a file around it: whatever kind of model it is."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from hybrid_encoder.errors import InputError
from hybrid_encoder.models.base import HybridModel
from hybrid_encoder.towers.base import Tower

if TYPE_CHECKING:
    from onnx import ModelProto

M = TypeVar("M", bound=HybridModel)


def folded_copy(model: M) -> M:
    """Return a copy to trace: the same weights (float32, CPU, frozen), prompts computed, no text tower."""
    # deepcopy takes what the memo holds under an object's id in place of a copy of that object.
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("cpu", torch.float32), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to("cpu", torch.float32 if buffer.is_floating_point() else None)
    folded = copy.deepcopy(model, memo).eval()
    folded.fold_prompts()
    return folded


def freeze_positions(model: nn.Module) -> None:
    """Make constants of the positions that a model's towers resampled in a pass before."""
    for module in model.modules():
        if isinstance(module, Tower):
            module.freeze_positions()


def write_metadata(proto: ModelProto, values: Mapping[str, str]) -> None:
    """Put these texts, and no others, into a file's metadata."""
    del proto.metadata_props[:]
    for name, value in values.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = name, value


def writable_path(path: str | Path) -> Path:
    """Return a path to write to; raise InputError unless a file can stand there, before the work and not after it."""
    path = Path(path)
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # too long, a null character
        raise InputError(f"{str(path)[:100]!r} cannot be written ({error}); give another path.") from None
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the path of a file to write.")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a folder; make it first, or give another path.")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path.parent} does not let you write; give another path.")
    return path
