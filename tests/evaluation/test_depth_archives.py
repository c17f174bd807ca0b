from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybrid_encoder import InputError
from hybrid_encoder.evaluation import depth_archives as module
from hybrid_encoder.evaluation import read_depth_archive, write_depth_archive

from helpers.memory import peak, start_peak
from helpers.traps import Traps

SIZES = {"one size": [(3, 4)] * 3, "several sizes": [(3, 4), (5, 6), (3, 4)], "one map": [(2, 3)]}


def maps(sizes: list[tuple[int, int]]) -> list[Any]:
    random = np.random.default_rng(0)
    return [random.uniform(0, 80, size).astype(np.float32) for size in sizes]


def of_objects(arrays: list[Any]) -> Any:
    """An array of arrays, whatever their sizes."""
    whole = np.empty(len(arrays), object)
    whole[:] = arrays
    return whole


def assert_same(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for depth, other in zip(found, expected, strict=True):
        assert depth.dtype == np.float32
        np.testing.assert_array_equal(depth, np.asarray(other, np.float32))


def member(path: Path, content: bytes, name: str = "data.npy") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return path


def header(shape: Any, descr: str) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_numpy_reads_what_is_written(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    depths = maps(sizes)
    write_depth_archive(tmp_path / "depths.npz", depths)
    with np.load(tmp_path / "depths.npz", fix_imports=True, encoding="latin1", allow_pickle=True) as archive:
        found = archive["data"]
    assert_same(found, depths)
    assert found.dtype == (np.float32 if len(set(sizes)) == 1 else object)
    assert_same(read_depth_archive(tmp_path / "depths.npz"), depths)
    with zipfile.ZipFile(tmp_path / "depths.npz") as archive:
        assert b"_core" not in archive.read("data.npy"), "numpy 1 has no module of that name"
    assert [file.name for file in tmp_path.iterdir()] == ["depths.npz"]


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<u2", "<i8"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_what_numpy_writes_is_read(tmp_path: Path, sizes: list[tuple[int, int]], dtype: str) -> None:
    depths = [depth.astype(dtype) for depth in maps(sizes)]
    np.savez_compressed(tmp_path / "objects.npz", data=of_objects(depths))
    assert_same(read_depth_archive(tmp_path / "objects.npz"), depths)
    if len(set(sizes)) == 1:
        np.savez(tmp_path / "plain.npz", data=np.array(depths), other=np.zeros(1))
        assert_same(read_depth_archive(tmp_path / "plain.npz"), depths)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickles_of_every_age_are_read(tmp_path: Path, protocol: int) -> None:
    depths = maps(SIZES["several sizes"])
    depths[1] = np.asfortranarray(depths[1])
    for modules in ((b"numpy._core", b"numpy._core"), (b"numpy._core", b"numpy.core")):
        content = pickle.dumps(of_objects(depths), protocol)
        if protocol < 4:  # where names are lines of text
            content = content.replace(*modules)
        assert_same(read_depth_archive(member(tmp_path / "a.npz", header((3,), "|O") + content)), depths)


def test_a_pickle_that_runs_code_does_not_run(tmp_path: Path) -> None:
    traps = Traps(tmp_path / "sprung", tmp_path / "ghostscript")
    depths = maps(SIZES["several sizes"])
    for hidden in ([*depths, traps.trap()], [traps.trap()]):
        whole = np.empty(len(hidden), object)
        whole[:] = hidden
        np.savez(tmp_path / "a.npz", data=whole)
        with pytest.raises(InputError, match=r"something other than an array at place"):
            read_depth_archive(tmp_path / "a.npz")
    with pytest.raises(InputError, match="holds no array of arrays"):
        read_depth_archive(member(tmp_path / "b.npz", header((3,), "|O") + traps.pickle()))
    traps.check()
    with np.load(tmp_path / "a.npz", allow_pickle=True) as archive:
        _ = archive["data"]
    assert traps.sprung.exists(), "numpy's own reader runs it"


def claims(shape: tuple[int, ...], content: bytes, count: int = 1) -> bytes:
    """A pickle of one array, which stands for many."""
    size = b"".join(b"J" + struct.pack("<i", n) for n in shape)
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    kind = b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x89\x88\x87R"  # little-endian, unless a state says otherwise
    array = empty + b"(K\x01(" + size + b"t" + kind + b"\x89B" + struct.pack("<I", len(content)) + content + b"tbq\x01"
    return b"\x80\x03" + empty + b"(K\x01K\x01\x85" + kind + b"\x89](" + array + b"h\x01" * (count - 1) + b"etb."


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (header((3,), "|O") + claims((2, 2), b"\0" * 15), "whose values are not all there"),
        (header((3,), "|O") + claims((2**30, 2**30), b"\0" * 16), "whose values are not all there"),
        (header((3,), "|O") + claims((-2, 2), b"\0" * 16), "is not of numbers"),
        (header((3,), "|O") + claims((4,), b"\0" * 16), "no map"),
        (header((3,), "|O") + claims((0, 4), b""), "no map"),
        (header((3,), "|O") + claims((2, 2), b"\0" * 16)[:-30], "cannot be read"),
        (header((3,), "|O") + b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc", "cannot be read"),
        (header((3,), "|O"), "cannot be read"),
        (header((2**20, 2**20, 2**20), "<f4") + b"\0" * 100, "is cut"),
        (header((1, 5, 5), "<f4") + b"\0" * 99, "is cut"),
        (header((5, 5), "<f4") + b"\0" * 100, "no maps"),
        (header((1, 5, 5), "|S4") + b"\0" * 100, "no maps"),
        (header((0, 5, 5), "<f4"), "holds 0 maps"),
        (b"no array at all", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_what_is_no_archive_is_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    start = start_peak()
    with pytest.raises(InputError, match=says) as error:
        read_depth_archive(member(tmp_path / "a.npz", content))
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    assert peak() - start < 2**26


def test_the_same_bytes_cannot_stand_for_more_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 2**20)
    content = header((9,), "|O") + claims((64, 64), b"\0" * 2**14, count=65)
    with pytest.raises(InputError, match="claims more bytes than are read"):
        read_depth_archive(member(tmp_path / "a.npz", content))
    fewer = header((9,), "|O") + claims((64, 64), b"\0" * 2**14, count=64)
    assert len(read_depth_archive(member(tmp_path / "a.npz", fewer))) == 64


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 2**20)
    bomb = member(tmp_path / "a.npz", header((1, 1024, 1024), "<f4") + b"\0" * 2**22)
    assert bomb.stat().st_size < 2**14
    with pytest.raises(InputError, match=r"unpacks to 4,194,\d{3} bytes, and at most 1,048,576 are read"):
        read_depth_archive(bomb)
    content = bytearray(bomb.read_bytes())  # one whose list of members says less than there is
    place = content.rindex(struct.pack("<I", 2**22 + 128))
    content[place : place + 4] = struct.pack("<I", 2**10)
    bomb.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read|is cut"):
        read_depth_archive(bomb)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pickletools, about text in old pickles
@pytest.mark.parametrize("seed", range(4))
def test_damaged_archives_are_one_sentence(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    depths = maps(SIZES["several sizes"])
    write_depth_archive(tmp_path / "whole.npz", depths)
    with zipfile.ZipFile(tmp_path / "whole.npz") as archive:
        whole = archive.read("data.npy")
    num_refused = 0
    for _ in range(150):
        content = bytearray(whole)
        for place in random.integers(0, len(whole), random.integers(1, 4)):
            content[place] = random.integers(256)
        cut = bytes(content[: random.integers(1, len(whole))]) if random.random() < 0.2 else bytes(content)
        try:
            read_depth_archive(member(tmp_path / "a.npz", cut))  # a changed depth is a depth
        except InputError:
            num_refused += 1
    assert num_refused > 30


def test_files_and_maps_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not exist; give a gt_depths\.npz"):
        read_depth_archive(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", depths=np.zeros((1, 2, 2)))
    with pytest.raises(InputError, match=r"has no array 'data' \(it has depths\.npy\)"):
        read_depth_archive(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(InputError, match="cannot be read"):
        read_depth_archive(tmp_path / "text.npz")
    with pytest.raises(InputError, match=r"name a \.npz file in a folder that exists"):
        write_depth_archive(tmp_path / "missing" / "a.npz", maps([(2, 2)]))
    with pytest.raises(InputError, match=r"name a \.npz file"):
        write_depth_archive(tmp_path / "a.npy", maps([(2, 2)]))
    with pytest.raises(InputError, match="0 depth maps to write"):
        write_depth_archive(tmp_path / "a.npz", [])
    with pytest.raises(InputError, match=r"depth 1 is \(2,\) of float32"):
        write_depth_archive(tmp_path / "a.npz", [*maps([(2, 2)]), np.zeros(2, np.float32)])
    assert not (tmp_path / "a.npz").exists()
