"""What ``torch.save`` pickled, read without unpickling: plain data and descriptions of tensors, nothing else.

A pickle is a program for a small stack machine, and Python's own machine imports and calls whatever the program names.
This one has no way to do that. It knows dictionaries, lists, numbers and text, and a table of the few calls that
describe a tensor or a number of numpy's; every other object becomes a :class:`Foreign`, which is a name and no more.

Why not ``torch.load(weights_only=True)``: it has been made to run code once (CVE-2025-32434, before torch 2.6); it
refuses a whole file for one object that is no tensor, such as a trainer's options; and it takes a file's word for the
sizes of its tensors.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, ClassVar, cast

import numpy as np
import torch

from hybrid_encoder.checkpoints.stored import Damaged, Storage, StoredTensor

MAX_NAME = 1000  # characters
MAX_LINE = 2**16  # bytes, of names
PIECE = 2**20  # bytes
MAX_STEPS = 1_000_000  # a published checkpoint takes 40 000, one with an optimizer's state three times that
STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}


@dataclass(frozen=True)
class Foreign:
    """In place of an object that is not read; ``name`` is its class, or what would have made it."""

    name: str

    @property
    def is_tensor(self) -> bool:
        """Whether it is a tensor of a kind that is not read: sparse, quantised, complex, of another class."""
        return self.name.startswith(("torch._", "tensor "))


@dataclass(frozen=True)
class _Name:
    """A class or function that the pickle names."""

    name: str


class Stateful:
    """What a call makes and a later step of the pickle completes."""

    def build(self, state: Any) -> None:
        """Take the state that the pickle gives."""
        raise NotImplementedError


@dataclass
class NumpyType(Stateful):
    """A type of numpy's values: ``code`` such as ``"f4"``, ``order`` of their bytes; nothing is checked yet."""

    code: Any
    order: Any = "<"

    def build(self, state: Any) -> None:
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The type; None where it is not of plain numbers.

        Raises:
            ValueError: no order of bytes.
        """
        if not (isinstance(self.code, str) and re.fullmatch("[biuf][1248]", self.code)):
            return None
        if self.order not in ("<", ">", "|", "="):
            raise ValueError("a number of numpy's without a byte order")
        return np.dtype(f"{self.order}{self.code}")


def read_pickle(
    file: BinaryIO,
    storages: dict[str, Storage] | None = None,
    calls: Mapping[str, Callable[..., Any]] | None = None,
) -> Any:
    """Read one pickle from where the file stands, up to its end.

    Args:
        file: open for reading.
        storages: takes up every storage that the pickle refers to, by its key.
        calls: what stands in for each function that the pickle may call; by default ``CALLS``, for weights.

    Raises:
        Damaged: a step that ``torch.save`` does not write, or too many.
        ValueError: no whole pickle.
    """
    machine = _Machine({} if storages is None else storages, CALLS if calls is None else calls)
    for count, (step, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], _InPieces(file)))):
        if step.name == "STOP":
            return machine.stack[-1]
        if count > MAX_STEPS:
            raise Damaged("describes more than a million objects; a checkpoint of weights alone is needed")
        machine.run(step.name, argument)
    raise ValueError("a pickle without an end")


class _InPieces:
    """A file read piece by piece: one that is compressed unpacks as much as it is asked for, and a pickle asks for any.

    Args:
        file: open for reading.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def read(self, count: int) -> bytes:
        pieces = []
        while count > 0 and (piece := self.file.read(min(count, PIECE))):
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def readline(self) -> bytes:
        return self.file.readline(MAX_LINE)


class _Machine:
    """The stack and the memory of one pickle."""

    CONSTANTS: ClassVar[dict[str, Callable[[], Any]]] = {
        "NONE": lambda: None,
        "NEWTRUE": lambda: True,
        "NEWFALSE": lambda: False,
        "EMPTY_DICT": dict,
        "EMPTY_LIST": list,
        "EMPTY_TUPLE": tuple,
        "EMPTY_SET": lambda: Foreign("set"),
    }
    NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT")
    TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING")
    BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
    ARGUMENTS = frozenset([*NUMBERS, *TEXTS, *BYTES])

    def __init__(self, storages: dict[str, Storage], calls: Mapping[str, Callable[..., Any]]) -> None:
        self.storages, self.calls = storages, calls
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memory: dict[int, Any] = {}

    def run(self, step: str, argument: Any) -> None:
        """Take one step, named as in :mod:`pickletools`."""
        stack = self.stack
        if step in self.ARGUMENTS:
            stack.append(argument)
        elif step in self.CONSTANTS:
            stack.append(self.CONSTANTS[step]())
        elif step in ("BINPUT", "LONG_BINPUT"):
            self.memory[argument] = stack[-1]
        elif step == "MEMOIZE":
            self.memory[len(self.memory)] = stack[-1]
        elif step in ("BINGET", "LONG_BINGET"):
            stack.append(self.memory[argument])
        elif step == "MARK":
            self.marks.append(len(stack))
        elif step in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self._pop_marked() if step == "TUPLE" else self._pop(int(step[-1]))))
        elif step in ("SETITEM", "SETITEMS"):
            _set_items(self._pop_marked() if step == "SETITEMS" else self._pop(2), stack[-1])
        elif step in ("APPEND", "APPENDS", "ADDITEMS"):
            items = self._pop(1) if step == "APPEND" else self._pop_marked()
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
        elif step == "FROZENSET":
            self._pop_marked()
            stack.append(Foreign("frozenset"))
        elif step in ("GLOBAL", "STACK_GLOBAL"):
            module, name = argument.split(" ", 1) if step == "GLOBAL" else self._pop(2)
            if not (isinstance(module, str) and isinstance(name, str) and len(module + name) < MAX_NAME):
                raise ValueError("a pickle that names what cannot be a name")
            stack.append(_Name(f"{module}.{name}"))
        elif step in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            function, arguments = self._pop(3 if step == "NEWOBJ_EX" else 2)[:2]
            stack.append(self._call(function, arguments))
        elif step == "BUILD":
            (state,) = self._pop(1)
            if isinstance(stack[-1], Stateful):
                stack[-1].build(state)
        elif step == "BINPERSID":
            storage = _storage(*self._pop(1))
            stack.append(storage)
            if isinstance(storage, Storage):
                self.storages[storage.key] = storage
        elif step not in ("PROTO", "FRAME"):
            raise Damaged(f"holds the pickle step {step}, which torch.save does not write; copy or download it again")

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("a pickle that takes more than it has")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _pop_marked(self) -> list[Any]:
        return self._pop(len(self.stack) - self.marks.pop())

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise ValueError("a pickle that calls what cannot be called")
        known = self.calls.get(function.name)
        return Foreign(function.name) if known is None else known(*arguments)


def _set_items(items: list[Any], target: Any) -> None:
    """Fill a dictionary by names and small numbers; no other key can be that of a tensor or a setting."""
    if not isinstance(target, dict):
        return  # of an object that is not read
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is str or (type(key) is int and abs(key) < 2**63):
            target[key] = value


def _storage(what: Any) -> Any:
    """Return the storage that ``torch.save`` refers to; an old file may say which part of it, and says the whole."""
    if not (isinstance(what, tuple) and len(what) in (5, 6) and what[0] == "storage" and isinstance(what[1], _Name)):
        raise ValueError("a pickle that refers to something other than a storage")
    _, kind, key, _, count = what[:5]
    if not isinstance(key, str) or type(count) is not int or count < 0:
        raise ValueError("a pickle that refers to a storage without a name and a length")
    dtype = STORAGES.get(kind.name)
    return Foreign(kind.name) if dtype is None or what[5:] not in ((), (None,)) else Storage(key, dtype, count)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Any:
    if not isinstance(storage, Storage):
        return Foreign(f"tensor of a {getattr(storage, 'name', type(storage).__name__)}")
    return StoredTensor(storage, offset, shape, stride)


def _number(kind: Any, value: Any) -> Any:
    """Return a number of numpy's as Python's own."""
    if not isinstance(kind, NumpyType) or kind.dtype is None:
        return Foreign("numpy.generic")
    return np.frombuffer(value, dtype=kind.dtype, count=1)[0].item()


CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch.Size": lambda sizes=(): sizes,
    "collections.OrderedDict": lambda *items: Foreign("collections.OrderedDict") if items else {},  # filled afterwards
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
    "numpy.dtype": lambda code, *_: NumpyType(code),
    "_codecs.encode": lambda text, *_: text[:MAX_NAME].encode("latin1"),  # the bytes of one number
}
"""What stands in for each function that a pickle may call; wrong arguments are checked later, or an error here."""
