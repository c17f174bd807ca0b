"""``gt_depths.npz`` from strangers: small files that ask for much memory or time are refused, and cost neither."""

from __future__ import annotations

import bz2
import io
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from hybrid_encoder import CheckpointError, HybridDepthModel, InputError
from hybrid_encoder.evaluation import depth_archives, read_depth_archive

from helpers.memory import peak, start_peak

ZEROS = bytes(2**26)
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"


def header(shape: tuple[int, ...], descr: str) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def write_zip(path: Path, packed: bytes, method: int, file_size: int) -> None:
    """Write a zip archive whose directory says that its one member unpacks to ``file_size`` bytes."""
    name = b"data.npy"
    sizes = struct.pack("<LLLHH", 0, len(packed), file_size, len(name), 0)
    local = b"PK\3\4" + struct.pack("<HHHHH", 20, 0, method, 0, 0) + sizes + name
    entry = b"PK\1\2" + struct.pack("<HHHHHH", 20, 20, 0, method, 0, 0) + sizes + bytes(14) + name
    end = b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 1, 1, len(entry), len(local) + len(packed), 0)
    path.write_bytes(local + packed + entry + end)


def nested(depth: int) -> bytes:
    """Steps of a pickle that make a list of ten lists of ten lists, and so on; memory 1 is the last."""
    steps = b"]r" + struct.pack("<I", 100)
    for level in range(1, depth + 1):
        steps += b"](" + (b"j" + struct.pack("<I", 99 + level)) * 10 + b"er" + struct.pack("<I", 100 + level)
    return steps + b"q\x01"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_what_unpacks_to_more_than_it_says_is_not_unpacked(tmp_path: Path, method: int) -> None:
    content = header((1,), "|O") + b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + ZEROS  # bytes, a million millions
    pack = {zipfile.ZIP_DEFLATED: lambda data: zlib.compress(data)[2:-4], zipfile.ZIP_BZIP2: bz2.compress}
    packed = pack[method](content)  # of zlib without its frame, which zip archives do not have
    write_zip(tmp_path / "a.npz", packed, method, file_size=5000)
    start = start_peak()
    with pytest.raises(InputError, match=r"a\.npz (cannot be read|is compressed in a way that numpy does not write)"):
        read_depth_archive(tmp_path / "a.npz")
    assert peak() - start < 2**24


def test_numbers_of_a_byte_are_counted_as_what_they_become(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth_archives, "MAX_BYTES", 2**20)
    np.savez_compressed(tmp_path / "a.npz", data=np.ones((4, 256, 257), np.uint8))
    with pytest.raises(InputError, match=r"holds maps of 1,052,672 bytes as float32, and at most 1,048,576 are read"):
        read_depth_archive(tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "a.npz", data=np.ones((4, 256, 256), np.uint8))
    assert len(read_depth_archive(tmp_path / "a.npz")) == 4


def test_a_type_is_not_written_out_to_be_looked_at(tmp_path: Path) -> None:
    """Thirty lists of ten references, which as text would be 10^30 characters long."""
    lists = b"cbuiltins\nlist\n(" + nested(30) + b"tR"  # an object that is not made
    dtype = b"cnumpy\ndtype\nh\x01\x89\x88\x87R"
    item = ARRAY + b"(K\x01(K\x02K\x02t" + dtype + b"\x89C\x04abcdtb"
    outer = b"(K\x01K\x01\x85cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R\x89](" + item + b"etb."
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("data.npy", header((1,), "|O") + b"\x80\x03" + lists + ARRAY + outer)
    start = time.monotonic()
    with pytest.raises(InputError, match="holds an array at place 0 that is not of numbers"):
        read_depth_archive(tmp_path / "a.npz")
    number = b"cnumpy.core.multiarray\nscalar\n" + dtype + b"C\x04abcd\x86R"
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}X\x01\x00\x00\x00n(" + lists + number + b"ts.")
    with pytest.raises(CheckpointError):
        HybridDepthModel.from_pretrained(tmp_path / "a.pth")
    assert time.monotonic() - start < 60
