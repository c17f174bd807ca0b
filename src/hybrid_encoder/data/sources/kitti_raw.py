"""KITTI raw as a source of frames: one drive, seen by one of its colour cameras."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from hybrid_encoder.data.kitti import KittiDrive
from hybrid_encoder.data.kitti_splits import SIDES, frame_name
from hybrid_encoder.data.opening import is_folder
from hybrid_encoder.data.sources.base import Array, FrameSource


class KittiSource(FrameSource):
    """A drive of KITTI raw, with lidar depth and GPS/IMU poses where their files are there.

    The other colour camera is its second view: to the right of camera 2, and to the left of camera 3, whose
    ``baseline`` is negative.

    Args:
        drive: with its camera.

    Raises:
        InputError: its calibration does not exist or is malformed.
    """

    def __init__(self, drive: KittiDrive) -> None:
        self.drive = drive
        self.name = f"{drive.folder}, camera {drive.camera}"
        self.size, self.K = drive.size, drive.K
        self.camera = f"{drive.folder.parent.name}, camera {drive.camera}"  # a day's drives have one calibration
        if is_folder(drive.folder / f"image_0{drive.other.camera}" / "data"):
            self.baseline = drive.baseline

    @cached_property
    def frames(self) -> Sequence[int]:
        return self.drive.frames

    def file(self, frame: int) -> Path:
        """Return the file of a frame."""
        return self.drive.image_file(frame)

    def image(self, frame: int) -> Array:
        return self.drive.image(frame)

    def right(self, frame: int) -> Array:
        return self.drive.other.image(frame)

    def depth(self, frame: int) -> Array | None:
        return self.drive.lidar_depth(frame) if self.drive.lidar_file(frame).is_file() else None

    def world_T_cam(self, frame: int) -> Array | None:
        return self.drive.world_T_cam(frame) if is_folder(self.drive.folder / "oxts") else None

    def recorded(self, frame: int) -> tuple[str, int, str]:
        return self.drive.folder.name.removesuffix("_sync"), frame, SIDES[self.drive.camera]

    def frame_name(self, frame: int) -> str:
        return frame_name(self.drive, frame)
