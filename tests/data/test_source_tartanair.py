"""TartanAir in the layouts of both versions."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybrid_encoder import InputError
from hybrid_encoder.data.sequences import SourceSequences
from hybrid_encoder.data.sources.tartanair import TartanAirSource, is_tartanair, tartanair_sources
from hybrid_encoder.training.trained_on import training_record

HALF = 0.5**0.5
POSES: list[list[float]] = [  # tx ty tz qx qy qz qw: x ahead, y to the right, z down
    [0, 0, 0, 0, 0, 0, 1],
    [2, 0.5, -1, 0, 0, 0, 1],
    [2, 3, -1, 0, 0, HALF, HALF],  # a quarter turn about the axis that points down: to the right
]


def write_flight(folder: Path, sides: tuple[str, str], size: tuple[int, int], packed: bool) -> None:
    depth = np.full(size, 7.25, np.float32)
    depth[:10], depth[10, :2] = 1e4, (123.456, np.inf)
    for side, value in zip(sides, (0, 50), strict=True):
        (folder / f"image_{side}").mkdir(parents=True)
        for frame in range(3):
            pixels = np.full((*size, 3), value + frame, np.uint8)
            Image.fromarray(pixels).save(folder / f"image_{side}" / f"{frame:06d}_{side}.png")
    left = sides[0]
    (folder / f"depth_{left}").mkdir()
    if packed:  # cv2.imwrite writes four channels, which it calls blue, green, red, alpha
        stored = depth[..., None].view(np.uint8)[..., [2, 1, 0, 3]]
        Image.fromarray(stored).save(folder / f"depth_{left}" / f"000001_{left}_depth.png")
    else:
        np.save(folder / f"depth_{left}" / f"000001_{left}_depth.npy", depth)
    (folder / f"pose_{left}.txt").write_text("\n".join(" ".join(f"{x:.6e}" for x in pose) for pose in POSES))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_flight(tmp_path / "ocean" / "ocean" / "Easy" / "P001", ("left", "right"), (480, 640), False)
    write_flight(tmp_path / "Office" / "Data_hard" / "P000", ("lcam_front", "rcam_front"), (640, 640), True)
    return tmp_path


def test_flights_of_both_versions_are_read(root: Path) -> None:
    assert is_tartanair(root)
    second, first = tartanair_sources(root)
    assert first.name == str(root / "ocean" / "ocean" / "Easy" / "P001")
    for source, size in ((first, (480, 640)), (second, (640, 640))):
        assert source.size == size and list(source.frames) == [0, 1, 2] and source.baseline == 0.25
        expected = np.array([[320, 0, 320], [0, 320, size[0] / 2], [0, 0, 1]])
        assert np.array_equal(np.asarray(source.K), expected)
        np.testing.assert_allclose(source.image(1), np.full((3, *size), 1 / 255), atol=1e-7)
        file = source.file(1)
        assert file is not None and file.is_file() and file.name.startswith("000001_l")
        np.testing.assert_allclose(source.right(2), np.full((3, *size), 52 / 255), atol=1e-7)
        depth = source.depth(1)
        assert depth is not None and depth.shape == (1, *size) and depth.dtype == np.float32
        assert not depth[0, :10].any() and (depth[0, 11:] == 7.25).all(), "the sky has no depth"
        assert depth[0, 10, 0] == np.float32(123.456) and depth[0, 10, 1] == 0
        assert source.depth(0) is None
    assert first.camera != second.camera


def test_poses_have_the_axes_of_a_camera(root: Path) -> None:
    for source in tartanair_sources(root):
        first, ahead, turned = (np.asarray(source.world_T_cam(frame)) for frame in range(3))
        np.testing.assert_allclose(first, np.eye(4), atol=1e-9)
        np.testing.assert_allclose(ahead[:3, 3], [0.5, -1, 2], atol=1e-9)  # right, up, ahead
        np.testing.assert_allclose(ahead[:3, :3], np.eye(3), atol=1e-9)
        np.testing.assert_allclose(turned[:3], [[0, 0, 1, 3], [0, 1, 0, -1], [-1, 0, 0, 2]], atol=1e-6)


def test_items_say_what_they_are_of(root: Path) -> None:
    flight = pickle.loads(pickle.dumps(tartanair_sources(root, "easy")[0]))
    items = SourceSequences([flight], (240, 320), stereo=True)
    assert len(items) == 1 and items[0].baseline == 0.25
    np.testing.assert_allclose(items[0].images.mean((1, 2, 3)), np.array([1, 0, 2, 51]) / 255, atol=1e-6)
    np.testing.assert_allclose(items[0].K[:2], [[160, 0, 159.75], [0, 160, 119.75]])
    record = training_record("fine", items)
    assert record["known"] and record["drives"] == {"TartanAir_ocean_Easy_P001": {"": "1"}}


def test_any_of_its_folders_will_do_and_no_other(root: Path, tmp_path: Path) -> None:
    flight = root / "ocean" / "ocean" / "Easy" / "P001"
    for folder in (root / "ocean", root / "ocean" / "ocean" / "Easy", flight):
        assert [source.name for source in tartanair_sources(folder)] == [str(flight)]
    assert [source.name for source in tartanair_sources(root, "hard")] == [str(root / "Office" / "Data_hard" / "P000")]
    with pytest.raises(InputError, match=r"has no hard flight; it has 1 of the other difficulty"):
        tartanair_sources(root / "ocean", "hard")
    with pytest.raises(InputError, match=r"difficulty is 'medium'; TartanAir has 'easy' and 'hard'"):
        tartanair_sources(root, "medium")
    (tmp_path / "other" / "images").mkdir(parents=True)
    assert not is_tartanair(tmp_path / "other") and not is_tartanair(tmp_path / "none")
    with pytest.raises(InputError, match=r"other holds images, not flights such as <place>/Easy/P000 with image_left"):
        tartanair_sources(tmp_path / "other")
    with pytest.raises(InputError, match=r"images is empty, not image_left or image_lcam_front"):
        TartanAirSource(tmp_path / "other" / "images")


def test_files_that_are_wrong_are_named(root: Path) -> None:
    flight = root / "ocean" / "ocean" / "Easy" / "P001"
    poses = flight / "pose_left.txt"
    lines = poses.read_text().splitlines()
    poses.write_text(lines[0])
    with pytest.raises(InputError, match=r"pose_left\.txt has 1 poses, none of frame 1"):
        TartanAirSource(flight).world_T_cam(1)
    for text in ("0 0 0 1", "0 0 0 0 0 0 2", "0 0 x 0 0 0 1", f"{lines[0]}\n1 2", "nan 0 0 0 0 0 1"):
        poses.write_text(text)
        with pytest.raises(InputError, match=r"pose_left\.txt must have lines of 7 numbers"):
            TartanAirSource(flight).world_T_cam(0)
    poses.unlink()
    assert TartanAirSource(flight).world_T_cam(0) is None
    Image.new("RGB", (320, 240)).save(flight / "image_left" / "000000_left.png")
    with pytest.raises(InputError, match=r"000000_left\.png is 240 x 320, but the intrinsics are for 480 x 640"):
        TartanAirSource(flight).image(0)
    np.save(flight / "depth_left" / "000001_left_depth.npy", np.zeros((240, 320), np.float32))
    with pytest.raises(InputError, match=r"is \(240, 320\); depth of TartanAir is \(480, 640\)"):
        TartanAirSource(flight).depth(1)
    Image.new("RGB", (640, 640)).save(
        root / "Office" / "Data_hard" / "P000" / "depth_lcam_front" / "000001_lcam_front_depth.png"
    )
    with pytest.raises(InputError, match=r"cannot be read as depth \(its mode is RGB\)"):
        tartanair_sources(root / "Office")[0].depth(1)
    shutil.rmtree(flight / "image_right")
    assert TartanAirSource(flight).baseline is None
    for file in (flight / "image_left").iterdir():
        file.unlink()
    with pytest.raises(InputError, match=r"image_left has no 000000_left\.png"):
        TartanAirSource(flight)
