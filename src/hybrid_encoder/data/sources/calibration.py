"""Intrinsics in a file beside the frames, or as a person gives them, checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_encoder.data.opening import is_file
from hybrid_encoder.data.sources.base import Array
from hybrid_encoder.errors import InputError, shortened

NAMES = ("intrinsics.txt", "intrinsics.json", "intrinsics.npy")


def find_intrinsics(folder: Path) -> Path | None:
    """Return the file of intrinsics in a folder, ``intrinsics.txt``, ``.json`` or ``.npy``; None where there is none.

    Raises:
        InputError: there are several.
    """
    found = [folder / name for name in NAMES if is_file(folder / name)]
    if len(found) > 1:
        raise InputError(f"{folder} holds {' and '.join(file.name for file in found)}; leave one of them.")
    return found[0] if found else None


def read_intrinsics(file: Path) -> Array:
    """Read ``K``, float32, (3, 3): nine numbers row by row, as text, as a list in JSON, or as an array of numpy.

    Raises:
        InputError: the file cannot be read, or does not hold the intrinsics of a pinhole camera.
    """
    try:
        value: Any
        if file.suffix == ".npy":
            value = np.load(file, allow_pickle=False)
        elif file.suffix == ".json":
            value = json.loads(file.read_text(encoding="utf-8-sig"))
        else:
            value = file.read_text(encoding="utf-8-sig").replace(",", " ").split()
        return as_intrinsics(value, str(file))
    except InputError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file} cannot be read ({error}); write K as three lines of three numbers.") from None


def as_intrinsics(value: Any, name: str) -> Array:
    """Return ``K`` as float32, (3, 3).

    Args:
        value: nine numbers in any nesting, in pixels.
        name: what error messages call it.

    Raises:
        InputError: it is not [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with focal lengths above 0.
    """
    try:
        K = np.asarray(value, np.float32)
    except (TypeError, ValueError, OverflowError):
        K = np.empty(0, np.float32)
    K = K.reshape(3, 3) if K.size == 9 else K
    if (
        K.shape != (3, 3)
        or not np.isfinite(K).all()
        or min(K[0, 0], K[1, 1]) <= 0
        or K[1, 0]
        or (K[2] != (0, 0, 1)).any()
    ):
        raise InputError(
            f"{name} holds {shortened(str(value), 100)}, which are no intrinsics; write [[fx, 0, cx], [0, fy, cy], "
            "[0, 0, 1]] in pixels of the images, with focal lengths above 0."
        )
    return K


def check_centre(K: Array, size: tuple[int, int], name: str) -> None:
    """Raise InputError where the principal point is not in the middle half of the images, so that K is of others.

    Intrinsics of images of twice or half of the size are found so; cutting a quarter off, such as a bonnet, is allowed.

    Args:
        K: (3, 3).
        size: (H, W) of the images.
        name: of the recording.
    """
    x, y = float(K[0, 2]), float(K[1, 2])
    if not (size[1] / 4 < x + 0.5 < size[1] * 3 / 4 and size[0] / 4 < y + 0.5 < size[0] * 3 / 4):
        raise InputError(
            f"the intrinsics of {name} have their centre at ({x:g}, {y:g}), far from the middle of its images of "
            f"{size[0]} x {size[1]}; give them in pixels of these images."
        )
