"""What the folders of data sets have in common: frames of one size, cameras by their numbers, and what was found."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from hybrid_encoder.data.images import read_image
from hybrid_encoder.data.opening import is_folder
from hybrid_encoder.data.sources.base import Array
from hybrid_encoder.errors import InputError

SHOWN = 6  # names of a folder in a message


def read_frame(file: Path, size: tuple[int, int], kind: str) -> Array:
    """Return RGB in [0, 1], float32, (3, H, W), of an image that must have the size that the intrinsics are for.

    Raises:
        InputError: it cannot be read, or has another size.
    """
    image: Array = read_image(file).numpy()
    if image.shape[1:] != size:
        raise InputError(
            f"{file} is {image.shape[1]} x {image.shape[2]}, but the intrinsics are for {size[0]} x {size[1]}; take "
            f"the images as {kind} has them."
        )
    return image


def camera_text(kind: str, K: Array) -> str:
    """Return a text that recordings share where their intrinsics are the same."""
    fx, fy, cx, cy = (float(value) for value in (K[0, 0], K[1, 1], K[0, 2], K[1, 2]))
    return f"{kind}, fx {fx:.9g}, fy {fy:.9g}, cx {cx:.9g}, cy {cy:.9g}"


def intrinsics(fx: float, fy: float, cx: float, cy: float) -> Array:
    """Return intrinsics in pixels, float32, (3, 3)."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float32)


def rigid(rotation: Array, translation: Array) -> Array:
    """Return a rigid motion, float64, (4, 4)."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, translation
    return matrix


def contents(folder: Path) -> str:
    """Say what a folder holds, for a message on what is missing in it."""
    if not is_folder(folder):
        return "is not a folder"
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"holds {', '.join(names[:SHOWN])}{more}" if names else "is empty"
