"""Write drives in the layout of KITTI raw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Lidar axes are x forward, y left, z up; a camera's are x right, y down, z forward.
CAM_FROM_VELO = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]])
BASELINE = 0.5  # metres from camera 2, which sits in the lidar, to camera 3


def write_drive(
    root: Path,
    images: Mapping[int, Sequence[NDArray[Any]]],
    K: NDArray[Any],
    points: Mapping[int, NDArray[Any]] | None = None,
    number: int = 1,
) -> Path:
    """Write images and lidar of one drive, and the calibration of its date, which its drives share.

    Args:
        images: by camera, its frames from 0 on: RGB in [0, 1], (3, H, W), of one size.
        K: of both cameras, (3, 3).
        points: by frame, lidar points in the axes of camera 2, (N, 3).

    Returns:
        The drive's folder.
    """
    date = root / "2011_01_01"
    folder = date / f"2011_01_01_drive_{number:04d}_sync"
    for name in ("image_02", "image_03", "velodyne_points"):
        (folder / name / "data").mkdir(parents=True)
    height, width = next(iter(images.values()))[0].shape[1:]
    lines = ["R_rect_00: 1 0 0 0 1 0 0 0 1"]
    for camera, shift in ((2, 0.0), (3, -BASELINE)):
        projection = np.hstack([K, K @ [[shift], [0], [0]]])
        lines += [f"S_rect_0{camera}: {width} {height}", f"P_rect_0{camera}: {_words(projection)}"]
    (date / "calib_cam_to_cam.txt").write_text("\n".join(lines))
    (date / "calib_velo_to_cam.txt").write_text(f"calib_time: 1\nR: {_words(CAM_FROM_VELO)}\nT: 0 0 0\n")
    (date / "calib_imu_to_velo.txt").write_text("R: 1 0 0 0 1 0 0 0 1\nT: 0 0 0\n")
    for camera, frames in images.items():
        for frame, image in enumerate(frames):
            pixels = np.rint(image.transpose(1, 2, 0) * 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"image_0{camera}" / "data" / f"{frame:010d}.png")
    for frame, xyz in (points or {}).items():
        scan = np.hstack([xyz @ CAM_FROM_VELO, np.ones((len(xyz), 1))]).astype(np.float32)
        scan.tofile(folder / "velodyne_points" / "data" / f"{frame:010d}.bin")
    return folder


def _words(numbers: NDArray[Any]) -> str:
    return " ".join(f"{float(x):.17g}" for x in numbers.flatten())
