"""The frames of KITTI raw that have what an evaluation needs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from hybrid_encoder.data.kitti import KittiDrive
from hybrid_encoder.data.kitti_splits import find_drives, read_split
from hybrid_encoder.data.opening import is_file
from hybrid_encoder.errors import InputError

Needs = Literal["image", "lidar", "stereo"]


def frames_with_lidar(
    root: str | Path, split: str | Path | None = None, camera: int | None = None
) -> list[tuple[KittiDrive, int]]:
    """List the frames that have an image and lidar, in order: :func:`kitti_frames` with ``needs="lidar"``."""
    return kitti_frames(root, split, camera, needs="lidar")


def kitti_frames(
    root: str | Path, split: str | Path | None = None, camera: int | None = None, needs: Needs = "image"
) -> list[tuple[KittiDrive, int]]:
    """List the frames that have an image and what else is needed, in order.

    Args:
        root: of KITTI raw, the folder with the dates; without a split, also the folder of one drive.
        split: a text file with one frame a line, ``<date>/<drive> <frame> <l or r>``, as Monodepth2's splits.
        camera: 2 (left) or 3 (right), only without a split; by default 2.
        needs: ``"lidar"``, ``"stereo"`` (an image of the other colour camera), or ``"image"``, nothing else.

    Raises:
        InputError: no drive, no frame with all that is needed, a camera and a split, a line of the split that is
            malformed or names a frame that does not exist, a calibration file that does not exist or is malformed.
    """
    frames_of = cache(lambda drive: frozenset(drive.frames))

    def missing(drive: KittiDrive, frame: int) -> Path | None:
        if needs == "lidar":
            return None if is_file(drive.lidar_file(frame)) else drive.lidar_file(frame)
        if needs == "stereo" and frame not in frames_of(drive.other):
            return drive.folder / f"image_0{drive.other.camera}" / "data" / f"{frame:010d}.png"
        return None

    found: list[tuple[KittiDrive, int]] = []
    if split is None:
        for drive in (KittiDrive(folder, 2 if camera is None else camera) for folder in find_drives(root)):
            found += [(drive, frame) for frame in drive.frames if not missing(drive, frame)]
    elif camera is not None:
        raise InputError(
            f"camera is {camera}, and a split is given, whose lines name a camera each; leave one of the two out."
        )
    else:
        for drive, frame, place in read_split(root, split):
            if file := missing(drive, frame):
                raise InputError(f"{place}: {file} does not exist; complete the drive, or remove the line.")
            found.append((drive, frame))
    if not found:
        what = {"lidar": "both an image and velodyne points", "stereo": "images of both colour cameras"}
        raise InputError(f"{root} has no frame with {what.get(needs, 'an image')}; complete a drive.")
    for drive in dict.fromkeys(drive for drive, _ in found):  # a faulty calibration is found before any prediction
        _ = drive.size, drive.K, needs == "lidar" and drive.cam_T_velo, needs == "stereo" and drive.baseline
    return found
