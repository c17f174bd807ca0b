"""Values kept while the tensors they were computed from hold the same numbers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

V = TypeVar("V")

# Sums are taken over rows of words of 8 bytes. Rows of weights are no multiple of 251 words, a prime number, so values
# that change places do not meet the same sum again; nor do an odd number of changed signs cancel.
ROWS, WORDS = 31, 251
BLOCK = 8 * ROWS * WORDS  # bytes
MAX_WHOLE = 4 * BLOCK  # bytes: smaller tensors are compared by their values, which takes fewer operations
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by their bytes: NaN equals NaN

PLAIN = (Tensor, nn.Parameter)


class TensorCache:
    """A few results, each valid as long as the source tensors hold the numbers that it was computed from.

    The numbers themselves are looked at in every call (:func:`fingerprint`). What counts changes, such as a tensor's
    version, misses those made through ``tensor.data`` (as a mean teacher's update often is), a view of numpy's or a
    fused optimizer.

    Args:
        size: how many results are kept; the one that was used longest ago goes first.
    """

    def __init__(self, size: int = 4) -> None:
        self._size = size
        self._kept: OrderedDict[Hashable, tuple[list[tuple[torch.dtype, torch.Size]], list[Tensor], object]] = (
            OrderedDict()
        )
        self._frozen = False
        self._lock = threading.RLock()  # several threads may predict with one model

    def get(self, key: Hashable, sources: Sequence[Tensor], make: Callable[[], V]) -> V:
        """Return ``make()``, or what it returned before for this key and these sources.

        Nothing is kept where a gradient must flow, under a compiler, or for tensors without values of their own.
        """
        if self._frozen and key in self._kept:
            return self._kept[key][2]  # type: ignore[return-value]
        trains = torch.is_grad_enabled() and any(source.requires_grad for source in sources)
        if trains or torch.compiler.is_compiling() or any(s.is_meta or type(s) not in PLAIN for s in sources):
            return make()
        form, numbers = [(s.dtype, s.shape) for s in sources], fingerprint(sources)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept[0] == form and _same(kept[1], numbers):
                self._kept.move_to_end(key)
                return kept[2]  # type: ignore[return-value]
            # Outside of inference mode: a tensor made there could not be used in a later training step.
            with torch.inference_mode(False), torch.no_grad():
                value = make()
            self._kept[key] = (form, numbers, value)
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
        return {"_size": self._size}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(state["_size"])  # type: ignore[misc]


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(x.device == y.device and torch.equal(x, y) for x, y in zip(a, b, strict=True))


def fingerprint(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return numbers that differ as soon as a value in the tensors does, and are cheap to compute.

    Small tensors are taken whole. Of larger ones the bits are added up in blocks, as whole numbers of 64 bits that wrap
    around: a single changed value always shows, however little it changed. The memory is read once.

    Args:
        tensors: with values, on any devices.

    Returns:
        Whole numbers, one tensor for each device and type, in the order in which these come.
    """
    parts: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        data = tensor.reshape(-1)
        group = parts.setdefault((data.device, data.dtype), [])
        if data.nbytes > MAX_WHOLE:
            if data.storage_offset() * data.itemsize % 8:
                data = data.clone()  # words begin at multiples of their length
            end = data.nbytes // BLOCK * BLOCK // data.itemsize
            sums = data[:end].view(torch.int64).view(-1, ROWS, WORDS).sum(1)
            group.append(sums.view(-1).view(data.dtype))
            data = data[end:]
        group.append(data)
    numbers = [torch.cat(group) for group in parts.values()]
    return [x.view(torch.int64 if x.nbytes % 8 == 0 else INTEGERS[x.itemsize]) for x in numbers]
