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

from hybrid_encoder.data.depth_maps import check_same_view, depth_of_points
from hybrid_encoder.data.finding import numbered_files
from hybrid_encoder.data.kitti_files import Calibration, read_oxts, read_scan
from hybrid_encoder.data.opening import expanded, is_folder
from hybrid_encoder.errors import InputError

Array = NDArray[Any]

EARTH_RADIUS = 6378137.0  # metres, at the equator (WGS 84), which KITTI's development kit uses


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
        object.__setattr__(self, "folder", expanded(self.folder))
        if self.camera not in (2, 3):
            raise InputError(f"camera is {self.camera}; KITTI's colour cameras are 2 (left) and 3 (right).")
        if not is_folder(self.folder):
            raise InputError(f"{self.folder} is not a folder; give <root>/<date>/<date>_drive_<number>_sync.")

    @property
    def frames(self) -> list[int]:
        """Numbers of the frames that have an image, in order; a number may have fewer digits than KITTI's ten."""
        return sorted(self._images)

    @cached_property
    def K(self) -> Array:
        """Rectified intrinsics in pixels, float32, (3, 3)."""
        return self._projection[:, :3].astype(np.float32)

    def image_file(self, frame: int) -> Path:
        """Return the file of a frame's image.

        Raises:
            InputError: there is none.
        """
        file = self._images.get(frame)
        if file is None:
            missing = self._data(f"image_0{self.camera}") / f"{frame:010d}.png"
            raise InputError(f"{missing} does not exist; the frames that have an image are {self.frames}.")
        return file

    def image(self, frame: int) -> Array:
        """Return RGB in [0, 1], float32, (3, H, W), of the rectified image or a resized copy of it."""
        from hybrid_encoder.data.images import read_image

        file = self.image_file(frame)
        image: Array = read_image(file).numpy()
        check_same_view(image.shape[1:], str(file), self.size, f"what {self._calibration_of_cameras.file} says")
        return image

    def world_T_cam(self, frame: int) -> Array:
        """Return camera to world of one frame, from GPS/IMU, float64, (4, 4).

        The world is a Mercator projection in metres, whose origin is far away. Use poses relative to each other:
        ``inv(world_T_cam(a)) @ world_T_cam(b)`` takes points from camera b to camera a.
        """
        poses = self._numbered("oxts", (".txt",))
        file = poses.get(frame, self._data("oxts") / f"{frame:010d}.txt")
        latitude, longitude, altitude, roll, pitch, yaw = read_oxts(file)
        first = read_oxts(poses[min(poses)])
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
        rectify = np.eye(4)
        rectify[:3, :3] = self._calibration_of_cameras.rotation("R_rect_00")
        shift = np.eye(4)  # from camera 0 to this one
        shift[:3, 3] = np.linalg.solve(self._projection[:, :3], self._projection[:, 3])
        return np.asarray(shift @ rectify @ self._transform("calib_velo_to_cam.txt"))

    @cached_property
    def pixels_P_velo(self) -> Array:
        """Lidar to the pixels of the rectified camera, by KITTI's matrices as they are written, float64, (3, 4)."""
        rectify = np.eye(4)
        rectify[:3, :3] = self._calibration_of_cameras.rotation("R_rect_00")
        return np.asarray(self._projection @ rectify @ self._transform("calib_velo_to_cam.txt"))

    @cached_property
    def other(self) -> KittiDrive:
        """The same drive seen by the other colour camera."""
        return KittiDrive(self.folder, 5 - self.camera)

    @cached_property
    def baseline(self) -> float:
        """Position of the other colour camera along the x axis of this one, in metres: 0.53 from left to right."""
        projections = self._projection, self.other._projection
        own, other = (float(np.linalg.solve(P[:, :3], P[:, 3])[0]) for P in projections)
        return own - other

    def lidar_file(self, frame: int) -> Path:
        """Return the file of a frame's lidar points; where there is none, what KITTI would call it."""
        return self._scans.get(frame, self._data("velodyne_points") / f"{frame:010d}.bin")

    def lidar_points(self, frame: int) -> Array:
        """Return all lidar points of a frame: x ahead, y left, z up, in metres, and reflectance, float32, (N, 4)."""
        return read_scan(self.lidar_file(frame))

    def lidar_depth(self, frame: int) -> Array:
        """Return depth in metres at the pixels that a lidar point falls on, 0 elsewhere, float32, (1, H, W)."""
        points = self.lidar_points(frame).astype(np.float64)
        points[:, 3] = 1  # homogeneous coordinates, in place of the reflectance
        return depth_of_points((self.cam_T_velo @ points[points[:, 0] > 0].T)[:3], self._projection[:, :3], self.size)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(H, W) of the rectified images."""
        return self._calibration_of_cameras.size(f"S_rect_0{self.camera}")

    @cached_property
    def _projection(self) -> Array:
        return self._calibration_of_cameras.projection(f"P_rect_0{self.camera}")

    @cached_property
    def _calibration_of_cameras(self) -> Calibration:
        return Calibration(self.folder.parent / "calib_cam_to_cam.txt")

    def _transform(self, name: str) -> Array:
        """Read a rigid motion from a calibration file, (4, 4)."""
        calibration = Calibration(self.folder.parent / name)
        matrix = np.eye(4)
        matrix[:3, :3] = calibration.rotation("R")
        matrix[:3, 3] = calibration.numbers("T", 3)
        return matrix

    @cached_property
    def _images(self) -> dict[int, Path]:
        return self._numbered(f"image_0{self.camera}", (".jpeg", ".jpg", ".png"))

    @cached_property
    def _scans(self) -> dict[int, Path]:
        return self._numbered("velodyne_points", (".bin",))

    def _numbered(self, name: str, suffixes: tuple[str, ...]) -> dict[int, Path]:
        """Return the files of one sensor by the number of their frame; of several with one number, the last suffix."""
        return numbered_files(self._data(name), suffixes)

    def _data(self, name: str) -> Path:
        return self.folder / name / "data"


def _rotation(axis: int, angle: float) -> Array:
    """Return the rotation about x, y or z (axis 0, 1, 2) by an angle in radians, (3, 3)."""
    matrix = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[i, i] = matrix[j, j] = math.cos(angle)
    matrix[j, i], matrix[i, j] = math.sin(angle), -math.sin(angle)
    return matrix
