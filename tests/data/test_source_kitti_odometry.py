"""KITTI odometry, in the layout of its archives, with the calibration of sequence 00 as it is published."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybrid_encoder import InputError
from hybrid_encoder.data.sequences import SourceSequences
from hybrid_encoder.data.sources.kitti_odometry import KittiOdometrySource, is_kitti_odometry, kitti_odometry_sources
from hybrid_encoder.evaluation.frame_lists import parse_frame, unpack_frames
from hybrid_encoder.training.trained_on import training_record

CALIB = """\
P0: 7.188560e+02 0 6.071928e+02 0.000000e+00 0 7.188560e+02 1.852157e+02 0.000000e+00 0 0 1 0.000000e+00
P1: 7.188560e+02 0 6.071928e+02 -3.861448e+02 0 7.188560e+02 1.852157e+02 0.000000e+00 0 0 1 0.000000e+00
P2: 7.188560e+02 0 6.071928e+02 4.538225e+01 0 7.188560e+02 1.852157e+02 -1.130887e-01 0 0 1 3.779761e-03
P3: 7.188560e+02 0 6.071928e+02 -3.372877e+02 0 7.188560e+02 1.852157e+02 2.369057e+00 0 0 1 4.915215e-03
Tr: 0 -1 0 0 0 0 -1 0 1 0 0 0
"""
K = np.array([[718.856, 0, 607.1928], [0, 718.856, 185.2157], [0, 0, 1]], np.float32)
TURN = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # a quarter to the right: forward becomes the world's x


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Sequences 00 (colour, poses, lidar), 08 (left colour camera) and 11 (grey, no poses)."""
    for name, cameras in (("00", (0, 2, 3)), ("08", (2,)), ("11", (0, 1))):
        folder = tmp_path / "dataset" / "sequences" / name
        for camera in cameras:
            (folder / f"image_{camera}").mkdir(parents=True)
            for frame in range(3):
                shape = (376, 1241) if camera < 2 else (376, 1241, 3)
                pixels = np.full(shape, 51 * camera + frame, np.uint8)
                Image.fromarray(pixels).save(folder / f"image_{camera}" / f"{frame:06d}.png")
        (folder / "calib.txt").write_text(CALIB)
        (folder / "times.txt").write_text("0.000000e+00\n1.037359e-01\n2.074718e-01\n")
    rows = [np.eye(3, 4), np.column_stack([np.eye(3), [0, 0, 2]]), np.column_stack([TURN, [1, 0, 4]])]
    (tmp_path / "dataset" / "poses").mkdir()
    text = "\n".join(" ".join(f"{value:.6e}" for value in row.flatten()) for row in rows)
    (tmp_path / "dataset" / "poses" / "00.txt").write_text(text)
    scan = tmp_path / "dataset" / "sequences" / "00" / "velodyne"
    scan.mkdir()
    np.array([[10, 0, 0, 0.5], [-10, 0, 0, 0.5]], np.float32).tofile(scan / "000001.bin")
    return tmp_path / "dataset"


def test_sequences_are_read_by_either_camera(root: Path) -> None:
    sources = kitti_odometry_sources(root)
    assert [source.name.replace(str(root), "") for source in sources] == [
        "/sequences/00, camera 2",
        "/sequences/00, camera 3",
        "/sequences/08, camera 2",
        "/sequences/11, camera 0",
        "/sequences/11, camera 1",
    ]
    left, right, alone, grey, grey_right = sources
    assert left.size == (376, 1241) and list(left.frames) == [0, 1, 2]
    assert left.K is not None and left.K.dtype == np.float32 and (left.K == K).all()
    np.testing.assert_allclose(left.image(1), np.full((3, 376, 1241), 103 / 255), atol=1e-7)
    assert left.file(1) == root / "sequences" / "00" / "image_2" / "000001.png" and left.file(9) is None
    np.testing.assert_allclose(left.right(1), right.image(1), atol=0)
    forward = 0.003779761 - 0.004915215  # of camera 2 against camera 3
    assert left.baseline == pytest.approx((45.38225 + 337.2877 - 607.1928 * forward) / 718.856), "0.53 m to the right"
    assert right.baseline == pytest.approx(-float(left.baseline or 0)) and alone.baseline is None
    assert grey.baseline == pytest.approx(386.1448 / 718.856)
    np.testing.assert_allclose(grey.image(2), np.full((3, 376, 1241), 2 / 255), atol=1e-7)
    np.testing.assert_allclose(grey.right(2), grey_right.image(2), atol=0)
    assert len({source.camera for source in sources}) == 1, "one calibration"


def test_poses_are_those_of_the_camera_and_not_of_camera_0(root: Path) -> None:
    left, right, alone, *_ = kitti_odometry_sources(root)
    poses = [left.world_T_cam(frame) for frame in range(3)]
    assert all(pose is not None for pose in poses)
    first, second, third = (np.asarray(pose) for pose in poses)
    cam_from_0 = np.linalg.solve(K.astype(np.float64), [45.38225, -0.1130887, 3.779761e-3])
    np.testing.assert_allclose(first[:3, 3], -cam_from_0, atol=1e-6)  # camera 2 is 6 cm to the left of camera 0
    np.testing.assert_allclose(second[:3, 3] - first[:3, 3], [0, 0, 2], atol=1e-6)
    np.testing.assert_allclose(third[:3, :3] @ [0, 0, 1], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(third[:3, 3], TURN @ -cam_from_0 + [1, 0, 4], atol=1e-6)
    to_right = np.linalg.inv(first) @ np.asarray(right.world_T_cam(0))
    assert to_right[0, 3] == pytest.approx(float(left.baseline or 0), abs=1e-9)
    assert alone.world_T_cam(0) is None
    poses_file = root / "poses" / "00.txt"
    poses_file.write_text("\n".join(poses_file.read_text().splitlines()[:2]))
    with pytest.raises(InputError, match=r"00\.txt has 2 poses, none of frame 2"):
        KittiOdometrySource(root / "sequences" / "00").world_T_cam(2)


def test_lidar_points_are_depth_where_there_are_some(root: Path) -> None:
    left = KittiOdometrySource(root / "sequences" / "00")
    assert left.depth(0) is None
    depth = left.depth(1)
    assert depth is not None and depth.shape == (1, 376, 1241) and (depth > 0).sum() == 1
    x, y, z = np.linalg.solve(K.astype(np.float64), [45.38225, -0.1130887, 3.779761e-3])
    z += 10
    u, v = round(718.856 * x / z + 607.1928), round(718.856 * y / z + 185.2157)
    assert depth[0, v, u] == pytest.approx(z)
    left.K = np.eye(3, dtype=np.float32)  # which a person says, or which are learned
    assert np.array_equal(np.asarray(left.depth(1)), depth)


def test_a_training_on_it_says_which_frames_of_kitti_raw_it_saw(root: Path) -> None:
    sources = kitti_odometry_sources(root, ["00", "08"], cameras=(2,))
    record = training_record("fine", SourceSequences(sources, (96, 320)))
    assert record["known"] and record["drives"] == {
        "2011_09_30_drive_0028": {"l": "1101"},
        "2011_10_03_drive_0027": {"l": "1"},
    }
    for source in sources:
        line = parse_frame(source.frame_name(1))
        assert line == source.recorded(1) and line in unpack_frames(record["drives"])
    assert not training_record("fine", SourceSequences(kitti_odometry_sources(root, ["11"]), (96, 320)))["known"]


def test_items_are_resized_with_their_intrinsics_and_sources_travel_to_workers(root: Path) -> None:
    left = pickle.loads(pickle.dumps(KittiOdometrySource(root / "sequences" / "00")))
    item = SourceSequences([left], (188, 1241), stereo=True)[0]
    assert item.images.shape == (4, 3, 188, 1241) and item.baseline == pytest.approx(0.5323, abs=1e-3)
    np.testing.assert_allclose(item.K[1], [0, 359.428, (185.2157 + 0.5) / 2 - 0.5], rtol=1e-6)


def test_any_of_its_folders_will_do_and_no_other(root: Path, tmp_path: Path) -> None:
    for folder, number in ((root, 5), (root / "sequences", 5), (root / "sequences" / "00", 2)):
        assert is_kitti_odometry(folder) and len(kitti_odometry_sources(folder)) == number
    (tmp_path / "other" / "2011_09_26").mkdir(parents=True)
    assert not is_kitti_odometry(tmp_path / "other") and not is_kitti_odometry(tmp_path / "none")
    with pytest.raises(InputError, match=r"other holds 2011_09_26, not sequences/00 with calib\.txt"):
        kitti_odometry_sources(tmp_path / "other")
    with pytest.raises(InputError, match=r"has no sequence 05; it has 00, 08, 11\."):
        kitti_odometry_sources(root, ["05"])
    with pytest.raises(InputError, match=r"camera is 4; KITTI odometry has 0 and 1 \(grey\)"):
        KittiOdometrySource(root / "sequences" / "00", 4)
    with pytest.raises(InputError, match=r"08 has no image_3/000000\.png: it holds calib\.txt, image_2, times\.txt\."):
        kitti_odometry_sources(root, ["08"], cameras=(3,))
    (root / "sequences" / "08" / "calib.txt").unlink()
    with pytest.raises(InputError, match=r"08 has no calib\.txt; unpack data_odometry_calib\.zip"):
        kitti_odometry_sources(root)


def test_images_that_were_resized_do_not_go_with_the_calibration(root: Path) -> None:
    folder = root / "sequences" / "00"
    small = Image.new("RGB", (620, 188))
    small.save(folder / "image_2" / "000001.png")
    with pytest.raises(InputError, match=r"000001\.png is 188 x 620, but the intrinsics are for 376 x 1241"):
        KittiOdometrySource(folder).image(1)
    small.save(folder / "image_2" / "000000.png")
    with pytest.raises(InputError, match=r"has images of 188 x 620, whose centre cannot be at \(607\.193, 185\.216\)"):
        KittiOdometrySource(folder)
