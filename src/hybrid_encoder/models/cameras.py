"""How the camera of a picture sees: from what was given, or from the EXIF data of its file."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hybrid_encoder.config.checking import shown
from hybrid_encoder.data.images import field_of_view
from hybrid_encoder.data.opening import MAX_PIXELS
from hybrid_encoder.errors import InputError
from hybrid_encoder.geometry.camera import intrinsics_from_fov

SHARES = 10  # no focal length in pixels is so short


def camera_of(source: object, size: tuple[int, int], fov: float | None, intrinsics: Any) -> Tensor:
    """Return ``K``, (3, 3), in pixels, from what was given, or from the EXIF data of the picture.

    Raises:
        InputError: both are given; or neither is, and EXIF says nothing; or values that cannot be.
    """
    if fov is not None and intrinsics is not None:
        raise InputError("fov and intrinsics are both given; leave one of them out.")
    if intrinsics is None:
        fov = field_of_view(source, max(MAX_PIXELS, size[0] * size[1])) if fov is None else fov
        if fov is None:
            raise InputError(
                "nothing says how wide the camera sees, and the picture has no EXIF focal length; give fov, the "
                "horizontal field of view in degrees (about 65 for a phone held level, 82 for KITTI), or intrinsics."
            )
        if not is_between(fov, 180):
            raise InputError(f"fov is {shown(fov)}; the horizontal field of view in degrees lies between 0 and 180.")
        return intrinsics_from_fov(float(fov), size)
    K = _matrix(intrinsics)
    if not is_in_pixels(K):
        K = K * torch.tensor([[size[1]], [size[0]], [1.0]])
        K[:2, 2] -= 0.5  # the left border of an image is half a pixel before the first pixel's centre
    if K.shape != (3, 3) or not K.isfinite().all() or float(K[0, 0]) <= 0 or float(K[1, 1]) <= 0:
        raise InputError(f"intrinsics is {shown(intrinsics)}; K (3, 3) in pixels is needed, focal lengths above 0.")
    if not (0 < float(K[0, 2]) < size[1] and 0 < float(K[1, 2]) < size[0]):
        raise InputError(
            f"intrinsics have their centre at x {float(K[0, 2]):g}, y {float(K[1, 2]):g}, outside of the picture of "
            f"{size[0]} x {size[1]}; scale them to its size."
        )
    return K


def is_in_pixels(intrinsics: Any) -> bool:
    """Say whether focal lengths and centre are in pixels; short ones are shares of width and height."""
    K = _matrix(intrinsics)
    return not (K.shape == (3, 3) and 0 < float(K[0, 0]) < SHARES and 0 < float(K[1, 1]) < SHARES)


def _matrix(intrinsics: Any) -> Tensor:
    try:
        return torch.as_tensor(intrinsics, dtype=torch.float32).cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return torch.empty(0)  # of no right shape


def is_between(value: Any, high: float) -> bool:
    """Say whether a value is a number above 0 and below another."""
    try:
        return bool(0 < value < high)
    except (TypeError, ValueError, RuntimeError):
        return False
