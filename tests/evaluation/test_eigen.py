from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_encoder import InputError
from hybrid_encoder.data import KittiDrive
from hybrid_encoder.evaluation import eigen_depth, kitti_samples, read_depth_archive, write_depth_archive
from hybrid_encoder.evaluation.ground_truth import annotated_depth

from helpers.checkouts import DATA, DRIVE, Checkout
from helpers.kitti_layout import write_drive

CHECKOUT = os.environ.get("HYBRID_ENCODER_MONODEPTH2", "")
PACKAGES = os.environ.get("HYBRID_ENCODER_FAMILY", "")
FOCAL, CX, CY, SIZE = 10, 6, 4, (8, 12)
FRAMES = [int(file.stem) for file in sorted((DATA / DRIVE / "velodyne_points" / "data").glob("*.bin"))]
real = pytest.mark.skipif(not FRAMES, reason=f"no KITTI frames at {DATA} (HYBRID_ENCODER_DATA)")


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> KittiDrive:
    """A camera that sits in the lidar, of images of 8 x 12 pixels."""
    K = np.array([[FOCAL, 0, CX], [0, FOCAL, CY], [0, 0, 1]])
    folder = write_drive(tmp_path_factory.mktemp("kitti"), {2: [np.zeros((3, *SIZE))], 3: [np.zeros((3, *SIZE))]}, K)
    return KittiDrive(folder)


def scan(drive: KittiDrive, points: Any) -> None:
    """Write points x ahead, y left, z up."""
    points = np.asarray(points, np.float32).reshape(-1, 3)
    file = drive.folder / "velodyne_points" / "data" / "0000000000.bin"
    np.hstack([points, np.full((len(points), 1), 0.5, np.float32)]).tofile(file)


def at(u: float, v: float, depth: float) -> list[float]:
    """Return the point that falls on (u, v) as Matlab counts pixels, which is (u - 1, v - 1) here."""
    return [depth, -(u - CX) * depth / FOCAL, -(v - CY) * depth / FOCAL]


def expected(points: Any) -> Any:
    """The same by lists and dictionaries, one point after the other."""
    height, width = SIZE
    image = np.zeros(SIZE)
    groups: dict[int, list[Any]] = {}
    for x, y, z in np.asarray(points, np.float32).reshape(-1, 3).tolist():
        if x <= 0:
            continue  # of this camera, which sits in the lidar
        u, v = round(CX - FOCAL * y / x) - 1, round(CY - FOCAL * z / x) - 1  # Python rounds halves to even
        if 0 <= u < width and 0 <= v < height:
            image[v, u] = x
            groups.setdefault(v * (width - 1) + u - 1, []).append((v, u, x))
    for group in groups.values():
        v, u, _ = group[0]
        image[v, u] = min(x for _, _, x in group)
    return image


def test_pixels_are_one_further_left_and_up_than_the_camera_sees_them(drive: KittiDrive) -> None:
    scan(drive, [at(6, 4, 10), at(1, 1, 7), at(12, 8, 6), at(13, 4, 5), at(0, 4, 5), at(6, 9, 5), at(6, 0, 5)])
    depth = eigen_depth(drive, 0)
    assert depth.dtype == np.float32 and depth.shape == SIZE
    assert {tuple(place): depth[tuple(place)] for place in np.argwhere(depth)} == {(3, 5): 10, (0, 0): 7, (7, 11): 6}


def test_the_nearest_of_a_pixel_is_kept_in_any_order(drive: KittiDrive) -> None:
    for depths in ([9, 5, 7], [5, 9, 7], [7, 9, 5]):
        scan(drive, [at(4, 4, depth) for depth in depths])
        assert eigen_depth(drive, 0)[3, 3] == 5


def test_the_last_pixel_of_a_row_and_the_first_of_the_next_are_taken_together(drive: KittiDrive) -> None:
    end, begin = at(12, 3, 20), at(1, 4, 6)  # pixels (2, 11) and (3, 0)
    scan(drive, [end, begin])
    depth = eigen_depth(drive, 0)
    assert depth[2, 11] == 6 and depth[3, 0] == 6, "the first point's pixel takes the least of both"
    scan(drive, [begin, end])
    depth = eigen_depth(drive, 0)
    assert depth[3, 0] == 6 and depth[2, 11] == 20
    scan(drive, [end, at(1, 4, 9), at(1, 4, 30)])
    depth = eigen_depth(drive, 0)
    assert depth[2, 11] == 9 and depth[3, 0] == 30, "the other pixel keeps its last point"


def test_halves_are_rounded_to_even(drive: KittiDrive) -> None:
    scan(drive, [at(4.5, 4, 8), at(7.5, 4, 16)])
    assert np.argwhere(eigen_depth(drive, 0)).tolist() == [[3, 3], [3, 7]]


def test_depth_is_ahead_of_the_lidar_and_points_behind_it_do_not_count(drive: KittiDrive) -> None:
    file = drive.folder.parent / "calib_velo_to_cam.txt"
    before = file.read_text()
    try:
        file.write_text(before.replace("T: 0 0 0", "T: 0 0 -0.25"))  # the camera is 0.25 m in front of the lidar
        moved = KittiDrive(drive.folder)
        scan(moved, [[10.25, 0, 0], [-1, 0.2, 0]])
        depth = eigen_depth(moved, 0)
        assert depth[3, 5] == np.float32(10.25) and np.count_nonzero(depth) == 1
        assert moved.lidar_depth(0)[0, 4, 6] == 10
        scan(moved, [[0.125, 0.0125, 0.0125], [0.25, 0, 0]])  # beside the camera, mirrored into the image; in its plane
        depth = eigen_depth(moved, 0)
        assert depth[4, 6] == 0.125 and np.count_nonzero(depth) == 1
    finally:
        file.write_text(before)


@given(st.integers(0, 2**32 - 1))
def test_any_scan_gives_what_point_by_point_gives(drive: KittiDrive, seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(0, 400))
    x = random.uniform(-5, 60, count)
    points = np.stack([x, *(random.uniform(-0.8, 0.8, (2, count)) * x)], 1)
    edge = random.random(count) < 0.5  # many on the two borders that share groups
    points[edge, 1] = (random.choice([-0.6, 0.5], count) * x)[edge]
    scan(drive, points)
    np.testing.assert_array_equal(eigen_depth(drive, 0), expected(points))


def test_what_is_missing_or_damaged_is_named(drive: KittiDrive) -> None:
    with pytest.raises(InputError, match=r"0000000007\.bin does not exist"):
        eigen_depth(drive, 7)
    scan(drive, [[1, np.nan, 0]])
    with pytest.raises(InputError, match="holds 1 points that are not finite"):
        eigen_depth(drive, 0)


@pytest.mark.real_data
@real
def test_annotated_depth_is_read_as_it_is() -> None:
    depth = annotated_depth(KittiDrive(DATA / DRIVE), 5)
    assert depth.shape == (375, 1242) and depth.dtype == np.float32 and np.count_nonzero(depth) == 90_839
    places = {(119, 1218): 2865, (147, 262): 8934, (229, 956): 4453, (369, 1196): 1478}
    assert {place: float(depth[place]) * 256 for place in places} == places


@pytest.mark.real_data
@real
def test_the_lidar_truth_is_nearer_to_annotated_depth_than_the_eigen_truth() -> None:
    drive = KittiDrive(DATA / DRIVE)
    truth = annotated_depth(drive, 5)
    found: dict[str, Any] = {}
    for name, depth in (("eigen", eigen_depth(drive, 5)), ("lidar", drive.lidar_depth(5)[0])):
        both = (truth > 0) & (depth > 0)
        errors = np.abs(truth - depth)[both]
        found[name] = (int(both.sum()), float(errors.mean()), float(np.median(errors)))
    print(found)
    assert found["eigen"] == (7372, pytest.approx(0.3798, abs=1e-3), pytest.approx(0.2561, abs=1e-3))
    assert found["lidar"] == (8439, pytest.approx(0.2111, abs=1e-3), pytest.approx(0.0713, abs=1e-3))


@pytest.mark.monodepth2
@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.skipif(
    not Path(CHECKOUT, "export_gt_depth.py").is_file(), reason="HYBRID_ENCODER_MONODEPTH2 names no Monodepth2 checkout"
)
@real
def test_every_pixel_is_that_of_its_own_export(tmp_path: Path) -> None:
    """The repository's ``export_gt_depth.py``, unmodified, on all frames; its archive is read by us, and ours by it."""
    checkout = Checkout(CHECKOUT, tmp_path / "checkout")
    archives = {}
    for split, frames in (("eigen", FRAMES), ("eigen_benchmark", [5])):
        lines = [f"{DRIVE} {frame} l" for frame in frames]
        (checkout.folder / "splits" / split).mkdir(exist_ok=True)
        (checkout.folder / "splits" / split / "test_files.txt").write_text("\n".join(lines))
        code = (
            "import os, sys; sys.path.insert(0, os.getcwd())\n"
            f"sys.path.append({os.path.join(PACKAGES, 'site')!r})\n"  # where what it imports may be
            "from hybrid_encoder.adapters.patching import legacy; legacy.apply_shims(os.getcwd())\n"
            "import export_gt_depth; export_gt_depth.export_gt_depths_kitti()"
        )
        checkout.run("-c", code, "--data_path", str(DATA), "--split", split)
        archives[split] = checkout.folder / "splits" / split / "gt_depths.npz"
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    checkout.assert_unmodified()
    num_compared = 0
    for split, truth in (("eigen", "eigen"), ("eigen_benchmark", "annotated")):
        samples = kitti_samples(DATA, tmp_path / f"{split}.txt", truth=truth)  # type: ignore[arg-type]
        theirs = read_depth_archive(archives[split])
        assert len(theirs) == len(samples)
        for sample, depth in zip(samples, theirs, strict=True):
            np.testing.assert_array_equal(sample.read_truth(), depth)
            num_compared += depth.size
    print(f"{num_compared} pixels are equal")

    maps = [*read_depth_archive(archives["eigen"]), np.ones((370, 1224), np.float32)]  # of two sizes, as in the split
    write_depth_archive(tmp_path / "ours.npz", maps)
    code = (
        "import sys, numpy as np\n"
        "maps = np.load(sys.argv[1], fix_imports=True, encoding='latin1', allow_pickle=True)['data']\n"
        "print(len(maps), maps[-1].shape, float(sum(depth.sum(dtype=np.float64) for depth in maps)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "ours.npz")], capture_output=True, text=True)
    total = float(sum(depth.sum(dtype=np.float64) for depth in maps))
    assert done.stdout.split() == [str(len(maps)), "(370,", "1224)", str(total)], done.stderr
