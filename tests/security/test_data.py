"""Data from strangers: what cannot be right is refused when it is read, and what is right is found."""

from __future__ import annotations

import codecs
import json
import math
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from hybrid_encoder import HybridDepthModel, InputError
from hybrid_encoder.data import KittiDrive, KittiSequences, OrderedDepth, OrderedPatches, TuSimpleLanes
from hybrid_encoder.evaluation import DepthMetrics, depth_metrics, evaluate_kitti, frames_with_lidar

from helpers.kitti_layout import write_drive

K = np.array([[40.0, 0, 30], [0, 40, 20], [0, 0, 1]])
POINTS = np.random.default_rng(0).uniform([-4, -3, 6], [4, 3, 40], (3000, 3))
OXTS = [49.0, 8.4, 112.0, 0.02, 0.01, -1.5, *[0.0] * 24]
CAMERAS, VELO, IMU = "calib_cam_to_cam.txt", "calib_velo_to_cam.txt", "calib_imu_to_velo.txt"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A drive of three frames, with lidar and poses."""
    images = [np.random.default_rng(i).random((3, 40, 60)) for i in range(3)]
    folder = write_drive(tmp_path, {2: images, 3: images}, K, dict.fromkeys(range(3), POINTS))
    (folder / "oxts" / "data").mkdir(parents=True)
    for frame in range(3):
        text = " ".join(map(str, [OXTS[0] + 1e-6 * frame, *OXTS[1:]]))
        (folder / "oxts" / "data" / f"{frame:010d}.txt").write_text(text)
    return folder


def read_all(folder: Path) -> None:
    """Read everything that a drive has."""
    drive = KittiDrive(folder)
    for values in (drive.K, drive.world_T_cam(1), drive.lidar_depth(1), drive.image(1)):
        assert np.isfinite(values).all()
    KittiSequences(folder, (32, 64))[0]


def replaced(file: Path, key: str, value: str) -> None:
    """Give an entry of a calibration file another value."""
    lines = [f"{key}: {value}" if line.startswith(f"{key}:") else line for line in file.read_text().splitlines()]
    file.write_text("\n".join(lines) + "\n")


MIRROR = "-1 0 0 0 1 0 0 0 1"
P = "40 0 30 0 0 40 20 0 0 0 1 0"
WRONG_CALIBRATION = [
    *[(CAMERAS, "P_rect_02", P.replace("40 0 30", f"{bad} 0 30", 1)) for bad in ("nan", "inf", "-40", "0", "1e30")],
    *[(CAMERAS, "P_rect_02", P.replace("40 20", f"{bad} 20", 1)) for bad in ("nan", "-inf", "-1", "0")],
    (CAMERAS, "P_rect_02", "40 0 nan 0 0 40 20 0 0 0 1 0"),
    (CAMERAS, "P_rect_02", "40 0 30 inf 0 40 20 0 0 0 1 0"),
    (CAMERAS, "P_rect_02", "40 0 30 0 0 40 20 0 0 0 0 0"),
    (CAMERAS, "P_rect_02", "40 0 30 0 5 40 20 0 0 0 1 0"),
    (CAMERAS, "P_rect_02", "40 0 30 0 0 40 20 0 0 0 1"),
    *[(CAMERAS, "S_rect_02", bad) for bad in ("nan 40", "60 inf", "0 40", "-60 40", "6.5 40", "1e9 1e9", "40 60", "6")],
    *[(CAMERAS, "R_rect_00", bad) for bad in ("nan 0 0 0 1 0 0 0 1", "2 0 0 0 2 0 0 0 2", "0 " * 9, MIRROR)],
    *[(file, "R", bad) for file in (VELO, IMU) for bad in ("1 0 0 0 1 0 0 0 inf", "1 " * 9, "1 0 0 0 1 0 0 0", MIRROR)],
    *[(file, "T", bad) for file in (VELO, IMU) for bad in ("0 nan 0", "0 0", "0 0 -inf", "a b c")],
]  # fmt: skip


def test_a_whole_drive_is_read(folder: Path) -> None:
    read_all(folder)


@pytest.mark.parametrize(("file", "key", "value"), WRONG_CALIBRATION)
def test_wrong_calibration_is_refused(folder: Path, file: str, key: str, value: str) -> None:
    replaced(folder.parent / file, key, value)
    with pytest.raises(InputError, match=file) as refusal:
        read_all(folder)
    assert key in str(refusal.value) or value == "40 60"  # the last one is told by the images
    assert "\n" not in str(refusal.value)


def test_calibration_is_looked_at_before_training(folder: Path) -> None:
    replaced(folder.parent / CAMERAS, "P_rect_03", P.replace("40", "nan"))
    with pytest.raises(InputError, match="'P_rect_03' is nan"):
        KittiSequences(folder, (32, 64))
    with pytest.raises(InputError, match="'P_rect_03' is nan"):
        frames_with_lidar(folder, camera=3)


@pytest.mark.parametrize("name", [CAMERAS, VELO, IMU])
@pytest.mark.parametrize(
    ("change", "right"),
    [
        (lambda text: codecs.BOM_UTF8 + text, True),
        (lambda text: text.replace(b"\n", b"\r\n"), True),
        (lambda text: codecs.BOM_UTF16_LE + text.decode().encode("utf-16-le"), False),
        (lambda text: b"note: \xe9\xff\n" + text, False),
        (lambda text: text[: len(text) // 3], False),
        (lambda text: b"", False),
        (lambda text: bytes(1000), False),
    ],
)
def test_encodings(folder: Path, name: str, change: Callable[[bytes], bytes], right: bool) -> None:
    file = folder.parent / name
    file.write_bytes(change(file.read_bytes()))
    if right:
        read_all(folder)
    else:
        with pytest.raises(InputError, match=name):
            read_all(folder)


@pytest.mark.parametrize(
    "values",
    [
        [math.nan, *OXTS[1:]],
        [math.inf, *OXTS[1:]],
        [90.0, *OXTS[1:]],
        [49.0, 1e9, *OXTS[2:]],
        [*OXTS[:2], math.nan, *OXTS[3:]],
        [*OXTS[:5], math.inf, *OXTS[6:]],
        [*OXTS[:5], 90.0, *OXTS[6:]],  # in degrees
        OXTS[:29],
        [],
        ["x", *OXTS[1:]],
        [b"\xff\xfe".decode("latin-1"), *OXTS[1:]],
    ],
)
def test_wrong_poses_are_refused(folder: Path, values: list[Any]) -> None:
    (folder / "oxts" / "data" / "0000000001.txt").write_bytes(" ".join(map(str, values)).encode("latin-1"))
    with pytest.raises(InputError, match=r"0000000001\.txt"):
        KittiDrive(folder).world_T_cam(1)


def test_no_poses_at_all(folder: Path) -> None:
    for file in (folder / "oxts" / "data").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="poses need the drive's oxts files"):
        KittiDrive(folder).world_T_cam(1)


@pytest.mark.parametrize("cut", [1, 4, 8, 15])
def test_a_scan_that_is_cut_off_is_refused(folder: Path, cut: int) -> None:
    file = folder / "velodyne_points" / "data" / "0000000001.bin"
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(InputError, match="not a multiple of 4"):
        KittiDrive(folder).lidar_depth(1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_points_that_are_not_finite_are_refused(folder: Path, value: float, axis: int) -> None:
    file = folder / "velodyne_points" / "data" / "0000000001.bin"
    points = np.fromfile(file, np.float32).reshape(-1, 4)
    points[5:8, axis] = value
    points.tofile(file)
    with pytest.raises(InputError, match="holds 3 points that are not finite"):
        KittiDrive(folder).lidar_depth(1)


@pytest.mark.filterwarnings("error")
def test_points_far_away_or_at_the_camera_fall_beside_the_image(folder: Path) -> None:
    file = folder / "velodyne_points" / "data" / "0000000001.bin"
    before = KittiDrive(folder).lidar_depth(1)
    strange = np.array([[1e-40, 3e38, 3e38, 0], [1e-7, 1, 1, 0], [3e38, 3e38, -3e38, 0]], np.float32)
    with file.open("ab") as end:
        end.write(strange.tobytes())
    assert np.array_equal(KittiDrive(folder).lidar_depth(1), before) and (before > 0).sum() > 500


def _change_bytes(folder: Path, count: int) -> None:
    """Change a byte of a file of the drive, or cut it: everything is read, or one sentence names a file."""
    draw = random.Random(0)
    files = [folder.parent / name for name in (CAMERAS, VELO, IMU)]
    files += [folder / "oxts/data/0000000001.txt", folder / "velodyne_points/data/0000000001.bin"]
    for _ in range(count):
        file = draw.choice(files)
        content = file.read_bytes()
        place = draw.randrange(len(content))
        changed = content[:place] + bytes([draw.randrange(256)]) + content[place + 1 :]
        file.write_bytes(changed if draw.random() < 0.8 else content[:place])
        try:
            drive = KittiDrive(folder)
            right = all(np.isfinite(x).all() for x in (drive.K, drive.world_T_cam(1), drive.lidar_depth(1)))
        except InputError as error:
            right = "\n" not in str(error)
        assert right, (file, place)
        file.write_bytes(content)


@pytest.mark.filterwarnings("error")
def test_changed_bytes_never_give_more_than_a_sentence(folder: Path) -> None:
    _change_bytes(folder, 200)


@pytest.mark.campaign
@pytest.mark.filterwarnings("error")
def test_many_changed_bytes_never_give_more_than_a_sentence(folder: Path) -> None:
    _change_bytes(folder, 5000)


def test_frames_are_found_whatever_their_digits_and_ending(folder: Path) -> None:
    expected = [KittiDrive(folder).image(frame) for frame in range(3)]
    depth = KittiDrive(folder).lidar_depth(2)
    images = folder / "image_02" / "data"
    (images / "0000000000.png").rename(images / "00000.PNG")
    (images / "0000000001.png").rename(images / "1.jpeg")  # what it is, is seen from its content
    (images / "0000000002.png").rename(images / "0000000002.JPG")
    for name in ("velodyne_points", "oxts"):
        for file in (folder / name / "data").iterdir():
            file.rename(file.with_name(f"{int(file.stem):05d}{file.suffix}"))
    drive = KittiDrive(folder)
    assert drive.frames == [0, 1, 2]
    for frame in range(3):
        assert np.array_equal(drive.image(frame), expected[frame])
    assert np.array_equal(drive.lidar_depth(2), depth) and np.isfinite(drive.world_T_cam(2)).all()
    assert len(frames_with_lidar(folder)) == 3 and len(KittiSequences(folder, (32, 64), cameras=[2])) == 1


def test_what_is_no_data_is_left_out(folder: Path) -> None:
    expected = KittiDrive(folder).world_T_cam(1), KittiDrive(folder).lidar_depth(1)
    for name, ending in (("image_02", "png"), ("oxts", "txt"), ("velodyne_points", "bin")):
        data = folder / name / "data"
        (data / f"._0000000000.{ending}").write_bytes(b"\0\5\26\7Mac OS X")
        (data / f"0000000007.{ending}").mkdir()
        (data / f"0000000008.{ending}").symlink_to(data / "nothing")
        (data / f"copy of 1.{ending}").write_bytes(b"")
        os.mkfifo(data / f"0000000009.{ending}")
    drive = KittiDrive(folder)
    assert drive.frames == [0, 1, 2] and len(frames_with_lidar(folder)) == 3
    assert np.array_equal(drive.world_T_cam(1), expected[0]) and np.array_equal(drive.lidar_depth(1), expected[1])
    for read in (drive.image, drive.world_T_cam, drive.lidar_depth):
        with pytest.raises(InputError, match="does not exist"):
            read(7)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "~nosuchuser/drive", "a\0b"])
def test_names_that_cannot_be_are_refused(tmp_path: Path, name: str) -> None:
    path = Path(name) if name.startswith("~") else tmp_path / name
    readers: tuple[Callable[[Path], Any], ...] = (KittiDrive, KittiSequences, TuSimpleLanes, frames_with_lidar)
    for read in readers:
        with pytest.raises(InputError):
            read(path)
    with pytest.raises(InputError):
        KittiSequences(tmp_path, split=path)


# -- lanes -------------------------------------------------------------------------------------------------

ROWS = list(range(10, 80, 5))  # of images of 90 x 160


def lanes(folder: Path, columns: list[float], rows: list[float] | None = None) -> TuSimpleLanes:
    """One image with one lane."""
    Image.new("RGB", (160, 90)).save(folder / "1.png")
    label = {"raw_file": "1.png", "lanes": [columns], "h_samples": ROWS if rows is None else rows}
    (folder / "label_data_1.json").write_text(json.dumps(label))
    return TuSimpleLanes(folder, (90, 160), points=3)


@pytest.mark.parametrize("outside", [-2.0, -0.5, -1e9, 160.0, 159.5, 1e9, math.inf, math.nan])
def test_a_lane_ends_where_the_image_ends_on_all_sides(tmp_path: Path, outside: float) -> None:
    inside = [20.0 + i for i in range(11)]
    item = lanes(tmp_path, [*inside, outside, outside, outside])[0]
    assert item.points.tolist() == [[[30, 60], [25, 35], [20, 10]]]


def test_rows_below_and_above_the_image_are_absent_too(tmp_path: Path) -> None:
    rows = [-5.0, 0.0, 40.0, 80.0, 89.0, 90.0, math.inf]
    assert lanes(tmp_path, [50.0] * 7, rows)[0].points[0, :, 1].tolist() == [89, 80, 0]


def test_labels_of_a_larger_image_are_still_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is 90 x 160, but its labels reach x = 620, y = 700"):
        lanes(tmp_path, [620.0 - i for i in range(14)], [float(r) * 10 for r in range(57, 71)])[0]


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"raw_file": "1.png", "h_samples": [1, 2], "lanes": [[1' + "0" * 400 + ", 2]]}",
        '{"raw_file": "' + "x" * 5000 + '", "h_samples": [], "lanes": []}',
        '{"raw_file": "a\\u0000b", "h_samples": [], "lanes": []}',
        '{"raw_file": ".", "h_samples": [], "lanes": []}',
        '{"raw_file": "pipe", "h_samples": [], "lanes": []}',
        '{"raw_file": "/dev/zero", "h_samples": [], "lanes": []}',
        '{"raw_file": "1.png", "h_samples": [NaN, 1], "lanes": []}',
        '{"raw_file": {}, "h_samples": [], "lanes": []}',
        '{"raw_file": "1.png", "h_samples": "12", "lanes": {}}',
        "null",
    ],
)
def test_strange_labels_are_named_with_their_line(tmp_path: Path, line: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    Image.new("RGB", (160, 90)).save(tmp_path / "1.png")
    (tmp_path / "label_data_1.json").write_text(f"\n{line}\n")
    with pytest.raises(InputError, match=r"label_data_1\.json, line 2: ") as refusal:
        TuSimpleLanes(tmp_path)
    assert len(str(refusal.value)) < 1200 and "\n" not in str(refusal.value)


# -- data that can teach nothing -----------------------------------------------------------------------------


class Items(Dataset[OrderedPatches]):
    """Items of which these have points; it remembers which were read."""

    def __init__(self, count: int, *having: int) -> None:
        self.count, self.having, self.read = count, having, list[int]()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> OrderedPatches:
        self.read.append(index)
        torch.rand(())
        return OrderedPatches(torch.zeros(3, 32, 32), torch.zeros(int(index in self.having), 7, 2), f"image {index}")


def test_one_item_with_points_is_enough() -> None:
    from hybrid_encoder.data.ordered import check_teaches

    for count, having in ((1, 0), (5, 4), (1000, 999), (1000, 501)):
        items, state = Items(count, having), torch.get_rng_state()
        check_teaches(items)
        assert having in items.read and len(items.read) == len(set(items.read)) <= count
        assert torch.equal(torch.get_rng_state(), state)
    items = Items(1000, *range(1000))
    check_teaches(items)
    assert items.read == [0]


def test_data_without_any_group_are_refused(tmp_path: Path) -> None:
    from hybrid_encoder.data.ordered import check_teaches

    items = Items(100)
    with pytest.raises(InputError, match="none of 100 images, such as image 0, has points"):
        check_teaches(items)
    assert sorted(items.read) == list(range(100))
    with pytest.raises(InputError, match="there are no images"):
        check_teaches(Items(0))
    images = [lambda: torch.zeros(3, 40, 40)] * 4
    for depth in (0.0, math.nan, math.inf, -1.0, 7.0):  # 7 everywhere: nothing is nearer than anything
        with pytest.raises(InputError, match="none of 4 images"):
            check_teaches(OrderedDepth(images, [partial(torch.full, (40, 40), depth)] * 4))
    for column in (-2.0, math.nan, 1e9):
        with pytest.raises(InputError):
            check_teaches(lanes(tmp_path, [column] * 14))


# -- evaluation ----------------------------------------------------------------------------------------------


def test_clamped_predictions_are_counted() -> None:
    target = torch.tensor([[10.0, 20.0, 30.0, 40.0, 0.0]])
    found = depth_metrics(torch.tensor([[-5.0, 0.0, 30.0, 1000.0, -1.0]]), target)
    assert (found.num_valid, found.num_below, found.num_above) == (4, 2, 1)
    assert list(found.as_dict()) == ["abs_rel", "sq_rel", "rmse", "rmse_log", "a1", "a2", "a3"]
    both = DepthMetrics.mean([found, depth_metrics(target[:, :4], target[:, :4])])
    assert (both.num_valid, both.num_below, both.num_above) == (8, 2, 1)
    assert both.abs_rel == pytest.approx(found.abs_rel / 2)


class Scaled(torch.nn.Module):
    """A model with other depths."""

    def __init__(self, model: HybridDepthModel, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.config, self.infer = model.config, model.infer
        self.to_depth = lambda disparity: change(model.to_depth(disparity))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda depth: depth * 1e-9,
            "all of [0-9]+ predictions are outside of the range of depth, [0-9]+ below and 0 above",
        ),
        (lambda depth: -depth, "are no depth, such as -[0-9.]+; all must be finite and above 0"),
        (lambda depth: depth * 1e6, "outside of the range of depth, 0 below"),
        (lambda depth: depth * math.nan, "are no depth, such as nan; all must be finite"),
    ],
)
def test_predictions_that_are_no_depth_are_no_result(
    folder: Path, tiny_model: HybridDepthModel, change: Callable[[torch.Tensor], torch.Tensor], says: str
) -> None:
    model: Any = Scaled(tiny_model, change)
    with pytest.raises(InputError, match=says):
        evaluate_kitti(model, frames_with_lidar(folder), median_scaling=False, crop=None)


def test_evaluate_says_how_many_predictions_were_clamped(
    run: Callable[..., tuple[int, str, str]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_depth = HybridDepthModel.to_depth
    arguments = ("evaluate", folder, "--size", "32x64", "--crop", "none", "--device", "cpu", "--max-depth", "50")
    assert "clamped" not in run(*arguments)[1]

    def change(self: HybridDepthModel, disparity: torch.Tensor) -> torch.Tensor:
        depth = to_depth(self, disparity)
        depth[..., : depth.shape[-1] // 4] = 1e-9
        return depth

    monkeypatch.setattr(HybridDepthModel, "to_depth", change)
    code, out, _ = run(*arguments)
    assert code == 0 and "predictions were clamped to the range of depth: " in " ".join(out.split())
