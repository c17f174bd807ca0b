"""Files of KITTI raw beside the images, checked when they are read: calibration, GPS/IMU and lidar."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_encoder.data.opening import MAX_PIXELS, is_file
from hybrid_encoder.errors import InputError

Array = NDArray[Any]

OXTS_VALUES = 30  # in a line of the GPS/IMU files
ROUNDING = 1e-3  # of rotations that are written with few digits


class Calibration:
    """The entries of a calibration file.

    Raises:
        InputError: the file does not exist or is not text; later, an entry that is missing or cannot be right.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        if not is_file(file):
            raise InputError(f"{file} does not exist; KITTI's calibration files lie beside the drive's folder.")
        entries = (line.partition(":") for line in read_text(file).splitlines())
        self.entries = {key.strip(): value for key, _, value in entries}

    def numbers(self, key: str, count: int) -> Array:
        """Return the finite numbers of one entry, float64."""
        try:
            values = np.array(self.entries[key].split(), dtype=np.float64)
        except (KeyError, ValueError):
            values = np.empty(0)
        if len(values) != count:
            raise InputError(f"{self.file} has no {key!r} of {count} numbers; take KITTI's own file.")
        if not np.isfinite(values).all():
            raise self._wrong(key, values, "must be finite")
        return values

    def size(self, key: str) -> tuple[int, int]:
        """Return the size of the images, (H, W)."""
        values = self.numbers(key, 2)
        if (values != np.rint(values)).any() or values.min() < 1 or values.prod() > MAX_PIXELS:
            raise self._wrong(key, values, "must be a width and a height in whole pixels")
        return int(values[1]), int(values[0])

    def projection(self, key: str) -> Array:
        """Return the projection to the pixels of a rectified camera, (3, 4)."""
        matrix = self.numbers(key, 12).reshape(3, 4)
        fx, fy = matrix[0, 0], matrix[1, 1]
        if not (0 < fx < MAX_PIXELS and 0 < fy < MAX_PIXELS):
            raise self._wrong(key, np.array([fx, fy]), "must begin with a positive focal length in its first two rows")
        if np.abs(matrix[:, :3] - [[fx, matrix[0, 1], matrix[0, 2]], [0, fy, matrix[1, 2]], [0, 0, 1]]).max() > 1e-6:
            raise self._wrong(key, matrix.flatten(), "must be a projection: 0 below its diagonal, which ends with 1")
        return matrix

    def rotation(self, key: str) -> Array:
        """Return a rotation, (3, 3)."""
        matrix = self.numbers(key, 9).reshape(3, 3)
        if np.abs(matrix @ matrix.T - np.eye(3)).max() > ROUNDING or np.linalg.det(matrix) < 0:
            raise self._wrong(key, matrix.flatten(), "must be a rotation: orthogonal rows of length 1, not mirrored")
        return matrix

    def _wrong(self, key: str, values: Array, rule: str) -> InputError:
        shown = " ".join(f"{value:g}" for value in values)
        return InputError(f"{self.file}: {key!r} is {shown}; it {rule}: take KITTI's own file.")


def read_oxts(file: Path) -> Array:
    """Read latitude and longitude in degrees, altitude in metres, and roll, pitch and yaw in radians, (6,).

    Raises:
        InputError: the file does not exist, is not one of KITTI's, or holds values that cannot be right.
    """
    if not is_file(file):
        raise InputError(f"{file} does not exist; poses need the drive's oxts files.")
    try:
        values = np.array(read_text(file).split(), dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{file} is not an oxts file ({error}); take KITTI's own.") from None
    if len(values) != OXTS_VALUES:
        raise InputError(f"{file} holds {len(values)} numbers, not {OXTS_VALUES}; take KITTI's own file.")
    pose = values[:6]
    limits = [85, 180, 1e5, *[2 * math.pi] * 3]  # Mercator's projection ends before the poles
    if not (np.abs(pose) <= limits).all():
        raise InputError(
            f"{file} begins with {' '.join(f'{value:g}' for value in pose)}; these must be latitude, longitude, "
            "altitude, roll, pitch and yaw in degrees, metres and radians: take KITTI's own file."
        )
    return pose


def read_scan(file: Path, count: int = 4) -> Array:
    """Read lidar points: x, y, z in metres and reflectance, float32, (N, 4).

    Args:
        file: of float32 numbers, without a header.
        count: numbers of a point, where another data set has more.

    Raises:
        InputError: the file does not exist, is cut off, or holds points that are not finite.
    """
    if not is_file(file):
        raise InputError(f"{file} does not exist; lidar depth needs the lidar's points.")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); check its permissions.") from None
    if len(content) % (4 * count):
        raise InputError(
            f"{file} holds {len(content) / 4:g} numbers, not a multiple of {count} (x, y, z, reflectance"
            f"{', ...' if count > 4 else ''}); copy it again."
        )
    points = np.frombuffer(content, "<f4").reshape(-1, count)
    num_bad = int((~np.isfinite(points[:, :3])).any(1).sum())
    if num_bad:
        raise InputError(f"{file} holds {num_bad} points that are not finite; copy it again.")
    return points


def read_text(file: Path) -> str:
    """Read a text file in UTF-8, with a byte order mark or without.

    Raises:
        InputError: it cannot be read, or is not such text.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); check its permissions.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not text in UTF-8 (byte {error.start}); save it as such.") from None
