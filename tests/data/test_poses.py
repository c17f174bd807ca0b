"""Trajectory files: the numbers that KITTI and TUM write, read and written back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hybrid_encoder.data.poses import read_trajectory, write_trajectory
from hybrid_encoder.errors import InputError
from hybrid_encoder.geometry.pose import pose_matrix


def some_poses() -> np.ndarray:
    rng = torch.Generator().manual_seed(0)
    angles = torch.randn(40, 3, generator=rng)
    angles[0] = 0  # the identity
    angles[1] = torch.tensor([torch.pi, 0, 0])  # half a turn, where some formulas divide by zero
    angles[2] = torch.tensor([0, torch.pi - 1e-4, 0])
    matrices = pose_matrix(angles, 10 * torch.randn(40, 3, generator=rng)).double().numpy()
    left, _, right = np.linalg.svd(matrices[:, :3, :3])
    matrices[:, :3, :3] = left @ right
    return matrices


def test_kitti_lines_are_the_rows_of_camera_to_world(tmp_path: Path) -> None:
    file = tmp_path / "04.txt"
    # A quarter turn about y (to the right, as y is down): the camera's z axis is the world's x axis.
    file.write_text("1 0 0 0 0 1 0 0 0 0 1 0\n0 0 1 5 0 1 0 -2 -1 0 0 7\n")
    poses, times = read_trajectory(file)
    assert times is None
    np.testing.assert_array_equal(poses[0], np.eye(4))
    np.testing.assert_array_equal(poses[1] @ [0, 0, 1, 1], [6, -2, 7, 1])


def test_tum_lines_are_time_position_and_quaternion(tmp_path: Path) -> None:
    file = tmp_path / "groundtruth.txt"
    half = 0.5**0.5
    file.write_text(f"# timestamp tx ty tz qx qy qz qw\n1.5 5 -2 7 0 {half} 0 {half}\n1.75 0 0 0 0 0 0 -1\n")
    poses, times = read_trajectory(file)
    np.testing.assert_array_equal(times, [1.5, 1.75])
    np.testing.assert_allclose(poses[0] @ [0, 0, 1, 1], [6, -2, 7, 1], atol=1e-15)
    np.testing.assert_array_equal(poses[1], np.eye(4))


@pytest.mark.parametrize("format", ["kitti", "tum"])
def test_what_is_written_is_read_back(tmp_path: Path, format: str) -> None:
    poses, times = some_poses(), np.arange(40) * 0.1
    write_trajectory(tmp_path / "path.txt", poses, format, times)  # type: ignore[arg-type]
    found = read_trajectory(tmp_path / "path.txt")
    np.testing.assert_allclose(found.poses, poses, atol=1e-12)
    if format == "tum":
        np.testing.assert_array_equal(found.times, times)
    assert [file.name for file in tmp_path.iterdir()] == ["path.txt"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no line with a pose"),
        ("1 2 3\n", "line 1 has 3 words"),
        ("# x\n1 0 0 0 0 1 0 0 0 0 1 0\n1 0 0 0 0 1 0 0 0 0 1 x\n", "line 3 is '1 0 0 0 0 1 0 0 0 0 1 x'"),
        ("1 0 0 0 0 1 0 0 0 0 1 0\n1 0 0 0\n", "line 2 is '1 0 0 0'; 12 finite numbers"),
        ("1 0 0 0 0 1 0 0 0 0 nan 0\n", "line 1 is '1 0 0 0 0 1 0 0 0 0 nan 0'"),
        ("2 0 0 0 0 1 0 0 0 0 1 0\n", "line 1 is no rigid motion"),
        ("-1 0 0 0 0 1 0 0 0 0 1 0\n", "not mirrored"),
        ("0 0 0 0 0 0 0 0\n", "quaternion of length 0"),
        ("1 0 0 0 0 0 0 1\n1 0 0 0 0 0 0 1\n", "line 2 is not later"),
    ],
)
def test_what_is_no_trajectory_is_one_sentence(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "path.txt"
    file.write_text(content)
    with pytest.raises(InputError, match=says.replace("(", r"\(")):
        read_trajectory(file)


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "path.txt"
    file.write_text("before")
    with pytest.raises(InputError, match="times are missing"):
        write_trajectory(file, some_poses(), "tum")
    with pytest.raises(InputError, match="no rigid motion"):
        write_trajectory(file, 2 * some_poses())
    with pytest.raises(InputError, match="one of 'kitti', 'tum'"):
        write_trajectory(file, some_poses(), "euroc")  # type: ignore[arg-type]
    assert file.read_text() == "before"
