"""Tensors as a file describes them: checked against the file first, then read into memory of their own.

Nothing stays mapped to the file: what rewrites or shortens it later reaches no model. Nothing is allocated that the
file does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

MAX_DIMENSIONS, MAX_SIZE = 8, 2**48
OVERLAP = 4  # how often a file's bytes may be claimed by tensors: published ones name most tensors twice


Span = tuple[int, int]


class Damaged(Exception):
    """What is wrong with a file, as the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class Storage:
    """Values in a row, of one type, which tensors of a file are views of.

    Attributes:
        key: its name in the file.
        dtype: of the values.
        num_values: how many the file says there are.
    """

    key: str
    dtype: torch.dtype
    num_values: int

    @property
    def num_bytes(self) -> int:
        return self.num_values * self.dtype.itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A view of a storage, as a file describes it; nothing about it is checked yet."""

    storage: Storage
    offset: Any
    shape: Any
    stride: Any


def load(
    file: BinaryIO, size: int, tensors: Mapping[str, StoredTensor], spans: Mapping[str, Span]
) -> dict[str, Tensor]:
    """Read tensors into private memory.

    Args:
        file: open for reading.
        size: of the file in bytes.
        tensors: by name.
        spans: where in the file each storage begins and how many bytes it has, by its key.

    Raises:
        Damaged: a tensor that the file cannot hold.
    """
    for name, tensor in tensors.items():
        _check(name, tensor, size, spans)
    claimed = sum(num_values(tensor.shape) * tensor.storage.dtype.itemsize for tensor in tensors.values())
    if claimed > OVERLAP * size:
        raise Damaged(f"is not a checkpoint: its tensors claim {claimed} bytes, and it has {size}")
    storages = {tensor.storage for tensor in tensors.values() if 0 not in tensor.shape}
    values = {
        storage: _read(file, storage, spans[storage.key][0]) for storage in sorted(storages, key=lambda s: spans[s.key])
    }
    return {name: _view(tensor, values) for name, tensor in tensors.items()}


def _check(name: str, tensor: StoredTensor, size: int, spans: Mapping[str, Span]) -> None:
    storage, shape, stride = tensor.storage, tensor.shape, tensor.stride
    if not (is_sizes(shape) and is_sizes(stride) and len(shape) == len(stride) and is_sizes((tensor.offset,))):
        raise Damaged(f"has the key {name!r}, whose shape is no row of numbers; copy or download it again")
    if len(shape) > MAX_DIMENSIONS:
        raise Damaged(f"has the key {name!r} with {len(shape)} dimensions; a tensor of weights has at most 8")
    if 0 in shape and num_values(tuple(n for n in shape if n)) < MAX_SIZE:
        return  # such as the register tokens of a tower that has none
    last = tensor.offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if last >= storage.num_values or num_values(shape) > storage.num_values:
        raise Damaged(
            f"has the key {name!r}, which claims more values than are stored for it; save it with .contiguous()"
        )
    start, length = spans.get(storage.key, (0, 0))
    if storage.num_bytes > min(length, size - start):
        raise Damaged(f"is cut: the values of the key {name!r} are not all there; copy or download it again")


def is_sizes(values: Any) -> bool:
    """Whether these are whole numbers, each of which a tensor's size can be."""
    return isinstance(values, tuple) and all(type(value) is int and 0 <= value < MAX_SIZE for value in values)


def num_values(shape: tuple[int, ...]) -> int:
    """Return how many values a tensor of this shape has."""
    count = 1
    for n in shape:
        count *= n
    return count


def _view(tensor: StoredTensor, values: Mapping[Storage, Tensor]) -> Tensor:
    if 0 in tensor.shape:
        return torch.empty(tensor.shape, dtype=tensor.storage.dtype)
    # Where a dimension has one value, its stride may be anything.
    strides = tuple(1 if n == 1 else step for n, step in zip(tensor.shape, tensor.stride, strict=True))
    return values[tensor.storage].as_strided(tensor.shape, strides, tensor.offset)


def _read(file: BinaryIO, storage: Storage, start: int) -> Tensor:
    buffer = torch.empty(storage.num_bytes, dtype=torch.uint8)
    view = memoryview(buffer.numpy())  # type: ignore[arg-type]  # numpy says so from Python 3.12 on
    file.seek(start)
    done = 0
    while done < storage.num_bytes:  # one call reads at most 2 GiB on Linux
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise Damaged("became shorter while it was read; copy or download it again")
        done += count
    return buffer.view(storage.dtype)
