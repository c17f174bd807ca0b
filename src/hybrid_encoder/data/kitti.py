"""A drive of KITTI raw: frames, rectified intrinsics, camera poses from GPS/IMU, and lidar depth.

Geiger et al., "Vision meets Robotics: The KITTI Dataset", IJRR 2013. The layout is KITTI's own::

    <root>/<date>/calib_{cam_to_cam,velo_to_cam,imu_to_velo}.txt
    <root>/<date>/<date>_drive_<number>_sync/{image_02,image_03,oxts,velodyne_points}/data/<frame>.*
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_encoder.errors import InputError

Array = NDArray[Any]

EARTH_RADIUS = 6378137.0  # metres, at the equator (WGS 84), which KITTI's development kit uses
OXTS_VALUES = 30  # in a line of the GPS/IMU files


@dataclass(frozen=True)
class KittiDrive:
    """One drive, seen by one colour camera.

    Args:
        folder: of the drive, ``<root>/<date>/<date>_drive_<number>_sync``.
        camera: 2 (left) or 3 (right).

    Raises:
        InputError: the folder does not exist, or another camera; later, a file that does not exist or is malformed.
    """

    folder: Path
    camera: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if self.camera not in (2, 3):
            raise InputError(f"camera is {self.camera}; KITTI's colour cameras are 2 (left) and 3 (right).")
        if not self.folder.is_dir():
            raise InputError(f"{self.folder} is not a folder; give <root>/<date>/<date>_drive_<number>_sync.")

    @property
    def frames(self) -> list[int]:
        """Numbers of the frames that have an image, in order."""
        names = (file.stem for file in self._data(f"image_0{self.camera}").glob("*.[pj][np]g"))
        return sorted(int(name) for name in names if name.isdecimal())

    @cached_property
    def K(self) -> Array:
        """Rectified intrinsics in pixels, float32, (3, 3)."""
        return self._projection[:, :3].astype(np.float32)

    def image(self, frame: int) -> Array:
        """Return RGB in [0, 1], float32, (3, H, W)."""
        from hybrid_encoder.data.images import read_image

        stem = self._data(f"image_0{self.camera}") / f"{frame:010d}"
        file = next((stem.with_suffix(s) for s in (".png", ".jpg") if stem.with_suffix(s).is_file()), None)
        if file is None:
            raise InputError(f"{stem}.png does not exist; the frames that have an image are {self.frames}.")
        image: Array = read_image(file).numpy()
        return image

    def world_T_cam(self, frame: int) -> Array:
        """Return camera to world of one frame, from GPS/IMU, float64, (4, 4).

        The world is a Mercator projection in metres, whose origin is far away. Use poses relative to each other:
        ``inv(world_T_cam(a)) @ world_T_cam(b)`` takes points from camera b to camera a.
        """
        latitude, longitude, altitude, roll, pitch, yaw = self._oxts(self._data("oxts") / f"{frame:010d}.txt")[:6]
        first = self._oxts(min(self._data("oxts").glob("*.txt")))
        scale = math.cos(math.radians(first[0]))  # of the first latitude: one scale for the whole drive
        world_T_imu = np.eye(4)
        world_T_imu[:3, :3] = _rotation(2, yaw) @ _rotation(1, pitch) @ _rotation(0, roll)
        world_T_imu[:3, 3] = (
            scale * EARTH_RADIUS * math.radians(longitude),
            scale * EARTH_RADIUS * math.log(math.tan(math.radians(90 + latitude) / 2)),
            altitude,
        )
        velo_T_imu = self._transform("calib_imu_to_velo.txt")
        return np.asarray(world_T_imu @ np.linalg.inv(self.cam_T_velo @ velo_T_imu))

    @cached_property
    def cam_T_velo(self) -> Array:
        """Lidar to the rectified camera, float64, (4, 4)."""
        calibration = self._calibration("calib_cam_to_cam.txt")
        rectify = np.eye(4)
        rectify[:3, :3] = self._entry(calibration, "R_rect_00", 9).reshape(3, 3)
        shift = np.eye(4)  # from camera 0 to this one
        shift[:3, 3] = np.linalg.solve(self._projection[:, :3], self._projection[:, 3])
        return np.asarray(shift @ rectify @ self._transform("calib_velo_to_cam.txt"))

    def lidar_depth(self, frame: int) -> Array:
        """Return depth in metres at the pixels that a lidar point falls on, 0 elsewhere, float32, (1, H, W)."""
        file = self._data("velodyne_points") / f"{frame:010d}.bin"
        if not file.is_file():
            raise InputError(f"{file} does not exist; lidar depth needs the drive's velodyne points.")
        points = np.fromfile(file, np.float32)
        if len(points) % 4:
            raise InputError(
                f"{file} holds {len(points)} numbers, not a multiple of 4 (x, y, z, reflectance); copy it again."
            )
        points = points.reshape(-1, 4).astype(np.float64)
        points[:, 3] = 1  # homogeneous coordinates, in place of the reflectance
        points = (self.cam_T_velo @ points[points[:, 0] > 0].T)[:3]
        points = points[:, points[2] > 0]
        u, v = np.rint((self._projection[:2, :3] @ points) / points[2]).astype(int)
        height, width = self.size
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
        order = np.argsort(-points[2][inside])  # of points on the same pixel, the nearest is written last
        depth = np.zeros((1, height, width), np.float32)
        depth[0, v[inside][order], u[inside][order]] = points[2][inside][order]
        return depth

    @cached_property
    def size(self) -> tuple[int, int]:
        """(H, W) of the rectified images."""
        width, height = self._entry(self._calibration("calib_cam_to_cam.txt"), f"S_rect_0{self.camera}", 2)
        return int(height), int(width)

    @cached_property
    def _projection(self) -> Array:
        calibration = self._calibration("calib_cam_to_cam.txt")
        return self._entry(calibration, f"P_rect_0{self.camera}", 12).reshape(3, 4)

    def _data(self, name: str) -> Path:
        return self.folder / name / "data"

    def _transform(self, name: str) -> Array:
        """Read a rigid motion from a calibration file, (4, 4)."""
        calibration = self._calibration(name)
        matrix = np.eye(4)
        matrix[:3, :3] = self._entry(calibration, "R", 9).reshape(3, 3)
        matrix[:3, 3] = self._entry(calibration, "T", 3)
        return matrix

    def _calibration(self, name: str) -> dict[str, str]:
        """Read the entries of a calibration file; ``"file"`` is its path, for error messages."""
        file = self.folder.parent / name
        if not file.is_file():
            raise InputError(f"{file} does not exist; KITTI's calibration files lie beside the drive's folder.")
        entries = (line.partition(":") for line in file.read_text().splitlines())
        return {"file": str(file), **{key.strip(): value for key, _, value in entries}}

    def _entry(self, calibration: dict[str, str], key: str, num_values: int) -> Array:
        try:
            values = np.array(calibration[key].split(), dtype=np.float64)
        except (KeyError, ValueError):
            values = np.empty(0)
        if len(values) != num_values:
            raise InputError(f"{calibration['file']} has no {key!r} of {num_values} numbers; take KITTI's own file.")
        return values

    def _oxts(self, file: Path) -> Array:
        """Read the GPS/IMU values of one frame, (30,)."""
        try:
            values = np.array(file.read_text().split(), dtype=np.float64)
        except FileNotFoundError:
            raise InputError(f"{file} does not exist; poses need the drive's oxts files.") from None
        except ValueError as error:
            raise InputError(f"{file} is not an oxts file ({error}); take KITTI's own.") from None
        if len(values) != OXTS_VALUES:
            raise InputError(f"{file} holds {len(values)} numbers, not {OXTS_VALUES}; take KITTI's own file.")
        return values


def _rotation(axis: int, angle: float) -> Array:
    """Return the rotation about x, y or z (axis 0, 1, 2) by an angle in radians, (3, 3)."""
    matrix = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[i, i] = matrix[j, j] = math.cos(angle)
    matrix[j, i], matrix[i, j] = math.sin(angle), -math.sin(angle)
    return matrix
