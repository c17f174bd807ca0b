"""Values kept while the tensors they were computed from are unchanged."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

V = TypeVar("V")

_optimizer_steps = 0


def _count_step(*_: object) -> None:
    global _optimizer_steps
    _optimizer_steps += 1


# Fused optimizers change parameters without raising their version counters, so steps are counted too.
register_optimizer_step_post_hook(_count_step)


class TensorCache:
    """A few results, each valid for one state of its source tensors.

    The state is read off the sources themselves: identity, version counter (every in-place change raises it),
    storage, dtype and device; for what trains, also the number of optimizer steps so far. A change made
    through ``tensor.data`` leaves no trace: call ``clear()`` after one.

    Args:
        size: how many results are kept; the one that was used longest ago goes first.
    """

    def __init__(self, size: int = 4) -> None:
        self._size = size
        self._kept: OrderedDict[Hashable, tuple[Hashable, object]] = OrderedDict()
        self._frozen = False

    def get(self, key: Hashable, sources: Sequence[Tensor], make: Callable[[], V]) -> V:
        """Return ``make()``, or what it returned before for this key and these sources.

        Nothing is kept where a gradient must flow, under a compiler, or for inference tensors, which have no version
        counter.
        """
        if self._frozen and key in self._kept:
            return self._kept[key][1]  # type: ignore[return-value]
        trains = torch.is_grad_enabled() and any(source.requires_grad for source in sources)
        if trains or torch.compiler.is_compiling() or any(source.is_inference() for source in sources):
            return make()
        steps = _optimizer_steps if any(source.requires_grad for source in sources) else None
        state = (steps, *((id(s), s._version, s.data_ptr(), s.dtype, s.device) for s in sources))
        kept = self._kept.get(key)
        if kept is not None and kept[0] == state:
            self._kept.move_to_end(key)
            return kept[1]  # type: ignore[return-value]
        # A tensor made in inference mode could not be used in a later training step.
        with torch.inference_mode(False), torch.no_grad():
            value = make()
        self._kept[key] = (state, value)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)
        return value

    def freeze(self) -> None:
        """Return kept values from now on without looking at their sources; a compiler takes them for constants."""
        self._frozen = True

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._frozen = False

    def __deepcopy__(self, memo: object) -> TensorCache:
        return TensorCache(self._size)  # what was kept belongs to the original's tensors

    def __getstate__(self) -> dict[str, object]:
        return {"_size": self._size, "_kept": OrderedDict(), "_frozen": False}
