"""Paths of a camera: chained from motions, taken apart into motions, and aligned with another path."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybrid_encoder.errors import InputError

Array = NDArray[Any]


def chain_motions(motions: ArrayLike) -> Array:
    """Return the poses of a camera that moves by one motion after another; the first one is the origin.

    Args:
        motions: second_T_first of every two frames in order, (N - 1, 4, 4): each takes points of the earlier camera
            to the later one, as the pose network predicts it from two frames in temporal order.

    Returns:
        world_T_cam, (N, 4, 4), float64.

    Raises:
        InputError: other shapes, or numbers that are not finite.
    """
    steps = np.linalg.inv(_checked("motions", motions, least=0))
    poses = [np.eye(4)]
    for step in steps:
        poses.append(poses[-1] @ step)
    return np.stack(poses)


def motions_between(poses: ArrayLike) -> Array:
    """Return the motion between every pose and the next, second_T_first, (N - 1, 4, 4), float64.

    Args:
        poses: world_T_cam, (N, 4, 4).

    Raises:
        InputError: other shapes, or numbers that are not finite.
    """
    checked = _checked("poses", poses)
    return np.asarray(np.linalg.inv(checked[1:]) @ checked[:-1])


def similarity_between(source: ArrayLike, target: ArrayLike) -> tuple[float, Array, Array]:
    """Return the scale s, the rotation R and the translation t for which s R source + t is nearest to target.

    Least squares over all points, by Umeyama's formula. Where the points of a path lie on a line or in one place, the
    rotation is one of several that are as good; the scale of a source in one place is 1.

    Source: Umeyama, "Least-squares estimation of transformation parameters between two point patterns", TPAMI 1991.

    Args:
        source, target: (N, 3).

    Returns:
        scale, rotation (3, 3), translation (3,).

    Raises:
        InputError: other shapes.
    """
    a, b = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 3 or not len(a):
        raise InputError(f"the points are {a.shape} and {b.shape}; two rows of as many points are needed, (N, 3).")
    mean_a, mean_b = a.mean(0), b.mean(0)
    spread = ((a - mean_a) ** 2).sum()
    left, values, right = np.linalg.svd((b - mean_b).T @ (a - mean_a))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    rotation = left @ np.diag(signs) @ right
    scale = float((values * signs).sum() / spread) if spread > 0 else 1.0
    return scale, rotation, mean_b - scale * rotation @ mean_a


def _checked(name: str, matrices: ArrayLike, least: int = 1) -> Array:
    """Return matrices as float64, (N, 4, 4)."""
    found = np.asarray(matrices, dtype=np.float64)
    if found.ndim != 3 or found.shape[1:] != (4, 4) or len(found) < least:
        raise InputError(f"{name} are {found.shape}; (N, 4, 4) is needed, with N at least {least}.")
    if not np.isfinite(found).all():
        raise InputError(f"{name} hold numbers that are not finite, first at {int(_bad(found)[0])}; leave those out.")
    return found


def _bad(matrices: Array) -> Array:
    return np.flatnonzero(~np.isfinite(matrices).all((1, 2)))
