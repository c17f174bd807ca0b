"""Paths of a camera as text files: those of KITTI odometry and of TUM RGB-D."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybrid_encoder.data.kitti_files import ROUNDING, read_text
from hybrid_encoder.data.opening import expanded, is_file
from hybrid_encoder.data.transforms import check_choice
from hybrid_encoder.errors import InputError, shortened
from hybrid_encoder.writing import write_whole

Array = NDArray[Any]
PoseFormat = Literal["kitti", "tum"]
FORMATS: tuple[PoseFormat, ...] = ("kitti", "tum")
NUMBERS = {12: "kitti", 8: "tum"}  # in a line


class Trajectory(NamedTuple):
    """A path of a camera.

    Attributes:
        poses: world_T_cam, camera to world, float64, (N, 4, 4).
        times: in seconds, rising, (N,); None where the file has none.
    """

    poses: Array
    times: Array | None = None


def read_trajectory(path: str | Path) -> Trajectory:
    """Read the poses of a camera; the numbers in a line say which format it is.

    - KITTI odometry: 12 numbers, the rows of the 3 x 4 matrix camera to world;
    - TUM RGB-D: 8 numbers, ``time tx ty tz qx qy qz qw``, and lines that begin with ``#``.

    Raises:
        InputError: no such file, another number of numbers in a line, a matrix that is no rigid motion, or times that
            do not rise.
    """
    path = expanded(path)
    if not is_file(path):
        raise InputError(f"{path} is not a file; give one with a pose in every line, in KITTI's or TUM's format.")
    lines = [(number, line.split()) for number, line in enumerate(read_text(path).splitlines(), 1)]
    lines = [(number, words) for number, words in lines if words and not words[0].startswith("#")]
    if not lines:
        raise InputError(f"{path} has no line with a pose; KITTI's have 12 numbers, TUM's 8.")
    count = len(lines[0][1])
    if count not in NUMBERS:
        raise InputError(f"{path}, line {lines[0][0]} has {count} words; KITTI's lines have 12 numbers, TUM's 8.")
    values = np.stack([_numbers(path, number, words, count) for number, words in lines])
    poses = np.tile(np.eye(4), (len(lines), 1, 1))
    if NUMBERS[count] == "kitti":
        poses[:, :3] = values.reshape(-1, 3, 4)
        _check_rotations(path, poses[:, :3, :3], [number for number, _ in lines])
        return Trajectory(poses)
    lengths = np.linalg.norm(values[:, 4:], axis=1)
    if (at := np.flatnonzero(np.abs(lengths - 1) > ROUNDING)).size:
        raise InputError(
            f"{path}, line {lines[at[0]][0]} has a quaternion of length {lengths[at[0]]:.3g}; it must be 1: the last "
            "four numbers are qx qy qz qw."
        )
    if (at := np.flatnonzero(np.diff(values[:, 0]) <= 0)).size:
        raise InputError(f"{path}, line {lines[at[0] + 1][0]} is not later than the line before; sort them by time.")
    poses[:, :3, :3] = rotations_of(values[:, 4:] / lengths[:, None])
    poses[:, :3, 3] = values[:, 1:4]
    return Trajectory(poses, values[:, 0])


def write_trajectory(
    path: str | Path, poses: ArrayLike, format: PoseFormat = "kitti", times: Sequence[float] | Array | None = None
) -> None:
    """Write the poses of a camera, one in a line, whole or not at all.

    Args:
        path: of the text file; what stands there is replaced.
        poses: world_T_cam, (N, 4, 4).
        format: ``"kitti"`` (12 numbers) or ``"tum"`` (a time and 7 numbers).
        times: in seconds, for ``"tum"``.

    Raises:
        InputError: another format, poses that are no rigid motions, or a number of times that is not that of the poses.
    """
    check_choice("format", format, FORMATS)
    matrices = np.asarray(poses, dtype=np.float64)
    if matrices.ndim != 3 or matrices.shape[1:] != (4, 4) or not np.isfinite(matrices).all():
        raise InputError(f"the poses are {matrices.shape}; (N, 4, 4) is needed, of finite numbers.")
    _check_rotations("the poses", matrices[:, :3, :3], range(len(matrices)))
    if format == "kitti":
        rows = matrices[:, :3].reshape(-1, 12)
    elif times is None or len(times) != len(matrices):
        raise InputError(f"times are {'missing' if times is None else len(times)}; one for each pose is needed.")
    else:
        rows = np.column_stack([np.asarray(times), matrices[:, :3, 3], _quaternions(matrices[:, :3, :3])])
    # As few digits as bring back the very numbers.
    text = "".join(" ".join(repr(value) for value in row) + "\n" for row in rows.tolist())
    write_whole(Path(path), text.encode())


def _numbers(path: Path, number: int, words: Sequence[str], count: int) -> Array:
    """Return the finite numbers of a line."""
    try:
        values = np.array(words, dtype=np.float64)
    except ValueError:
        values = np.array([np.nan])
    if len(words) != count or not np.isfinite(values).all():
        raise InputError(
            f"{path}, line {number} is {shortened(' '.join(words), 80)!r}; {count} finite numbers are needed, as in "
            "the lines before."
        )
    return values


def _check_rotations(name: object, matrices: Array, lines: Sequence[int]) -> None:
    unit = np.abs(matrices @ matrices.transpose(0, 2, 1) - np.eye(3)).max((1, 2), initial=0) <= ROUNDING
    wrong = np.flatnonzero(~(unit & (np.linalg.det(matrices) > 0)))
    if wrong.size:
        raise InputError(
            f"{name}, line {lines[wrong[0]]} is no rigid motion: its 3 x 3 part must be a rotation, with orthogonal "
            "rows of length 1, not mirrored."
        )


def rotations_of(quaternions: Array) -> Array:
    """Return the rotations of unit quaternions x, y, z, w, (N, 3, 3)."""
    x, y, z, w = quaternions.T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.asarray(np.array(rows).transpose(2, 0, 1))


def _quaternions(matrices: Array) -> Array:
    """Return rotations as quaternions x, y, z, w with w from 0 up, (N, 4).

    Each is the eigenvector of a symmetric matrix, which is as exact at every angle (Bar-Itzhack, "New Method for
    Extracting the Quaternion from a Rotation Matrix", JGCD 2000).
    """
    R = matrices.transpose(1, 2, 0)
    zero = np.zeros(len(matrices))
    upper = np.array(
        [
            [R[0, 0] - R[1, 1] - R[2, 2], R[0, 1] + R[1, 0], R[0, 2] + R[2, 0], R[2, 1] - R[1, 2]],
            [zero, R[1, 1] - R[0, 0] - R[2, 2], R[1, 2] + R[2, 1], R[0, 2] - R[2, 0]],
            [zero, zero, R[2, 2] - R[0, 0] - R[1, 1], R[1, 0] - R[0, 1]],
            [zero, zero, zero, R[0, 0] + R[1, 1] + R[2, 2]],
        ]
    ).transpose(2, 0, 1)
    found = np.linalg.eigh(upper, UPLO="U")[1][:, :, -1]
    return np.asarray(np.where(found[:, 3:] < 0, -found, found))
