"""Errors of paths: numbers that are known by hand, on straight ways and on circles."""

from __future__ import annotations

import ast
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.pose import evaluate_trajectory, segment_errors
from hybrid_encoder.geometry.trajectory import chain_motions, motions_between, similarity_between

CHECKOUT = os.environ.get("HYBRID_ENCODER_MONODEPTH2", "")


def turn(degrees: float) -> np.ndarray:
    """A turn to the right about the camera's y axis, which looks down."""
    pose, angle = np.eye(4), math.radians(degrees)
    pose[0, 0] = pose[2, 2] = math.cos(angle)
    pose[0, 2], pose[2, 0] = math.sin(angle), -math.sin(angle)
    return pose


def drive(num_frames: int, step: float = 1.0, degrees: float = 0.0) -> np.ndarray:
    """Poses of a camera that goes ``step`` metres ahead from frame to frame, and turns."""
    poses = [np.eye(4)]
    for _ in range(num_frames - 1):
        ahead = np.eye(4)
        ahead[2, 3] = step
        poses.append(poses[-1] @ ahead @ turn(degrees))
    return np.stack(poses)


def anywhere(poses: np.ndarray) -> np.ndarray:
    """The same path in another world."""
    world = turn(70) @ np.diag([1, -1, -1, 1])
    world[:3, 3] = 5e5, -3, 40
    return np.asarray(world @ poses)


def test_motions_take_points_of_a_camera_to_the_next() -> None:
    poses = anywhere(drive(3, step=2, degrees=90))
    motions = motions_between(poses)
    # What is 10 m ahead, after 2 m ahead and a turn to the right is 8 m to the left.
    np.testing.assert_allclose(motions[0] @ [0, 0, 10, 1], [-8, 0, 0, 1], atol=1e-8)
    np.testing.assert_allclose(chain_motions(motions), np.linalg.inv(poses[0]) @ poses, atol=1e-8)
    np.testing.assert_array_equal(chain_motions(np.empty((0, 4, 4))), np.eye(4)[None])


def test_the_true_path_in_another_world_has_no_error() -> None:
    truth = drive(300, degrees=0.5)
    found = evaluate_trajectory(anywhere(truth), truth, metric=True)
    errors = [found.snippet_ate, found.kitti_translation, found.kitti_rotation, found.ate]
    errors += [found.frame_translation, found.frame_rotation]
    assert errors == pytest.approx([0] * 6, abs=1e-6)
    assert found.num_frames == 300
    assert found.length == pytest.approx(299)


def test_a_straight_path_that_is_too_long() -> None:
    truth = drive(1001)  # 1000 m
    found = evaluate_trajectory(drive(1001, step=1.05), truth, metric=True)
    # A segment ends at the first frame beyond its length, so one of L metres is L + 1 long here.
    lengths = [(first, length) for first in range(0, 1001, 10) for length in range(100, 900, 100)]
    inside = [length for first, length in lengths if first + length + 1 <= 1000]
    assert found.num_segments == len(inside) == 440
    assert found.kitti_translation == pytest.approx(np.mean([5 * (n + 1) / n for n in inside]))
    assert found.kitti_rotation == pytest.approx(0, abs=1e-9)
    assert found.frame_translation == pytest.approx(0.05)
    # Aligned by their means, the errors are 5 % of the distance from the middle.
    assert found.ate == pytest.approx(0.05 * np.std(np.arange(1001)))
    assert found.scale == 1
    scaled = evaluate_trajectory(drive(1001, step=1.05), truth)
    assert scaled.scale == pytest.approx(1 / 1.05)
    assert [scaled.ate, scaled.kitti_translation] == pytest.approx([0, 0], abs=1e-6)


def test_a_circle_that_turns_too_fast() -> None:
    # Steps of 0.7 m with turns of 1 degree, against 1.1: after k of them the heading is k / 10 degrees wrong.
    truth, predicted = drive(600, 0.7, degrees=1), drive(600, 0.7, degrees=1.1)
    found = evaluate_trajectory(predicted, truth, metric=True)
    steps = {length: math.ceil(length / 0.7) for length in (100, 200, 300, 400)}
    inside = [length for first in range(0, 600, 10) for length in steps if first + steps[length] <= 599]
    assert found.num_segments == len(inside)
    assert found.kitti_rotation == pytest.approx(np.mean([steps[n] / 10 / n * 100 for n in inside]))
    assert found.frame_rotation == pytest.approx(0.1)
    # The places after these steps, as complex numbers; the error is the way from one to the other.
    ends = [0.7 * sum(np.exp(1j * math.radians(a * i)) for i in range(steps[100])) for a in (1, 1.1)]
    assert segment_errors(predicted, truth)[0, 0] == pytest.approx(abs(ends[0] - ends[1]) / 100)


def test_the_error_of_five_frames_by_hand() -> None:
    truth = drive(5)
    sideways = drive(5)
    sideways[:, 0, 3] = [0, 0, 0, 0, 1]  # the last step also goes to the right
    found = evaluate_trajectory(sideways, truth)
    expected = []
    for count in (4, 3, 2, 1):  # steps of the snippets, which all end at the last frame
        steps = np.arange(count + 1)
        scale = (steps**2).sum() / ((steps**2).sum() + 1)
        path = np.column_stack([(steps == count) * scale, steps * scale - steps])
        expected.append(np.sqrt((path**2).sum()) / (count + 1))
    assert found.snippet_ate == pytest.approx(np.mean(expected))
    assert found.snippet_std == pytest.approx(np.std(expected))


def test_a_camera_that_stands_still_is_measured_too() -> None:
    found = evaluate_trajectory(np.tile(np.eye(4), (202, 1, 1)), drive(202))
    assert found.scale == 1
    assert found.kitti_translation == pytest.approx(np.mean([101] * 11 + [100.5]))
    assert found.frame_translation == pytest.approx(1)


def test_short_paths_have_no_error_over_a_hundred_metres() -> None:
    found = evaluate_trajectory(drive(101), drive(101))
    assert (found.kitti_translation, found.kitti_rotation, found.num_segments) == (None, None, 0)
    assert found.as_dict()["kitti_translation"] is None


def test_similarity_is_found_back() -> None:
    points = np.random.default_rng(0).normal(size=(50, 3))
    rotation, shift = turn(40)[:3, :3], np.array([3, -2, 1])
    scale, found, moved = similarity_between(points, 2.5 * points @ rotation.T + shift)
    assert scale == pytest.approx(2.5)
    np.testing.assert_allclose(found, rotation, atol=1e-12)
    np.testing.assert_allclose(moved, shift, atol=1e-12)
    _, mirrored, _ = similarity_between(points, points * [1, 1, -1])
    assert np.linalg.det(mirrored) == pytest.approx(1), "a path is never mirrored"


@pytest.mark.parametrize(
    ("predicted", "says"),
    [
        (drive(4), "4 and 5 frames"),
        (drive(5)[:, :3], "are \\(5, 3, 4\\)"),
        (drive(5) * np.nan, "not finite, first at 0"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(predicted: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        evaluate_trajectory(predicted, drive(5))


@pytest.mark.monodepth2
@pytest.mark.skipif(
    not Path(CHECKOUT, "evaluate_pose.py").is_file(), reason="HYBRID_ENCODER_MONODEPTH2 names no Monodepth2 checkout"
)
@pytest.mark.parametrize("num_frames", [2, 3, 5, 6, 200])
def test_the_error_of_five_frames_is_that_of_monodepth2(num_frames: int) -> None:
    """Of its script, which loads networks and data, the two functions that measure are taken from the checkout."""
    script = ast.parse(Path(CHECKOUT, "evaluate_pose.py").read_text())
    taken: list[ast.stmt] = [
        part for part in script.body if isinstance(part, ast.FunctionDef) and part.name != "evaluate"
    ]
    theirs: dict[str, Any] = {"np": np}
    exec(compile(ast.Module(taken, []), "evaluate_pose.py", "exec"), theirs)
    rng = np.random.default_rng(num_frames)
    ahead = np.tile(np.eye(4), (num_frames - 1, 1, 1))
    ahead[:, :3, 3] = [0, 0, -1] + 0.2 * rng.normal(size=(num_frames - 1, 3))
    true_motions, motions = (np.stack([turn(rng.normal()) @ motion for motion in ahead]) for _ in range(2))
    motions[:, :3, 3] = 0.03 * (motions[:, :3, 3] + 0.1 * rng.normal(size=(num_frames - 1, 3)))
    errors = []
    for first in range(num_frames - 1):
        own, true = (np.array(theirs["dump_xyz"](m[first : first + 4])) for m in (motions, true_motions))
        errors.append(theirs["compute_ate"](true, own))
    found = evaluate_trajectory(chain_motions(motions), anywhere(chain_motions(true_motions)))
    assert found.snippet_ate == pytest.approx(np.mean(errors), abs=1e-9)
    assert found.snippet_std == pytest.approx(np.std(errors), abs=1e-9)
