"""Optimizers that are given no frozen parameter of ours, also where a container hands over all that it holds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim.optimizer import Optimizer

_FROZEN: list[Callable[[], set[int]]] = []  # each returns what stays out, by identity
_OWN = Optimizer.add_param_group


def keep_out(frozen: Callable[[], set[int]]) -> Callable[[], None]:
    """Keep parameters out of every optimizer that is built, until the returned function is called.

    ``parameters()`` of our networks leaves out what is frozen; that of a module around them does not ask them. Every
    optimizer takes its parameters by ``add_param_group``, so that one place closes all ways.

    Args:
        frozen: returns the identities of the parameters, at that moment.
    """
    _FROZEN.append(frozen)
    if Optimizer.add_param_group is _OWN:
        Optimizer.add_param_group = _add_param_group  # type: ignore[method-assign]

    def stop() -> None:
        if frozen in _FROZEN:
            _FROZEN.remove(frozen)
        if not _FROZEN and Optimizer.add_param_group is _add_param_group:
            Optimizer.add_param_group = _OWN  # type: ignore[method-assign]

    return stop


@functools.wraps(_OWN)
def _add_param_group(self: Optimizer, param_group: dict[str, Any]) -> None:
    params = param_group.get("params") if isinstance(param_group, dict) else None
    if params is not None and not isinstance(params, Tensor | set):  # those two are torch's to judge
        out = set[int]().union(*(frozen() for frozen in _FROZEN))
        param_group["params"] = [x for x in params if id(x[1] if isinstance(x, tuple) else x) not in out]
    _OWN(self, param_group)
