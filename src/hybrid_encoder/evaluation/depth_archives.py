"""``gt_depths.npz``: the ground truth of a whole test set in one file, as Monodepth2 and its descendants keep it."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from hybrid_encoder.checkpoints.pickled_arrays import read_arrays, write_arrays
from hybrid_encoder.checkpoints.stored import Damaged, is_sizes, num_values
from hybrid_encoder.data.opening import expanded, is_file, is_folder, is_there
from hybrid_encoder.errors import InputError, shortened
from hybrid_encoder.writing import written_whole

Depth = NDArray[np.float32]

KEY = "data"
MAX_BYTES = 4 * 2**30  # unpacked; the Eigen split's 697 maps have 1.3 * 10^9
RULE = "the archive that export_gt_depth.py of Monodepth2 writes is needed"


def read_depth_archive(file: str | Path) -> list[Depth]:
    """Read depth maps from the array ``data`` of an ``.npz`` file: (N, H, W), or N arrays of their own sizes.

    Nothing in the file is run, though it may hold a pickle: ``numpy.load`` would need ``allow_pickle=True``.

    Returns:
        Metres, 0 where unknown, float32, (H, W) each, read-only.

    Raises:
        InputError: the file does not exist, is damaged, holds something else, or unpacks to more than 4 GiB.
    """
    path = expanded(file)
    if not is_file(path):
        problem = "is not a regular file" if is_there(path) else "does not exist"
        raise InputError(f"{path} {problem}; give a gt_depths.npz.")
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{KEY}.npy" not in archive.namelist():
                names = ", ".join(archive.namelist()[:5])
                raise Damaged(f"has no array {KEY!r} (it has {names or 'none'})")
            record = archive.getinfo(f"{KEY}.npy")
            if record.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Damaged("is compressed in a way that numpy does not write")  # and that unpacks without a limit
            if record.file_size > MAX_BYTES:
                raise Damaged(f"unpacks to {record.file_size:,} bytes, and at most {MAX_BYTES:,} are read")
            with archive.open(record) as member:  # which never gives more than that size
                return _as_depth(_read_member(cast(BinaryIO, member), record.file_size))
    except Damaged as error:
        raise InputError(f"{path} {error}; {RULE}.") from None
    except MemoryError:
        raise InputError(f"{path} needs more memory than there is; evaluate its parts.") from None
    except Exception as error:  # damaged bytes make errors of every kind in Python's own readers
        reason = shortened(str(error) or type(error).__name__, 200)
        raise InputError(f"{path} cannot be read ({reason}); {RULE}.") from None


def _as_depth(maps: list[NDArray[Any]]) -> list[Depth]:
    for index, depth in enumerate(maps):
        if depth.ndim != 2 or depth.dtype.kind not in "fiu" or not depth.size:
            raise Damaged(f"holds {depth.shape} of {depth.dtype} at place {index}, no map (H, W)")
    if not maps:
        raise Damaged("holds 0 maps")
    num_bytes = 4 * sum(depth.size for depth in maps)  # as float32, four times those of 8-bit numbers
    if num_bytes > MAX_BYTES:
        raise Damaged(f"holds maps of {num_bytes:,} bytes as float32, and at most {MAX_BYTES:,} are read")
    with np.errstate(over="ignore"):  # of float64 to infinity, which counts nowhere as depth
        return [depth.astype(np.float32, copy=False) for depth in maps]


def _read_member(file: BinaryIO, size: int) -> list[NDArray[Any]]:
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        return read_arrays(file, MAX_BYTES)
    if dtype.kind not in "fiu" or not is_sizes(shape) or len(shape) != 3:
        raise Damaged(f"holds {shortened(str(shape), 80)} of {shortened(str(dtype), 80)}, no maps (N, H, W)")
    count = num_values(shape) * dtype.itemsize
    content = file.read(min(count, size))
    if len(content) != count:
        raise Damaged(f"is cut: it claims {shape} of {dtype}")
    return list(np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C"))


def write_depth_archive(file: str | Path, depths: Sequence[NDArray[Any]]) -> None:
    """Write depth maps as Monodepth2 reads them, compressed, whole or not at all.

    Maps of one size become an array (N, H, W), which ``numpy.load`` reads as it is; others an array of N arrays, for
    which it needs ``allow_pickle=True``.

    Args:
        file: ``.npz``.
        depths: metres, 0 where unknown, (H, W) each, at least one.

    Raises:
        InputError: another name or a folder that is not there, no map, or something that is no map.
    """
    path = expanded(file)
    if path.suffix != ".npz" or not is_folder(path.parent):
        raise InputError(f"{path} cannot be written; name a .npz file in a folder that exists.")
    maps = [np.asarray(depth) for depth in depths]
    for index, depth in enumerate(maps):
        if depth.ndim != 2 or depth.dtype.kind not in "fiu" or not depth.size:
            raise InputError(f"depth {index} is {depth.shape} of {depth.dtype}; a map of numbers is needed, (H, W).")
    if not maps:
        raise InputError("there are 0 depth maps to write; give at least one.")
    same = len({depth.shape for depth in maps}) == 1
    shape = (len(maps), *maps[0].shape) if same else (len(maps),)
    header = {"descr": "<f4" if same else "|O", "fortran_order": False, "shape": shape}
    with (
        written_whole(path) as staged,
        zipfile.ZipFile(staged, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(f"{KEY}.npy", "w", force_zip64=True) as opened,
    ):
        member = cast(BinaryIO, opened)
        np.lib.format.write_array_header_1_0(member, header)
        if same:
            for depth in maps:
                member.write(depth.astype("<f4").tobytes())
        else:
            write_arrays(member, maps)
