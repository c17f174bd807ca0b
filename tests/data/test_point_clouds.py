"""Point clouds: the points that a camera sees, and files that other programs read alike."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hybrid_encoder import InputError
from hybrid_encoder.data import SyntheticDrive, synthetic_batch
from hybrid_encoder.data.point_clouds import PointCloud, depth_edges, unprojected, write_cloud
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.geometry import project

from helpers.memory import peak, start_peak

K = torch.tensor([[20.0, 0, 2], [0, 10.0, 1], [0, 0, 1]])


def cloud_of(num_points: int = 200) -> PointCloud:
    rng = np.random.default_rng(0)
    positions = rng.normal(0, 5, (num_points, 3)).astype(np.float32)
    return PointCloud(positions, rng.integers(0, 256, (num_points, 3), np.uint8))


def read(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """What trimesh finds in a file."""
    trimesh = pytest.importorskip("trimesh")
    points = trimesh.load(path)
    if isinstance(points, trimesh.Scene):
        (points,) = points.geometry.values()
    return np.asarray(points.vertices), np.asarray(points.colors)[:, :3]


def test_pixels_become_the_points_that_they_see() -> None:
    depth = torch.arange(1.0, 13).reshape(3, 4)
    rgb = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    cloud = unprojected(depth, rgb, K)
    assert len(cloud) == 12 and cloud.positions.dtype == np.float32 and cloud.colors.dtype == np.uint8
    for index, (x, y, z) in enumerate(cloud.positions):  # pixel centres are at integers
        row, column = divmod(index, 4)
        assert z == depth[row, column]
        assert (x, y) == pytest.approx(((column - 2) * z / 20, (row - 1) * z / 10))
        assert cloud.colors[index].tolist() == rgb[row, column].tolist()


def test_points_of_a_street_fall_on_their_pixels_again() -> None:
    """Also where the picture is taller than what is unprojected at once."""
    drive = synthetic_batch([SyntheticDrive(seed=3, num_frames=3, height=600, width=64)], (1,))
    depth = drive.depth[0, 0]
    cloud = unprojected(depth, np.zeros((600, 64, 3), np.uint8), drive.K[0])
    kept = (depth.isfinite() & (depth > 0)).flatten()
    seen = project(torch.from_numpy(cloud.positions).T[None], drive.K, (600, 64))
    y, x = torch.meshgrid(torch.arange(600.0), torch.arange(64.0), indexing="ij")
    torch.testing.assert_close(seen.x[0], x.flatten()[kept], atol=2e-3, rtol=0)
    torch.testing.assert_close(seen.y[0], y.flatten()[kept], atol=2e-3, rtol=0)
    np.testing.assert_allclose(cloud.positions[:, 2], depth.flatten()[kept].numpy(), rtol=1e-6)


def test_what_is_no_depth_or_too_far_gives_no_point() -> None:
    depth = torch.tensor([[1.0, float("nan"), float("inf"), 0.0], [-2.0, 3.0, 80.0, 80.1]])
    rgb = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert unprojected(depth, rgb, K).positions[:, 2].tolist() == pytest.approx([1, 3, 80, 80.1])
    near = unprojected(depth, rgb, K, max_depth=80)
    assert near.positions[:, 2].tolist() == [1, 3, 80] and near.colors[:, 0].tolist() == [0, 15, 18]


def test_points_at_the_edges_of_objects_are_left_out() -> None:
    """A box 5 m away before a wall at 20 m, smeared over one pixel as networks do it; a road that rises evenly."""
    depth = torch.full((9, 12), 20.0)
    depth[3:6, 4:8] = 5
    depth[3:6, 8] = 11  # in the air between them
    cloud = unprojected(depth, np.zeros((9, 12, 3), np.uint8), K, edge_rtol=0.04)
    assert set(cloud.positions[:, 2].tolist()) == {5.0, 20.0}
    assert depth_edges(depth, 0.04)[4].tolist() == [False] * 3 + [True] * 2 + [False] * 2 + [True] * 3 + [False] * 2
    road = 1 / torch.linspace(1 / 8, 1 / 60, 40)[:, None].expand(40, 12)  # a plane: from 1.3 to 20 % per row
    wall = road.clone()
    wall[:, 8:] = 8  # a truck beside it
    assert not depth_edges(road, 0.04).any()
    assert not depth_edges(wall, 0.04)[:, :4].any() and depth_edges(wall, 0.04)[3:, 7:9].all()
    hole = torch.full((3, 3), 5.0)
    hole[1, 1] = float("nan")
    assert not depth_edges(hole, 0.01).any()


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(InputError, match=r"depth is \(3, 4\) and rgb \(4, 3, 3\), uint8; a picture of \(3, 4, 3\)"):
        unprojected(torch.ones(3, 4), np.zeros((4, 3, 3), np.uint8), K)
    with pytest.raises(InputError, match=r"float64; a picture of"):
        unprojected(torch.ones(3, 4), np.zeros((3, 4, 3)), K)  # type: ignore[arg-type]  # as somebody may give it
    with pytest.raises(InputError, match="focal lengths must be above 0"):
        unprojected(torch.ones(3, 4), np.zeros((3, 4, 3), np.uint8), torch.zeros(3, 3))
    with pytest.raises(InputError, match=r"positions are \(2, 3\) and colors \(3, 3\); both must be \(N, 3\)"):
        PointCloud(np.zeros((2, 3), np.float32), np.zeros((3, 3), np.uint8))


def test_a_ply_file_holds_what_was_given(tmp_path: Path) -> None:
    cloud = cloud_of()
    write_cloud(tmp_path / "x.ply", cloud)
    positions, colors = read(tmp_path / "x.ply")
    assert np.array_equal(positions.astype(np.float32), cloud.positions) and np.array_equal(colors, cloud.colors)
    header, body = (tmp_path / "x.ply").read_bytes().split(b"end_header\n", 1)
    assert header.startswith(b"ply\nformat binary_little_endian 1.0\n") and b"x right, y down, z forward" in header
    assert len(body) == 200 * 15
    assert [file.name for file in tmp_path.iterdir()] == ["x.ply"]


def test_a_glb_file_has_y_up_and_colours_in_proportion_to_light(tmp_path: Path) -> None:
    cloud = cloud_of()
    cloud.colors[:4] = [[0, 0, 0], [255, 255, 255], [188, 128, 64], [13, 30, 99]]
    write_cloud(tmp_path / "x.GLB", cloud)
    (tmp_path / "x.GLB").rename(tmp_path / "x.glb")
    positions, colors = read(tmp_path / "x.glb")
    assert np.array_equal(positions.astype(np.float32), cloud.positions * np.array([1, -1, -1], np.float32))
    assert colors[:4].tolist() == [[0, 0, 0], [255, 255, 255], [128, 55, 13], [1, 3, 32]]  # as sRGB is defined
    light = colors / 255
    shown = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055) * 255  # as viewers do
    assert np.abs(shown - cloud.colors).max() < 7 and np.abs(shown - cloud.colors)[cloud.colors > 128].max() < 1.1


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.ply"
    path.write_text("before")
    for target, cloud, message in (
        (path, cloud_of(0), "would hold no point"),
        (tmp_path / "x.obj", cloud_of(), r"ends in '\.obj'; name a file of \.ply or \.glb"),
    ):
        with pytest.raises(InputError, match=message):
            write_cloud(target, cloud)
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(ConfigError, match=r"trimesh is not installed.*pip install 'hybrid-encoder\[glb\]'"):
        write_cloud(tmp_path / "x.glb", cloud_of())
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    write_cloud(path, cloud_of())
    assert path.read_bytes().startswith(b"ply") and list(tmp_path.iterdir()) == [path]


def test_twelve_megapixels_take_little_more_than_their_points(tmp_path: Path) -> None:
    height, width = 3000, 4000
    depth = torch.linspace(2, 60, height)[:, None].expand(height, width).contiguous()
    rgb = np.full((height, width, 3), 90, np.uint8)
    camera = torch.tensor([[3000.0, 0, 1999.5], [0, 3000.0, 1499.5], [0, 0, 1]])
    before = start_peak()
    cloud = unprojected(depth, rgb, camera, max_depth=80, edge_rtol=0.04)
    write_cloud(tmp_path / "x.ply", cloud)
    used, points = peak() - before, height * width * 15
    assert len(cloud) == height * width and (tmp_path / "x.ply").stat().st_size > points
    assert used < 2 * points
