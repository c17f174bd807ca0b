"""Paths of a camera against the truth: the error of five frames, KITTI's errors per 100 to 800 m, and ATE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybrid_encoder.errors import InputError
from hybrid_encoder.geometry.trajectory import motions_between, similarity_between

Array = NDArray[Any]

SNIPPET = 5  # frames, as in SfMLearner and Monodepth2
LENGTHS = tuple(range(100, 900, 100))  # metres, as in KITTI's development kit
EVERY = 10  # frames between the starts of segments, as there: a second


@dataclass(frozen=True)
class PoseResults:
    """How far a path is from the true one.

    Args:
        snippet_ate, snippet_std: mean and standard deviation over all snippets of five frames of the error of their
            positions in metres, each with a scale of its own; SfMLearner's and Monodepth2's number. It is the root of
            the summed squares over the number of frames, so smaller than a root mean square.
        kitti_translation: KITTI's translation error over segments of 100 to 800 m, in percent; None where no segment
            is as long.
        kitti_rotation: KITTI's rotation error over these segments, in degrees per 100 m; None likewise.
        ate: root mean square error of all positions in metres, after the whole path was rotated, moved and, without
            ``metric``, scaled onto the true one.
        frame_translation: root mean square error of the translation between neighbouring frames, in metres.
        frame_rotation: root mean square error of the rotation between neighbouring frames, in degrees.
        scale: that all translations were multiplied by, one number for the path; the snippets have their own.
        num_frames: of the path.
        num_segments: of 100 to 800 m.
        length: of the true path, in metres.
    """

    snippet_ate: float
    snippet_std: float
    kitti_translation: float | None
    kitti_rotation: float | None
    ate: float
    frame_translation: float
    frame_rotation: float
    scale: float
    num_frames: int
    num_segments: int
    length: float

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers by name, as JSON has them."""
        return asdict(self)


def evaluate_trajectory(predicted: ArrayLike, truth: ArrayLike, metric: bool = False) -> PoseResults:
    """Compare a path with the true one.

    One camera without a unit knows its path up to a scale. Except in the snippets of five frames, which are scaled one
    by one, it is scaled by one number: that of the similarity which brings its positions nearest to the true ones.

    Source: the snippets are those of Zhou et al., "Unsupervised Learning of Depth and Ego-Motion from Video", CVPR
    2017, as Monodepth2 measures; the segments are those of KITTI's development kit, ``evaluate_odometry.cpp``.

    Args:
        predicted: world_T_cam of all frames in order, (N, 4, 4), in any world; a sequence of motions is made one by
            :func:`hybrid_encoder.geometry.trajectory.chain_motions`.
        truth: world_T_cam of the same frames in metres, (N, 4, 4).
        metric: the path is in metres; compare it without a scale.

    Raises:
        InputError: paths of different lengths or of less than two frames, or numbers that are not finite.
    """
    motions, true_motions = motions_between(predicted), motions_between(truth)
    poses, true_poses = np.asarray(predicted, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if len(poses) != len(true_poses) or len(poses) < 2:
        raise InputError(f"the paths have {len(poses)} and {len(true_poses)} frames; give the same two or more.")
    snippets = _snippet_errors(motions, true_motions)
    fitted, rotation, _ = similarity_between(poses[:, :3, 3], true_poses[:, :3, 3])
    scale = 1.0 if metric else fitted
    poses = poses.copy()
    poses[:, :3, 3] *= scale
    segments = segment_errors(poses, true_poses)
    turned = poses[:, :3, 3] @ rotation.T
    difference = turned - turned.mean(0) - true_poses[:, :3, 3] + true_poses[:, :3, 3].mean(0)
    errors = np.linalg.inv(motions_between(poses)) @ true_motions
    has_segments = len(segments) > 0
    return PoseResults(
        snippet_ate=float(snippets.mean()),
        snippet_std=float(snippets.std()),
        kitti_translation=100 * float(segments[:, 0].mean()) if has_segments else None,
        kitti_rotation=100 * float(np.degrees(segments[:, 1].mean())) if has_segments else None,
        ate=_rms(np.linalg.norm(difference, axis=1)),
        frame_translation=_rms(np.linalg.norm(errors[:, :3, 3], axis=1)),
        frame_rotation=float(np.degrees(_rms(_angles(errors)))),
        scale=scale,
        num_frames=len(poses),
        num_segments=len(segments),
        length=float(travelled(true_poses)[-1]),
    )


def mean_results(results: Sequence[PoseResults]) -> dict[str, float | None]:
    """Return the mean of every number over recordings, each with the same weight; None where no recording has it."""
    found: dict[str, float | None] = {}
    for name in (entry.name for entry in fields(PoseResults)):
        values = [value for value in (getattr(result, name) for result in results) if value is not None]
        found[name] = float(np.mean(values)) if values else None
    return found


def travelled(poses: Array) -> Array:
    """Return the length of the path up to every frame, (N,), in the unit of the poses (N, 4, 4)."""
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def segment_errors(predicted: Array, truth: Array) -> Array:
    """Return KITTI's errors of all segments: those that begin at every tenth frame, of 100, 200, ... 800 m.

    A segment ends at the first frame that is farther along the true path than its length.

    Args:
        predicted, truth: world_T_cam in metres, (N, 4, 4).

    Returns:
        Translation error and rotation error in radians, each over the segment's length in metres, (S, 2).
    """
    distance = travelled(truth)
    found: list[tuple[float, float]] = []
    for first in range(0, len(truth), EVERY):
        for length in LENGTHS:
            last = int(np.searchsorted(distance, distance[first] + length, side="right"))
            if last == len(truth):
                continue
            moved = np.linalg.inv(predicted[first]) @ predicted[last]
            error = np.linalg.inv(moved) @ np.linalg.inv(truth[first]) @ truth[last]
            found.append((float(np.linalg.norm(error[:3, 3])) / length, float(_angles(error[None])[0]) / length))
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def _snippet_errors(motions: Array, true_motions: Array) -> Array:
    """Return the error of the snippet that begins at every frame but the last; the last ones are shorter."""
    found = []
    for first in range(len(motions)):
        path, true_path = (_snippet_positions(m[first : first + SNIPPET - 1]) for m in (motions, true_motions))
        squares = (path**2).sum()
        scale = (path * true_path).sum() / squares if squares > 0 else 1.0
        found.append(np.sqrt(((scale * path - true_path) ** 2).sum()) / len(path))
    return np.array(found)


def _snippet_positions(motions: Array) -> Array:
    """Return positions along a snippet as SfMLearner chains them: by the motions of points, not of the camera.

    Both paths are chained so, by which the drive of a snippet is seen as if it were backwards; published numbers are of
    these.
    """
    pose, found = np.eye(4), [np.zeros(3)]
    for motion in motions:
        pose = pose @ motion
        found.append(pose[:3, 3])
    return np.array(found)


def _angles(motions: Array) -> Array:
    """Return the angles of rotations in radians, (N,), of (N, 4, 4); exact for small ones, too."""
    rotation = motions[:, :3, :3]
    skew = rotation - rotation.transpose(0, 2, 1)
    sine = np.linalg.norm(np.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], axis=1), axis=1) / 2
    return np.asarray(np.arctan2(sine, (np.trace(rotation, axis1=1, axis2=2) - 1) / 2))


def _rms(values: Array) -> float:
    return float(np.sqrt((values**2).mean()))
