"""A drive of KITTI raw: frames, rectified intrinsics, camera poses from GPS/IMU, and lidar depth.

Geiger et al., "Vision meets Robotics: The KITTI Dataset", IJRR 2013. The layout is the one that KITTI ships::

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

EARTH_RADIUS = 6378137.0  # metres, as the GPS unit has it


@dataclass(frozen=True)
class KittiDrive:
    """One recording, seen by one colour camera.

    Args:
        folder: of the drive, ``<root>/<date>/<date>_drive_<number>_sync``.
        camera: 2 (left) or 3 (right).

    Raises:
        InputError: no such folder, or another camera; later, a file that is missing or does not hold what it should.
    """

    folder: Path
    camera: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if self.camera not in (2, 3):
            raise InputError(f"camera is {self.camera}; KITTI's colour cameras are 2 (left) and 3 (right).")
        if not self.folder.is_dir():
            raise InputError(f"{self.folder} is no folder; give <root>/<date>/<date>_drive_<number>_sync.")

    @property
    def frames(self) -> list[int]:
        """Numbers of the frames that have a picture, in order."""
        names = (file.stem for file in self._data(f"image_0{self.camera}").glob("*.[pj][np]g"))
        return sorted(int(name) for name in names if name.isdecimal())

    @cached_property
    def K(self) -> Array:
        """Rectified intrinsics in pixels, float32, (3, 3)."""
        return self._projection[:, :3].astype(np.float32)

    def image(self, frame: int) -> Array:
        """RGB in [0, 1], float32, (3, H, W)."""
        from hybrid_encoder.data.images import read_image

        stem = self._data(f"image_0{self.camera}") / f"{frame:010d}"
        file = next((stem.with_suffix(s) for s in (".png", ".jpg") if stem.with_suffix(s).is_file()), None)
        if file is None:
            raise InputError(f"{stem}.png does not exist; the frames that have a picture are {self.frames}.")
        image: Array = read_image(file).numpy()
        return image

    def world_T_cam(self, frame: int) -> Array:
        """Camera to a world that is metric and has no origin of its own (Mercator), float64, (4, 4).

        Poses are made for use relative to each other: ``inv(world_T_cam(a)) @ world_T_cam(b)`` takes points of b to a.
        """
        values = self._numbers(self._data("oxts") / f"{frame:010d}.txt", 30)
        latitude, longitude, altitude, roll, pitch, yaw = values[:6]
        first = self._numbers(min(self._data("oxts").glob("*.txt")), 30)
        scale = math.cos(math.radians(first[0]))  # one scale for the whole drive
        world_T_imu = np.eye(4)
        world_T_imu[:3, :3] = _turn(2, yaw) @ _turn(1, pitch) @ _turn(0, roll)
        world_T_imu[:3, 3] = (
            scale * EARTH_RADIUS * math.radians(longitude),
            scale * EARTH_RADIUS * math.log(math.tan(math.radians(90 + latitude) / 2)),
            altitude,
        )
        velo_T_imu = self._motion("calib_imu_to_velo.txt")
        return np.asarray(world_T_imu @ np.linalg.inv(self.cam_T_velo @ velo_T_imu))

    @cached_property
    def cam_T_velo(self) -> Array:
        """Lidar to this camera, float64, (4, 4)."""
        calibration = self._calibration("calib_cam_to_cam.txt")
        rectify = np.eye(4)
        rectify[:3, :3] = self._entry(calibration, "R_rect_00", 9).reshape(3, 3)
        shift = np.eye(4)  # from camera 0 to this one
        shift[:3, 3] = np.linalg.solve(self._projection[:, :3], self._projection[:, 3])
        return np.asarray(shift @ rectify @ self._motion("calib_velo_to_cam.txt"))

    def lidar_depth(self, frame: int) -> Array:
        """Depth in metres at the pixels that a lidar point falls on, 0 elsewhere, float32, (1, H, W)."""
        file = self._data("velodyne_points") / f"{frame:010d}.bin"
        if not file.is_file():
            raise InputError(f"{file} does not exist; lidar depth needs the drive's velodyne points.")
        points = np.fromfile(file, np.float32)
        if len(points) % 4:
            raise InputError(
                f"{file} holds {len(points)} numbers, no multiple of 4 (x, y, z, reflectance); copy it again."
            )
        points = points.reshape(-1, 4).astype(np.float64)
        points[:, 3] = 1
        points = (self.cam_T_velo @ points[points[:, 0] > 0].T)[:3]
        points = points[:, points[2] > 0]
        u, v = np.rint((self._projection[:2, :3] @ points) / points[2]).astype(int)
        height, width = self.size
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
        order = np.argsort(-points[2][inside])  # where points fall together the nearest is written last
        depth = np.zeros((1, height, width), np.float32)
        depth[0, v[inside][order], u[inside][order]] = points[2][inside][order]
        return depth

    @cached_property
    def size(self) -> tuple[int, int]:
        """(H, W) of the rectified pictures."""
        width, height = self._entry(self._calibration("calib_cam_to_cam.txt"), f"S_rect_0{self.camera}", 2)
        return int(height), int(width)

    @cached_property
    def _projection(self) -> Array:
        calibration = self._calibration("calib_cam_to_cam.txt")
        return self._entry(calibration, f"P_rect_0{self.camera}", 12).reshape(3, 4)

    def _data(self, name: str) -> Path:
        return self.folder / name / "data"

    def _motion(self, name: str) -> Array:
        calibration = self._calibration(name)
        matrix = np.eye(4)
        matrix[:3, :3] = self._entry(calibration, "R", 9).reshape(3, 3)
        matrix[:3, 3] = self._entry(calibration, "T", 3)
        return matrix

    def _calibration(self, name: str) -> dict[str, str]:
        file = self.folder.parent / name
        if not file.is_file():
            raise InputError(f"{file} does not exist; KITTI's calibration files lie beside the drive's folder.")
        entries = (line.partition(":") for line in file.read_text().splitlines())
        return {"file": str(file), **{key.strip(): value for key, _, value in entries}}

    def _entry(self, calibration: dict[str, str], key: str, count: int) -> Array:
        try:
            values = np.array(calibration[key].split(), dtype=np.float64)
        except (KeyError, ValueError):
            values = np.empty(0)
        if len(values) != count:
            raise InputError(f"{calibration['file']} has no {key!r} of {count} numbers; take KITTI's own file.")
        return values

    def _numbers(self, file: Path, count: int) -> Array:
        try:
            values = np.array(file.read_text().split(), dtype=np.float64)
        except FileNotFoundError:
            raise InputError(f"{file} does not exist; poses need the drive's oxts files.") from None
        except ValueError as error:
            raise InputError(f"{file} is no oxts file ({error}); take KITTI's own.") from None
        if len(values) != count:
            raise InputError(f"{file} holds {len(values)} numbers, not {count}; take KITTI's own file.")
        return values


def _turn(axis: int, angle: float) -> Array:
    """Rotation about x, y or z."""
    matrix = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[i, i] = matrix[j, j] = math.cos(angle)
    matrix[j, i], matrix[i, j] = math.sin(angle), -math.sin(angle)
    return matrix
