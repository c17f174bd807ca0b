"""Weights that are on disk, or beside the accelerator, until they are needed (``device_map=`` of transformers)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module
from accelerate.utils import PrefixedDataset
from torch import Tensor, nn


def bring_in_at_once(module: nn.Module) -> None:
    """Let an offloaded module bring in all its weights when it is called, and not each of its parts its own.

    Accelerate brings in the weights of a part when that part is called. Parts of an encoder are read without, too: an
    attention reads the weights of its projections, an encoder the tables of its prompts.
    """
    if not hasattr(module, "_hf_hook"):  # which accelerate puts on every model that it moves
        return
    for name, hook in _offloading(module):
        if not hook.place_submodules:
            _replace(module, name, hook)
        return


def offloaded_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights that are offloaded, by name, one after the other, read from where they are."""
    for name, hook in _offloading(module):
        for key, value in module.get_submodule(name).named_parameters(recurse=hook.place_submodules):
            if value.is_meta:
                yield (f"{name}.{key}" if name else key), _weights(hook)[key]


def _replace(module: nn.Module, name: str, hook: AlignDevicesHook) -> None:
    """Put one hook for a whole module in the place of those of its parts, of which ``hook`` at ``name`` is one."""
    of_part = _weights(hook)
    weights = PrefixedDataset(of_part.dataset, of_part.prefix.removesuffix(f"{name}.") if name else of_part.prefix)
    remove_hook_from_module(module, recurse=True)
    whole = AlignDevicesHook(
        execution_device=hook.execution_device,
        offload=True,
        io_same_device=True,
        weights_map=weights,
        offload_buffers=hook.offload_buffers,
        place_submodules=True,
        tied_params_map=hook.tied_params_map,
    )
    add_hook_to_module(module, whole)


def _offloading(module: nn.Module) -> Iterator[tuple[str, AlignDevicesHook]]:
    for name, part in module.named_modules():
        hook: Any = getattr(part, "_hf_hook", None)
        for each in getattr(hook, "hooks", (hook,)):
            if isinstance(each, AlignDevicesHook) and each.offload:
                yield name, each


def _weights(hook: AlignDevicesHook) -> Any:
    return hook.weights_map
