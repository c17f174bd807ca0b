"""Models built without weights, and filled with those of a checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from hybrid_encoder.errors import CheckpointError


class _NoInitialisation(TorchFunctionMode):
    """Turns the drawing of random numbers into nothing, and leaves parameters without memory where they are."""

    INIT = ("normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_uniform_")
    FILLS = frozenset([Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, *(getattr(nn.init, name) for name in INIT)])
    DRAWS = frozenset([torch.randn, torch.rand])
    CHANGES = frozenset([Tensor.clamp_, Tensor.mul_, Tensor.add_, Tensor.zero_, Tensor.fill_])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.FILLS:
            return args[0] if args else kwargs["tensor"]
        if func in self.DRAWS:
            return torch.empty(*args, **{**kwargs, "device": "meta"})
        if (func in self.CHANGES or func is Tensor.to) and args[0].is_meta:
            return args[0]  # there is nothing to change, or to move to where the values will be
        if func is F.batch_norm:  # timm runs some stems, to see what size they give; the statistics are real
            return torch.empty_like(args[0] if args else kwargs["input"], device="meta")
        return func(*args, **kwargs)


@contextmanager
def no_initialisation() -> Iterator[None]:
    """Build models whose parameters have shapes and no memory: a checkpoint is about to bring the values.

    Buffers are real, since some of them are in no checkpoint. Other threads build models as ever.
    """
    thread = threading.get_ident()

    def drop_values(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta or threading.get_ident() != thread:
            return None  # as it is
        return nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)

    hook = register_module_parameter_registration_hook(drop_values)  # type: ignore[arg-type]  # it may return one
    try:
        with _NoInitialisation():
            yield
    finally:
        hook.remove()


def fill(module: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Load a state dict strictly; an error names the first key that does not fit.

    Names and shapes are compared first, so that nothing is allocated for a model that is larger than its file. Tensors
    are taken over where they need no other type and have memory of their own, so that weights are not held twice.

    Args:
        module: built under :func:`no_initialisation`, or as usual.
        state: tensors by name.
        path: of the checkpoint, for errors.

    Raises:
        CheckpointError: a key that is missing, has no place, or has another shape or kind of numbers; a tensor with
            values that are not finite.
    """
    own = module.state_dict()
    name = type(module).__name__
    if missing := sorted(set(own) - set(state)):
        raise CheckpointError(f"{path} has no key {missing[0]!r} ({len(missing)} missing), which this {name} needs.")
    if extra := sorted(set(state) - set(own)):
        raise CheckpointError(
            f"{path} has the key {extra[0]!r} ({len(extra)} in all), which this {name} has no place for."
        )
    for key, value in own.items():
        found = state[key]
        if found.shape != value.shape:
            raise CheckpointError(
                f"{path}: {key!r} is {tuple(found.shape)}, and this {name} needs {tuple(value.shape)}."
            )
        if found.is_floating_point() != value.is_floating_point():
            raise CheckpointError(
                f"{path}: {key!r} holds numbers of type {_type(found)}, and this {name} needs {_type(value)}; "
                "quantised weights are not read."
            )
    taken: set[int] = set()
    fitting = {}
    for key, value in own.items():
        fitting[key] = _alone(state[key].to(value.dtype), taken)
        if not is_finite(fitting[key]):
            raise CheckpointError(
                f"{path}: {key!r} holds values that are not finite, so that no prediction would be right; use an "
                "earlier checkpoint."
            )
    module.load_state_dict(fitting, strict=True, assign=True)


def _alone(value: Tensor, taken: set[int]) -> Tensor:
    """Return the tensor in memory that nothing else uses."""
    storage = value.untyped_storage()
    if not value.is_contiguous() or storage.nbytes() != value.nbytes or storage.data_ptr() in taken:
        value = value.clone(memory_format=torch.contiguous_format)
    taken.add(value.untyped_storage().data_ptr())
    return value


def is_finite(value: Tensor) -> bool:
    """Return whether no number of a tensor is infinite or NaN."""
    if not value.is_floating_point() or bool(value.sum().isfinite()):  # cheap, and right unless the sum overflows
        return True
    return bool(value.isfinite().all())


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
