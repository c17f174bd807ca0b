"""Buffers that no checkpoint holds, such as a mean: kept, and put back where their memory was emptied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hybrid_encoder.checkpoints.filling import no_initialisation


class _Real(TorchFunctionMode):
    """Makes tensors with memory, also where accelerate's ``init_empty_weights`` asks for others."""

    MAKES = frozenset([torch.empty, torch.full, torch.ones, torch.zeros])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in self.MAKES and str(kwargs.get("device")) == "meta":
            del kwargs["device"]
        if func is Tensor.to and "meta" in map(str, (*args[1:2], kwargs.get("device"))):
            return args[0]
        return func(*args, **kwargs)


@contextmanager
def real_constants() -> Iterator[None]:
    """Build a model so that its parameters alone are without memory, where they are meant to be.

    That is so under ``torch.device("meta")`` and accelerate's ``init_empty_weights``. What this package and others
    compute while they build, buffers among it, they read as well: without memory there would be nothing to read.
    """
    if not nn.LayerNorm(1).weight.is_meta:
        yield
        return
    with _Real(), torch.device("cpu"), no_initialisation():
        yield


def constants_of(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the buffers that are in no state dict, by name; those without memory are left out."""
    return {
        f"{name}.{key}" if name else key: buffer.detach().clone()
        for name, part in module.named_modules()
        for key, buffer in part._buffers.items()
        if buffer is not None and key in part._non_persistent_buffers_set and not buffer.is_meta
    }


@torch.no_grad()
def refill(module: nn.Module, constants: Mapping[str, Tensor]) -> None:
    """Put the values of :func:`constants_of` back; where a buffer has no memory, on the device of the parameters."""
    for name, value in constants.items():
        owner, _, key = name.rpartition(".")
        part = module.get_submodule(owner)
        buffer = part._buffers.get(key)
        if buffer is None:  # let go since
            continue
        if not buffer.is_meta:
            buffer.copy_(value)
            continue
        near = next((parameter.device for parameter in module.parameters() if not parameter.is_meta), None)
        if near is not None:
            part._buffers[key] = value.to(near, buffer.dtype)
