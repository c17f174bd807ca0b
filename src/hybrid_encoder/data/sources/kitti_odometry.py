"""KITTI's odometry benchmark as a source of frames: one sequence, seen by one of its four cameras.

Geiger et al., "Are we ready for Autonomous Driving? The KITTI Vision Benchmark Suite", CVPR 2012. The layout is that of
the archives ``data_odometry_{color,gray,calib,poses,velodyne}.zip``, as the development kit's readme describes it::

    <root>/sequences/<00 to 21>/{image_0,image_1 (grey),image_2,image_3 (colour)}/<frame>.png
    <root>/sequences/<00 to 21>/{calib.txt,times.txt,velodyne/<frame>.bin}
    <root>/poses/<00 to 10>.txt
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from hybrid_encoder.data.depth_maps import depth_of_points
from hybrid_encoder.data.finding import numbered_files
from hybrid_encoder.data.images import image_size
from hybrid_encoder.data.kitti_files import Calibration, read_scan
from hybrid_encoder.data.kitti_splits import ODOMETRY
from hybrid_encoder.data.opening import expanded, is_file, is_folder
from hybrid_encoder.data.poses import read_trajectory
from hybrid_encoder.data.sources.base import Array, FrameSource
from hybrid_encoder.data.sources.layouts import camera_text, contents, read_frame, rigid
from hybrid_encoder.errors import InputError

GREY, COLOUR = (0, 1), (2, 3)  # left and right


class KittiOdometrySource(FrameSource):
    """A sequence of KITTI odometry, with poses and lidar depth where their files are there.

    Its second view is that of the other camera of the pair: to the right of the left camera, and to the left of the
    right one, whose ``baseline`` is negative. Grey images come with three equal channels. The world is what camera 0
    sees in the first frame.

    Args:
        folder: of the sequence.
        camera: 2 (left) or 3 (right) for colour, 0 or 1 for grey.

    Raises:
        InputError: another camera, no image of it, or a calibration that does not exist, is malformed, or is not for
            images of this size.
    """

    def __init__(self, folder: str | Path, camera: int = 2) -> None:
        if camera not in (*GREY, *COLOUR):
            raise InputError(f"camera is {camera}; KITTI odometry has 0 and 1 (grey), 2 and 3 (colour).")
        self.folder, self.number = expanded(folder).absolute(), camera
        self.name = f"{self.folder}, camera {camera}"
        if not self._images:
            raise InputError(f"{self.folder} has no image_{camera}/000000.png: it {contents(self.folder)}.")
        if not is_file(self.folder / "calib.txt"):
            raise InputError(f"{self.folder} has no calib.txt; unpack data_odometry_calib.zip.")
        self.size = image_size(next(iter(self._images.values())))
        own = self._projection(camera)[:, :3].astype(np.float32)
        self._check_size(own)
        self.K, self.camera = own, camera_text("KITTI odometry", own)
        if is_folder(self.folder / f"image_{camera ^ 1}"):
            self.baseline = float(self._from_camera_0(camera)[0] - self._from_camera_0(camera ^ 1)[0])

    @cached_property
    def frames(self) -> Sequence[int]:
        return list(self._images)

    def file(self, frame: int) -> Path | None:
        return self._images.get(frame)

    def image(self, frame: int) -> Array:
        return self._read(self._images, self.number, frame)

    def right(self, frame: int) -> Array:
        return self._read(self._other_images, self.number ^ 1, frame)

    def depth(self, frame: int) -> Array | None:
        """Return lidar depth, as :meth:`FrameSource.depth`; None where the sequence has no lidar points of a frame."""
        scan = self.folder / "velodyne" / f"{frame:06d}.bin"
        if not is_file(scan):
            return None
        points = read_scan(scan).astype(np.float64)
        points[:, 3] = 1  # homogeneous coordinates, in place of the reflectance
        points = self._cam_T_velo @ points[points[:, 0] > 0].T
        return depth_of_points(points[:3], self._projection(self.number)[:, :3], self.size)

    def world_T_cam(self, frame: int) -> Array | None:
        if not is_file(self._pose_file):
            return None
        if frame >= len(self._world_T_cam_0):
            raise InputError(f"{self._pose_file} has {len(self._world_T_cam_0)} poses, none of frame {frame}.")
        world_T_cam: Array = self._world_T_cam_0[frame] @ np.linalg.inv(self._cam_T_cam_0)
        return world_T_cam

    def recorded(self, frame: int) -> tuple[str, int, str] | None:
        """Return the frame of KITTI raw that this is, for the sequences 00 to 10; the others' drives are not told."""
        drive, first = ODOMETRY.get(int(self.folder.name), ("", 0)) if self.folder.name.isdecimal() else ("", 0)
        return (drive, first + frame, "lr"[self.number % 2]) if drive else None

    def frame_name(self, frame: int) -> str:
        return f"{self.folder.name} {frame} {'lr'[self.number % 2]}"

    @cached_property
    def _images(self) -> dict[int, Path]:
        return numbered_files(self.folder / f"image_{self.number}")

    @cached_property
    def _other_images(self) -> dict[int, Path]:
        return numbered_files(self.folder / f"image_{self.number ^ 1}")

    def _read(self, files: dict[int, Path], camera: int, frame: int) -> Array:
        if frame not in files:
            raise InputError(f"{self.folder}/image_{camera}/{frame:06d}.png does not exist; complete the sequence.")
        return read_frame(files[frame], self.size, "KITTI odometry")

    @property
    def _pose_file(self) -> Path:
        return self.folder.parent.parent / "poses" / f"{self.folder.name}.txt"

    @cached_property
    def _world_T_cam_0(self) -> Array:
        return read_trajectory(self._pose_file).poses

    @cached_property
    def _cam_T_cam_0(self) -> Array:
        return rigid(np.eye(3), self._from_camera_0(self.number))

    @cached_property
    def _cam_T_velo(self) -> Array:
        rows = self._calibration.numbers("Tr", 12).reshape(3, 4)
        cam_T_velo: Array = self._cam_T_cam_0 @ rigid(rows[:, :3], rows[:, 3])
        return cam_T_velo

    @cached_property
    def _calibration(self) -> Calibration:
        return Calibration(self.folder / "calib.txt")

    def _projection(self, camera: int) -> Array:
        return self._calibration.projection(f"P{camera}")

    def _from_camera_0(self, camera: int) -> Array:
        """Return the shift of points from the axes of camera 0, to which all are rectified, (3,)."""
        projection = self._projection(camera)
        shift: Array = np.linalg.solve(projection[:, :3], projection[:, 3])
        return shift

    def _check_size(self, K: Array) -> None:
        """Raise InputError where images were resized: the calibration does not say which size it is for."""
        height, width = self.size
        cx, cy = float(K[0, 2]), float(K[1, 2])
        if not (width / 4 < cx < width * 3 / 4 and height / 4 < cy < height * 3 / 4):
            raise InputError(
                f"{self.folder} has images of {height} x {width}, whose centre cannot be at ({cx:g}, {cy:g}), as "
                "calib.txt says; take the images at their original size."
            )


def is_kitti_odometry(path: str | Path) -> bool:
    """Say whether a folder is KITTI odometry: the data set's, that of all sequences, or one sequence."""
    return bool(_sequences(expanded(path)))


def kitti_odometry_sources(
    path: str | Path, sequences: Sequence[str] | None = None, cameras: Sequence[int] | None = None
) -> list[FrameSource]:
    """List the recordings of KITTI odometry, by sequence, then camera.

    Args:
        path: the folder with ``sequences``, that folder itself, or one sequence.
        sequences: their names, such as ``["00", "01"]``; by default all.
        cameras: numbers; by default both colour cameras, as far as they are there, else the grey ones.

    Raises:
        InputError: no sequence, one that does not exist, or what :class:`KittiOdometrySource` says.
    """
    root = expanded(path).absolute()
    found = {folder.name: folder for folder in _sequences(root)}
    if not found:
        raise InputError(
            f"{root} {contents(root)}, not sequences/00 with calib.txt and image_2 inside; give the folder that "
            "KITTI's odometry archives are unpacked in."
        )
    if missing := [name for name in sequences or [] if name not in found]:
        raise InputError(f"{root} has no sequence {missing[0]}; it has {', '.join(found)}.")
    chosen = [found[name] for name in sequences] if sequences else list(found.values())
    return [KittiOdometrySource(folder, camera) for folder in chosen for camera in cameras or _cameras(folder)]


def _sequences(root: Path) -> list[Path]:
    for folder in (root / "sequences", root):
        if is_folder(folder):
            inside = sorted(one for one in folder.iterdir() if re.fullmatch("[0-9]{2}", one.name) and _is_sequence(one))
            if inside:
                return inside
    return [root] if _is_sequence(root) else []


def _is_sequence(folder: Path) -> bool:
    """Say so of a folder with images in KITTI's folders, with a calibration or beside sequences that have one."""
    named = re.fullmatch("[0-9]{2}", folder.name) is not None
    return bool(_cameras(folder)) and (named or is_file(folder / "calib.txt"))


def _cameras(folder: Path) -> list[int]:
    for pair in (COLOUR, GREY):
        if there := [camera for camera in pair if is_folder(folder / f"image_{camera}")]:
            return there
    return []
