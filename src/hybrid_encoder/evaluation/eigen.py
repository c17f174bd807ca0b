"""Ground truth of the Eigen split as Monodepth2 exports it: what nearly every published number was measured against.

Godard et al., "Digging Into Self-Supervised Monocular Depth Estimation", ICCV 2019, whose export goes back to Eigen et
al., NIPS 2014. It differs from :meth:`KittiDrive.lidar_depth`, which is nearer to KITTI's annotated depth:

* depth is how far a point is ahead of the lidar, not of the camera, 0.27 m behind it;
* points lie one pixel further left and up, as pixels are counted from 1 in KITTI's Matlab code;
* points beside the camera and up to 0.27 m behind it count, where they fall into the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_encoder.data.kitti import KittiDrive

Array = NDArray[Any]


def eigen_depth(drive: KittiDrive, frame: int) -> NDArray[np.float32]:
    """Return the depth that Monodepth2's ``export_gt_depth.py --split eigen`` writes for a frame, pixel by pixel.

    Of several points on one pixel, the nearest is kept, with an exception that is reproduced. Pixels are told apart by
    the number ``row * (W - 1) + column - 1``, which the last pixel of a row shares with the first one of the next row.
    Points on these two pixels are taken together: the nearest depth of them all goes to the pixel of the point that
    comes first in the file, and the other pixel keeps the point that comes last on it.

    Monodepth2 exports camera 2, which all frames of its Eigen test split are of; here the camera is that of the drive.

    Returns:
        Metres at the pixels that a lidar point falls on, 0 elsewhere, float32, (H, W).

    Raises:
        InputError: the frame has no lidar file, or a file is malformed.
    """
    points = drive.lidar_points(frame)
    points = points[points[:, 0] >= 0]
    homogeneous = points.astype(np.float64)
    homogeneous[:, 3] = 1
    projected = (drive.pixels_P_velo @ homogeneous.T).T
    with np.errstate(divide="ignore", invalid="ignore"):  # points in the camera's plane fall on no pixel
        columns, rows = (np.rint(projected[:, axis] / projected[:, 2]) - 1 for axis in (0, 1))
    height, width = drive.size
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return _nearest(rows[inside].astype(int), columns[inside].astype(int), points[inside, 0], (height, width))


def _nearest(rows: Array, columns: Array, depths: Array, size: tuple[int, int]) -> NDArray[np.float32]:
    """Write depths to their pixels, and the least of each group to the pixel of the group's first point."""
    pixels = rows * size[1] + columns
    image = np.zeros(size[0] * size[1], np.float32)
    last = len(pixels) - 1 - np.unique(pixels[::-1], return_index=True)[1]
    image[pixels[last]] = depths[last]
    _, first, group = np.unique(rows * (size[1] - 1) + columns - 1, return_index=True, return_inverse=True)
    least = np.full(len(first), np.inf, np.float32)
    np.minimum.at(least, group, depths)
    image[pixels[first]] = least  # of a group of one point, this point again
    return image.reshape(size)
