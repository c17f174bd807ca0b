"""The kinds of files that weights come in, told by what they begin with: what they say, and where values are."""

from __future__ import annotations

import json
import re
import struct
import zipfile
from io import BytesIO
from typing import Any, BinaryIO

import torch

from hybrid_encoder.checkpoints.pickles import Foreign, read_pickle
from hybrid_encoder.checkpoints.stored import Damaged, Span, Storage, StoredTensor, is_sizes, num_values

MAX_HEADER = 16 * 2**20  # bytes; a published checkpoint's is 0.2 million long
MAX_RECORDS = 16 * 2**20  # bytes of a zip archive's list of records, about 200 000
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # torch's format before 1.6 begins with these
SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
OTHERS = (
    (rb"version https://git-lfs", "is a Git LFS pointer, not the weights themselves; fetch them with: git lfs pull"),
    (
        rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml|!--)",
        "is a web page, not weights; download the file itself, not the page that shows it",
    ),
    (rb"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (rb"\x89HDF", "is an HDF5 file, and weights of PyTorch are needed"),
)
Content = tuple[Any, dict[str, Span]]


def read_content(file: BinaryIO, size: int, safetensors: bool) -> Content:
    """Read what a file says, without the values of its tensors.

    Args:
        file: open for reading, at its beginning.
        size: of the file in bytes.
        safetensors: the file's name says that it is one.

    Returns:
        Plain data with a :class:`StoredTensor` for each tensor and a ``Foreign`` for what is not read; and where each
        storage begins and how many bytes it has, by its key.

    Raises:
        Damaged: not weights, or damaged.
    """
    head = file.read(64)
    file.seek(0)
    if not head:
        raise Damaged("is empty; copy or download it again")
    is_safetensors = head[8:9] == b"{"
    for begin, says in OTHERS:
        if not is_safetensors and re.match(begin, head, re.IGNORECASE):
            raise Damaged(says)
    try:
        if safetensors or is_safetensors:
            return _safetensors(file, size)
        if head[:4] == b"PK\x03\x04":
            return _zip(file, size)
        if head[:1] == b"\x80":
            return _old(file, size)
    except Damaged:
        raise
    except Exception as error:  # damaged bytes make errors of every kind in Python's own readers
        kind = "whole safetensors file" if safetensors else "checkpoint that torch wrote"
        raise Damaged(f"is not a {kind} ({_short(error)}); copy or download it again") from error
    raise Damaged("is not a checkpoint that torch can read; copy or download it again")


def _safetensors(file: BinaryIO, size: int) -> Content:
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, MAX_HEADER):
        raise ValueError(f"its header would be {length} bytes long, and it has {size} bytes")
    header = json.loads(file.read(length))
    tensors: dict[str, Any] = {}
    spans: dict[str, Span] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, (begin, end) = SAFETENSORS.get(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
        if not is_sizes((*shape, begin, end)):
            raise ValueError(f"the shape or the place of its key {name!r} is no row of numbers")
        spans[name] = (begin, end - begin)
        if dtype is None:
            tensors[name] = Foreign(f"tensor of type {entry['dtype']}")
            continue
        if num_values(shape) * dtype.itemsize != end - begin:
            raise ValueError(f"its key {name!r} has the shape {shape[:9]} and {end - begin} bytes")
        tensors[name] = StoredTensor(Storage(name, dtype, num_values(shape)), 0, shape, _row_major(shape))
    at = 0
    for begin, length_here in sorted(spans.values()):
        if begin != at or length_here < 0:
            raise ValueError("its tensors leave gaps or overlap")
        at += length_here
    if 8 + length + at != size:
        raise ValueError(f"its header describes {8 + length + at} bytes, and it has {size}")
    return tensors, {name: (8 + length + begin, count) for name, (begin, count) in spans.items()}


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides: list[int] = []
    step = 1
    for n in reversed(shape):
        strides.insert(0, step)
        step *= n
    return tuple(strides)


def _zip(file: BinaryIO, size: int) -> Content:
    _check_records(file, size)
    with zipfile.ZipFile(file) as archive:
        records = {record.filename: record for record in archive.infolist()}
        root = next(
            (name.removesuffix("data.pkl") for name in records if name.count("/") == 1 and "/data.pkl" in name), ""
        )
        if not root:
            raise Damaged("is a zip archive, but not one that torch wrote; unpack it, or copy or download it again")
        if f"{root}constants.pkl" in records:
            raise Damaged(
                "is a TorchScript archive, not a state dict; save its weights with "
                "torch.save(torch.jit.load(path).state_dict(), new_path) and name that file"
            )
        described = records[f"{root}data.pkl"]
        if any(record.compress_type != zipfile.ZIP_STORED for record in records.values()):
            raise Damaged("is a compressed archive, which torch does not write; save it again with torch.save")
        if described.file_size > MAX_HEADER:
            raise Damaged(f"describes its tensors in {described.file_size} bytes; weights alone take far less")
        if f"{root}byteorder" in records and archive.read(f"{root}byteorder") != b"little":
            raise Damaged("was written on a machine of another byte order; save it again on a usual one")
        content = read_pickle(BytesIO(archive.read(described)))
        places = {
            name.removeprefix(f"{root}data/"): record
            for name, record in records.items()
            if name.startswith(f"{root}data/")
        }
    spans = {}
    for key, record in places.items():
        file.seek(record.header_offset)
        local = file.read(30)
        if local[:4] == b"PK\x03\x04":
            names, extra = struct.unpack("<HH", local[26:30])
            spans[key] = (record.header_offset + 30 + names + extra, record.file_size)
    return content, spans


def _check_records(file: BinaryIO, size: int) -> None:
    """Refuse a list of records that would take long to read; the numbers stand at the end of an archive."""
    tail = min(size, 98)
    file.seek(size - tail)
    end = file.read(tail)
    listed = int.from_bytes(end[-10:-6], "little")
    if listed == 0xFFFFFFFF:  # the number stands in a longer record, before a pointer of 20 bytes to that
        listed = int.from_bytes(end[-58:-50], "little")
    if end[-22:-18] == b"PK\x05\x06" and listed > MAX_RECORDS:
        raise Damaged(f"lists its records in {listed} bytes; weights alone take far less")
    if end[-22:-18] != b"PK\x05\x06":
        raise Damaged("is cut, or not a checkpoint that torch wrote: it does not end as one; copy or download it again")


def _old(file: BinaryIO, size: int) -> Content:
    """Read torch's format before 1.6: five pickles, then each storage with its length before it."""
    header = BytesIO(file.read(MAX_HEADER))
    if read_pickle(header) != MAGIC:
        raise Damaged("is a pickle, but not one that torch wrote; save its tensors with torch.save")
    if read_pickle(header) != PROTOCOL:
        raise Damaged("is of a format of torch that is not read; load it with torch and save it again with torch.save")
    if read_pickle(header).get("little_endian") is not True:
        raise Damaged("was written on a machine of another byte order; save it again on a usual one")
    storages: dict[str, Storage] = {}
    content = read_pickle(header, storages)
    keys = read_pickle(header)
    spans: dict[str, Span] = {}
    at = header.tell()
    for key in keys:
        if key not in storages:
            raise Damaged("holds tensors of a type that is not read (complex or quantised ones); save them as floats")
        file.seek(at)
        count = int.from_bytes(file.read(8), "little")
        if count != storages[key].num_values:
            raise Damaged(
                "is cut or damaged: a tensor's values are not where they should be; copy or download it again"
            )
        spans[key] = (at + 8, storages[key].num_bytes)
        at += 8 + storages[key].num_bytes
    return content, spans


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
