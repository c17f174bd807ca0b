from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybrid_encoder import InputError
from hybrid_encoder.data import KittiDrive

from helpers.kitti_layout import write_drive

ROOT = Path(__file__).parents[2]
DRIVE = Path("kitti_mini", "2011_09_26", "2011_09_26_drive_0001_sync")


@pytest.fixture
def drive(tmp_path: Path) -> KittiDrive:
    """Two frames of a car that goes 2 metres east, its cameras 0.5 metres apart."""
    images = [np.full((3, 40, 60), (10 + frame) / 255) for frame in (0, 1)]
    points = np.array([[0, 0, 10], [2, -1, 10], [0, 0, 5], [0, 0, -4], [-9, 0, 1]])
    folder = write_drive(tmp_path, {2: images}, np.array([[50, 0, 30], [0, 50, 20], [0, 0, 1]]), {0: points})
    (folder / "oxts" / "data").mkdir(parents=True)
    for frame in (0, 1):
        longitude = np.degrees(2 * frame / 6378137.0)
        values = [0.0, longitude, 100.0, *[0.0] * 27]
        (folder / "oxts" / "data" / f"{frame:010d}.txt").write_text(" ".join(f"{x:.14f}" for x in values))
    return KittiDrive(folder)


def test_a_drive_is_read_from_its_files(drive: KittiDrive) -> None:
    assert drive.frames == [0, 1] and drive.size == (40, 60)
    assert drive.K.tolist() == [[50, 0, 30], [0, 50, 20], [0, 0, 1]]
    assert drive.image(1).shape == (3, 40, 60) and np.allclose(drive.image(1), 11 / 255)
    (drive.folder / "image_02" / "data" / "._0000000001.png").touch()  # macOS leaves such files in archives
    assert drive.frames == [0, 1]


def test_going_forward_brings_the_world_nearer(drive: KittiDrive) -> None:
    second_T_first = np.linalg.inv(drive.world_T_cam(1)) @ drive.world_T_cam(0)
    expected = np.eye(4)
    expected[2, 3] = -2
    np.testing.assert_allclose(second_T_first, expected, atol=1e-6)


def test_lidar_points_fall_where_they_are_seen_the_nearest_in_front(drive: KittiDrive) -> None:
    depth = drive.lidar_depth(0)[0]
    assert np.argwhere(depth).tolist() == [[15, 40], [20, 30]], "one is behind, one outside"
    assert depth[20, 30] == 5 and depth[15, 40] == 10
    right = KittiDrive(drive.folder, camera=3)
    assert np.argwhere(right.lidar_depth(0)[0]).tolist() == [[15, 38], [20, 25], [20, 28]]


def test_what_is_missing_or_wrong_is_named(drive: KittiDrive) -> None:
    folder = drive.folder
    with pytest.raises(InputError, match=r"camera is 1; KITTI's colour cameras are 2 \(left\) and 3"):
        KittiDrive(folder, camera=1)
    with pytest.raises(InputError, match="is not a folder"):
        KittiDrive(folder / "gone")
    with pytest.raises(InputError, match=r"0000000007\.png does not exist; the frames .* are \[0, 1\]"):
        drive.image(7)
    with pytest.raises(InputError, match=r"0000000007\.txt does not exist; poses need"):
        drive.world_T_cam(7)
    with pytest.raises(InputError, match="lidar depth needs"):
        drive.lidar_depth(1)
    (folder / "oxts" / "data" / "0000000001.txt").write_text("1 2 three")
    with pytest.raises(InputError, match="is not an oxts file"):
        drive.world_T_cam(1)
    (folder / "oxts" / "data" / "0000000001.txt").write_text("1 2 3")
    with pytest.raises(InputError, match="holds 3 numbers, not 30"):
        drive.world_T_cam(1)
    (folder / "velodyne_points" / "data" / "0000000000.bin").write_bytes(b"\0" * 20)
    with pytest.raises(InputError, match="holds 5 numbers, not a multiple of 4"):
        drive.lidar_depth(0)
    (folder.parent / "calib_cam_to_cam.txt").write_text("S_rect_02: 60 forty\n")
    with pytest.raises(InputError, match="has no 'S_rect_02' of 2 numbers"):
        _ = KittiDrive(folder).size
    (folder.parent / "calib_cam_to_cam.txt").unlink()
    with pytest.raises(InputError, match="calibration files lie beside"):
        _ = KittiDrive(folder).K


@pytest.mark.real_data
def test_lidar_agrees_with_the_annotated_depth(data: Path) -> None:
    drive = KittiDrive(data / DRIVE)
    with Image.open(data / DRIVE / "proj_depth" / "groundtruth" / "image_02" / "0000000005.png") as image:
        annotated = np.asarray(image, np.float32) / 256
    lidar = drive.lidar_depth(5)[0]
    both = (annotated > 0) & (lidar > 0)
    assert both.sum() > 5000
    assert np.median(np.abs(lidar - annotated)[both] / annotated[both]) < 0.01


@pytest.mark.real_data
def test_the_car_drives_at_the_speed_that_it_measured(data: Path) -> None:
    drive = KittiDrive(data / DRIVE)
    for frame in range(4):
        motion = np.linalg.inv(drive.world_T_cam(frame + 1)) @ drive.world_T_cam(frame)
        speed = float((data / DRIVE / "oxts" / "data" / f"{frame:010d}.txt").read_text().split()[8])
        assert abs(-motion[2, 3] * 10 - speed) < 2, "10 frames a second; the clock of this drive is a little uneven"
        assert np.abs(motion[:2, 3]).max() < 0.1


@pytest.mark.real_data
def test_matching_real_frames_beats_every_constant_depth(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "match_kitti.py"), str(data / DRIVE)]
    done = subprocess.run([*command, "--output", "out.png"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    for kind in ("rgb", "tiny"):
        line = next(line for line in done.stdout.splitlines() if line.startswith(kind))
        values = dict(part.rsplit(" ", 1) for part in line.partition(": ")[2].split(", "))
        assert float(values["cheapest bin"]) < 0.75 * float(values["best constant"])
        assert float(values["nearer than the constant"]) > 0.5
    assert (tmp_path / "out.png").is_file()
