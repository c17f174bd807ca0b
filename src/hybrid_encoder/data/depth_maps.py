"""Depth in files and from points, and whether a map shows the same view as its image."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybrid_encoder.data.opening import is_file, is_there, opened
from hybrid_encoder.errors import InputError

KITTI_SCALE = 256  # what KITTI's 16-bit PNG files are divided by
MIN_DEPTH = 1e-3  # metres from the camera's plane, nearer than any lidar measures
MAX_STRETCH = 1.05  # between height and width of a map, from sizes that are rounded or multiples of 32


def read_depth(path: Path) -> Tensor:
    """Read a ``.npy`` file as it is, or a 16-bit grey PNG file divided by 256; float32.

    Raises:
        InputError: the file does not exist, is damaged, or holds something else.
    """
    if path.suffix.lower() == ".npy":
        array = _read_npy(path)
    else:
        with opened(path, formats=("PNG", "TIFF")) as image:
            # Older versions of Pillow read 16 bits of PNG as 32.
            if not (image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")):
                raise InputError(
                    f"{path} cannot be read as depth (its mode is {image.mode}); give a 16-bit grey PNG or a .npy."
                )
            array = np.array(image, np.float32) / np.float32(KITTI_SCALE)
    return torch.from_numpy(array)


def _read_npy(path: Path) -> NDArray[np.float32]:
    if not is_file(path):
        problem = "is not a regular file" if is_there(path) else "does not exist"
        raise InputError(f"{path} {problem}; check the path.")
    try:
        # Mapped, because a header may state any size: it is compared with that of the file before memory is taken.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            raise ValueError("it holds no plain numbers")
        with np.errstate(over="ignore"):  # of float64 to infinity, which is not valid as depth
            return np.array(array, np.float32)
    except MemoryError:
        raise InputError(f"{path} needs more memory than there is; store a smaller map.") from None
    except Exception as error:  # a damaged header is read as Python, and raises nearly anything
        raise InputError(f"{path} cannot be read as depth ({error}); give a 16-bit grey PNG or a .npy.") from None


def depth_of_points(
    points: NDArray[Any], K: NDArray[Any], size: tuple[int, int], min_depth: float = MIN_DEPTH
) -> NDArray[np.float32]:
    """Return depth in metres at the pixels that points fall on, the nearest in front, 0 elsewhere, float32, (1, H, W).

    Args:
        points: in the camera's axes, x right, y down, z forward, in metres, float64, (3, N).
        K: intrinsics in pixels, (3, 3); pixel centres are at integers.
        size: (H, W) of the map.
        min_depth: in metres; nearer points, and those behind the camera, are left out.
    """
    points = points[:, points[2] > min_depth]
    u, v = np.rint((K[:2] @ points) / points[2])
    height, width = size
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    order = np.argsort(-points[2][inside])  # of points on the same pixel, the nearest is written last
    depth = np.zeros((1, height, width), np.float32)
    columns, rows = u[inside][order].astype(int), v[inside][order].astype(int)
    depth[0, rows, columns] = points[2][inside][order]
    return depth


def check_same_view(size: tuple[int, int], name: str, other: tuple[int, int], other_name: str) -> None:
    """Raise InputError unless a map of one size, (H, W), may show the view of an image of another, stretched a little.

    A photograph that was turned upright, and its depth that was not, or an array that was transposed, differ by more;
    where both ways fit, the one that is not turned must fit better.
    """
    if min(*size, *other) < 1:
        raise InputError(f"{name} is {size[0]} x {size[1]} and {other_name} is {other[0]} x {other[1]}; one is empty.")
    slack = 1 / min(size) + 1 / min(other)  # sizes are rounded to whole pixels
    aspect, other_aspect = (math.log(height / width) for height, width in (size, other))
    stretch = abs(aspect - other_aspect)
    if stretch > math.log(MAX_STRETCH) + slack or stretch > abs(aspect + other_aspect):
        raise InputError(
            f"{name} is {size[0]} x {size[1]}, but {other_name} is {other[0]} x {other[1]}; both must show the same "
            "view: turn, transpose or crop one like the other."
        )
