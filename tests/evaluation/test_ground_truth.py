from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybrid_encoder import InputError
from hybrid_encoder.data import KittiDrive
from hybrid_encoder.evaluation import (
    archive_samples,
    eigen_depth,
    export_depths,
    kitti_samples,
    read_depth_archive,
    write_depth_archive,
)

from helpers.kitti_layout import write_drive

K = np.array([[50, 0, 30], [0, 50, 20], [0, 0, 1]])
DRIVE = "2011_01_01_drive_0001_sync"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three frames of both cameras, the last without lidar."""
    images = {
        camera: [np.full((3, 40, 60), (100 * (camera - 2) + frame) / 255) for frame in range(3)] for camera in (2, 3)
    }
    points = {frame: np.array([[0, 0, 10.0 + frame], [2, -1, 10]]) for frame in (0, 1)}
    write_drive(tmp_path / "kitti", images, K, points)
    return tmp_path / "kitti"


def annotate(root: Path, folder: str, frame: int, camera: int = 2, size: tuple[int, int] = (40, 60)) -> None:
    values = np.zeros(size, np.uint16)
    values[5, 7], values[6, 8] = 2560, 65535
    file = root / folder / "proj_depth" / "groundtruth" / f"image_0{camera}" / f"{frame:010d}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(file)


def test_samples_say_which_frame_they_are(root: Path, tmp_path: Path) -> None:
    first, second = kitti_samples(root)
    assert (first.name, first.index, second.name, second.index) == (
        f"2011_01_01/{DRIVE} 0 l",
        0,
        f"2011_01_01/{DRIVE} 1 l",
        1,
    )
    assert (second.drive, second.frame) == (DRIVE, 1)
    assert second.file == root / "2011_01_01" / DRIVE / "image_02" / "data" / "0000000001.png"
    assert second.read_image().dtype == np.uint8 and (second.read_image() == 1).all()
    assert first.read_lookup is not None and first.read_lookup() is None, "the first frame has none before it"
    assert second.read_lookup is not None
    before = second.read_lookup()
    assert before is not None and before.shape == (40, 60, 3) and (before == 0).all()
    assert second.K is not None and second.K.tolist() == K.tolist()
    split = tmp_path / "split.txt"
    split.write_text(f"2011_01_01/{DRIVE} 1 r\n2011_01_01/{DRIVE} 0 l\n")
    right, left = kitti_samples(root, split)
    assert right.name.endswith(" 1 r") and (right.read_image() == 101).all() and (left.read_image() == 0).all()


def test_intrinsics_are_in_pixels_of_the_image_files(root: Path) -> None:
    for file in (root / "2011_01_01" / DRIVE / "image_02" / "data").iterdir():
        Image.open(file).resize((120, 80)).save(file)
    sample = kitti_samples(root)[0]
    assert sample.read_image().shape == (80, 120, 3) and sample.read_truth().shape == (40, 60)
    assert sample.K is not None and sample.K.tolist() == [[100, 0, 60.5], [0, 100, 40.5], [0, 0, 1]]


def test_each_truth_is_its_own(root: Path) -> None:
    annotate(root, f"2011_01_01/{DRIVE}", 1)
    drive = KittiDrive(root / "2011_01_01" / DRIVE)
    eigen, lidar, annotated = (kitti_samples(root, truth=truth) for truth in ("eigen", "lidar", "annotated"))
    assert [len(samples) for samples in (eigen, lidar, annotated)] == [2, 2, 1]
    for samples in (eigen, lidar, annotated):
        assert samples[-1].read_truth().dtype == np.float32 and samples[-1].read_truth().shape == (40, 60)
    np.testing.assert_array_equal(eigen[1].read_truth(), eigen_depth(drive, 1))
    np.testing.assert_array_equal(lidar[1].read_truth(), drive.lidar_depth(1)[0])
    assert eigen[1].read_truth()[19, 29] == 11 and lidar[1].read_truth()[20, 30] == 11
    truth = annotated[0].read_truth()
    assert np.argwhere(truth).tolist() == [[5, 7], [6, 8]] and truth[5, 7] == 10 and truth[6, 8] == 65535 / 256
    with pytest.raises(InputError, match="truth is 'nyu'; it must be one of 'eigen', 'annotated', 'lidar'"):
        kitti_samples(root, truth="nyu")  # type: ignore[arg-type]


@pytest.mark.parametrize("folder", ["train", "val"])
def test_annotated_depth_is_found_where_kittis_archive_has_it(root: Path, tmp_path: Path, folder: str) -> None:
    split = tmp_path / "split.txt"
    split.write_text(f"2011_01_01/{DRIVE} 2 r\n")
    with pytest.raises(InputError, match=r"_sync 2 r has no annotated depth; unpack data_depth_annotated\.zip"):
        kitti_samples(root, split, truth="annotated")
    with pytest.raises(InputError, match="has no frame with annotated depth"):
        kitti_samples(root, truth="annotated")
    annotate(root, f"{folder}/{DRIVE}", 2, camera=3)
    (sample,) = kitti_samples(root, split, truth="annotated")
    assert sample.read_truth()[5, 7] == 10
    annotate(root, f"{folder}/{DRIVE}", 2, camera=3, size=(60, 40))
    with pytest.raises(InputError, match="must show the same view"):
        sample.read_truth()
    shutil.copy(root / "2011_01_01" / DRIVE / "image_02" / "data" / "0000000000.png", tmp_path / "rgb.png")
    file = root / folder / DRIVE / "proj_depth" / "groundtruth" / "image_03" / "0000000002.png"
    shutil.copy(tmp_path / "rgb.png", file)
    with pytest.raises(InputError, match="cannot be read as depth"):
        sample.read_truth()


def test_an_archive_is_the_truth_of_a_split_in_its_order(root: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.txt"
    split.write_text(f"2011_01_01/{DRIVE} 2 l\n2011_01_01/{DRIVE} 0 l\n")  # frame 2 has no lidar
    depths = [np.full((40, 60), 5.0), np.full((41, 60), 7.0)]
    write_depth_archive(tmp_path / "gt_depths.npz", depths)
    first, second = archive_samples(root, tmp_path / "gt_depths.npz", split)
    assert first.frame == 2 and second.frame == 0
    assert (first.read_truth() == 5).all() and second.read_truth().shape == (41, 60)
    first.read_truth()[:] = 0
    assert (first.read_truth() == 5).all(), "whoever changes it changes a copy"
    with pytest.raises(InputError, match="holds 2 depth maps, and there are 3 images; give the split"):
        archive_samples(root, tmp_path / "gt_depths.npz")


def test_truth_goes_to_an_archive_and_back(root: Path, tmp_path: Path) -> None:
    samples = kitti_samples(root)
    export_depths(samples, tmp_path / "gt_depths.npz")
    for depth, sample in zip(read_depth_archive(tmp_path / "gt_depths.npz"), samples, strict=True):
        np.testing.assert_array_equal(depth, sample.read_truth())
