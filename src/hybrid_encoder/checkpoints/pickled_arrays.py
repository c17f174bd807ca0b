"""Arrays of arrays as numpy pickles them, read without unpickling, and written so that numpy of any age reads them.

``numpy.save`` has no other form for maps of several sizes in one array. It is a pickle, and whoever opens a stranger's
with ``allow_pickle=True`` runs the stranger's code.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hybrid_encoder.checkpoints.pickles import NumpyType, Stateful, read_pickle
from hybrid_encoder.checkpoints.stored import MAX_DIMENSIONS, Damaged, is_sizes, num_values


@dataclass
class _Array(Stateful):
    """An array as a pickle describes it; nothing about it is checked yet."""

    state: Any = None

    def build(self, state: Any) -> None:
        self.state = state


def read_arrays(file: BinaryIO, max_bytes: int) -> list[NDArray[Any]]:
    """Read the arrays of numbers in one pickled array, from where the file stands; nothing in it is run.

    Args:
        file: open for reading.
        max_bytes: of all arrays together; the same bytes may stand for many arrays.

    Raises:
        Damaged: an array of something else, or of more bytes.
        ValueError, TypeError: no such pickle.
    """
    outer = read_pickle(file, calls=CALLS)
    items = outer.state[-1] if isinstance(outer, _Array) and isinstance(outer.state, tuple) else None
    if not isinstance(items, list):
        raise Damaged("holds no array of arrays")
    arrays: list[NDArray[Any]] = []
    for index, item in enumerate(items):
        array = _view(item, index)
        max_bytes -= array.nbytes
        if max_bytes < 0:
            raise Damaged("claims more bytes than are read")
        arrays.append(array)
    return arrays


def _view(item: Any, index: int) -> NDArray[Any]:
    state = item.state if isinstance(item, _Array) else None
    if not (isinstance(state, tuple) and len(state) == 5):
        raise Damaged(f"holds something other than an array at place {index}")
    _, shape, kind, fortran, values = state
    dtype = kind.dtype if isinstance(kind, NumpyType) else None
    if dtype is None or not is_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise Damaged(f"holds an array at place {index} that is not of numbers")
    content = values.encode("latin1") if isinstance(values, str) else values  # text is what Python 2 wrote
    if not isinstance(content, bytes) or len(content) != num_values(shape) * dtype.itemsize:
        raise Damaged(f"holds an array at place {index} of {shape} whose values are not all there")
    array: NDArray[Any] = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    return array


CALLS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy._core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy.dtype": lambda code, *_: NumpyType(code),
    "_codecs.encode": lambda text, *_: text.encode("latin1"),  # bytes, as protocol 2 has them
}


EMPTY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
"""The steps that make an array; its shape, type and values follow as its state."""


def write_arrays(file: BinaryIO, arrays: Sequence[NDArray[Any]]) -> None:
    """Write one pickled array of float32 arrays, as ``numpy.load(..., allow_pickle=True)`` reads it.

    numpy 2 itself writes names of modules that numpy 1 lacks, which much of the code for depth still runs on.
    """
    file.write(b"\x80\x03" + EMPTY)
    file.write(b"(K\x01" + _number(len(arrays)) + b"\x85" + _type(b"O8", b"|") + b"\x89](")
    for array in arrays:
        content = array.astype("<f4").tobytes()
        sizes = b"".join(_number(size) for size in array.shape)
        file.write(EMPTY + b"(K\x01(" + sizes + b"t" + _type(b"f4", b"<") + b"\x89")
        file.write(b"B" + struct.pack("<I", len(content)))
        file.write(content)
        file.write(b"tb")
    file.write(b"etb.")


def _type(code: bytes, order: bytes) -> bytes:
    """Return the steps that make a type of values."""
    name = b"X" + struct.pack("<I", len(code)) + code
    flags = b"K\x3f" if code == b"O8" else b"K\x00"  # those of Python's objects
    minus = b"J\xff\xff\xff\xff"
    return (
        b"cnumpy\ndtype\n" + name + b"\x89\x88\x87R(K\x03X\x01\x00\x00\x00" + order + b"NNN" + minus * 2 + flags + b"tb"
    )


def _number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)
