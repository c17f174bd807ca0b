"""``hybrid-encoder evaluate``: its numbers beside those worked out by hand, and how it refuses wrong input."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid_encoder import HybridDepthModel, InputError
from hybrid_encoder.config import HybridDepthConfig
from hybrid_encoder.data import SyntheticDrive, SyntheticFrame
from hybrid_encoder.evaluation import DepthMetrics, depth_metrics
from hybrid_encoder.evaluation import evaluate_kitti, frames_with_lidar
from hybrid_encoder.models.prediction import DepthPrediction

from helpers.kitti_layout import BASELINE, write_drive

Run = Callable[..., tuple[int, str, str]]
DRIVE = "2011_01_01/2011_01_01_drive_0001_sync"
SIZE = (64, 160)


@pytest.fixture(scope="module")
def frames() -> list[SyntheticFrame]:
    return list(SyntheticDrive(3, num_frames=3))


@pytest.fixture(scope="module")
def truth(frames: list[SyntheticFrame]) -> list[np.ndarray[Any, Any]]:
    """Depth that a lidar sees, (H, W): every 5th pixel of every 3rd row of the lower two thirds, 0 elsewhere."""
    hit = np.zeros(frames[0].depth[0].shape, bool)
    hit[32::3, ::5] = True
    return [np.where(hit & frame.valid[0], frame.depth[0], 0) for frame in frames]


@pytest.fixture(scope="module")
def root(
    frames: list[SyntheticFrame], truth: list[np.ndarray[Any, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Three left and two right images; no lidar of frame 1."""
    root = tmp_path_factory.mktemp("kitti")
    points = {}
    for number in (0, 2):
        v, u = np.nonzero(truth[number])
        rays = np.linalg.inv(frames[0].K.astype(float)) @ np.stack([u, v, np.ones_like(u)])
        points[number] = (rays * truth[number][v, u]).T
    images = [frame.image for frame in frames]
    write_drive(root, {2: images, 3: images[:2]}, frames[0].K, points)
    return root


@pytest.fixture
def evaluate(run: Run) -> Run:
    return partial(run, "evaluate")


def by_hand(
    model: HybridDepthModel, root: Path, truth: list[np.ndarray[Any, Any]], numbers: tuple[int, ...], **options: Any
) -> DepthMetrics:
    size = options.pop("size", SIZE)
    found = []
    for number in numbers:
        with Image.open(root / DRIVE / "image_02" / "data" / f"{number:010d}.png") as file:
            image = torch.from_numpy(np.asarray(file, np.float32) / 255).permute(2, 0, 1)
        prediction = model.infer(image, size)
        depth = prediction.depth_m if prediction.relative_depth is None else prediction.relative_depth
        assert depth is not None
        found.append(depth_metrics(depth[0], torch.from_numpy(truth[number]), **options))
    return DepthMetrics.mean(found)


def row(metrics: DepthMetrics) -> list[str]:
    return [f"{value:.3f}" for value in metrics.as_dict().values()]


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), {"median_scaling": True, "crop": "garg", "size": (96, 320)}),  # what "tiny" was fitted at
        (
            ("--size", "64x160", "--crop", "none", "--max-depth", 20, "--no-median-scaling"),
            {"median_scaling": False, "max_depth": 20.0},
        ),
    ],
)
def test_the_table_holds_the_metrics_of_every_frame_with_lidar(
    evaluate: Run, root: Path, truth: list[np.ndarray[Any, Any]], arguments: tuple[object, ...], options: dict[str, Any]
) -> None:
    code, out, err = evaluate(root, *arguments, "--device", "cpu")
    assert code == 0, err
    expected = by_hand(HybridDepthModel.from_pretrained("tiny"), root, truth, (0, 2), **options)
    assert re.findall(r"\d+\.\d{3}", out) == row(expected)
    assert [name for name in re.findall(r"\w+", out) if name in expected.as_dict()] == list(expected.as_dict())
    assert "2 frames" in out
    scaling = "median scaling" if options["median_scaling"] else "no scaling"
    assert f"{scaling}, crop {options.get('crop', 'none')}, up to {options.get('max_depth', 80):g} m" in out


def test_the_numbers_are_those_of_depth_metrics_to_the_last_digits(
    root: Path, truth: list[np.ndarray[Any, Any]], tiny_model: HybridDepthModel
) -> None:
    found = evaluate_kitti(tiny_model, frames_with_lidar(root), median_scaling=True, size=SIZE, crop="eigen")
    expected = by_hand(tiny_model, root, truth, (0, 2), median_scaling=True, crop="eigen")
    assert list(found.as_dict().values()) == pytest.approx(list(expected.as_dict().values()), rel=1e-6)
    own = evaluate_kitti(tiny_model, frames_with_lidar(root), median_scaling=True)  # fitted at no size
    expected = by_hand(tiny_model, root, truth, (0, 2), median_scaling=True, crop="garg", size=None)
    assert list(own.as_dict().values()) == pytest.approx(list(expected.as_dict().values()), rel=1e-6)


def test_predict_and_evaluate_work_at_one_size(
    run: Run, evaluate: Run, root: Path, tmp_path: Path, truth: list[np.ndarray[Any, Any]]
) -> None:
    """With weights that were fitted at another size than that of the images, as most are."""
    model = HybridDepthModel.from_pretrained("tiny")
    model.config = model.config.replace(size=(64, 192))
    model.save_pretrained(tmp_path / "weights")
    for size in ((), ("--size", "native"), ("--size", "80x200")):
        output = tmp_path / f"out{len(size)}{size[-1:]}"
        images = [root / DRIVE / "image_02" / "data" / f"{number:010d}.png" for number in (0, 2)]
        code, _, err = run("predict", *images, "--weights", tmp_path / "weights", "--output", output, *size)
        assert code == 0, err
        found = []
        for number in (0, 2):
            (file,) = output.rglob(f"{number:010d}*.npy")
            depth = torch.from_numpy(np.load(file)).reshape(96, 320)
            found.append(depth_metrics(depth, torch.from_numpy(truth[number]), median_scaling=True, crop="garg"))
        code, out, err = evaluate(root, "--weights", tmp_path / "weights", *size)
        assert code == 0, err
        assert re.findall(r"\d+\.\d{3}", out) == row(DepthMetrics.mean(found)), size


def test_a_metric_model_is_not_scaled_unless_asked(
    evaluate: Run, root: Path, tmp_path: Path, truth: list[np.ndarray[Any, Any]]
) -> None:
    model = HybridDepthModel.from_pretrained("tiny")
    model.config = model.config.replace(metric=True)
    model.save_pretrained(tmp_path / "metric")
    for arguments, scaling in (((), False), (("--median-scaling",), True)):
        code, out, err = evaluate(root, "--weights", tmp_path / "metric", "--size", "64x160", *arguments)
        assert code == 0, err
        expected = by_hand(model, root, truth, (0, 2), median_scaling=scaling, crop="garg")
        assert re.findall(r"\d+\.\d{3}", out) == row(expected)


def test_a_split_and_a_camera_pick_the_frames(
    evaluate: Run, root: Path, tmp_path: Path, truth: list[np.ndarray[Any, Any]]
) -> None:
    split = tmp_path / "split.txt"
    split.write_text(f"{DRIVE} 0000000002 l\n")
    code, out, err = evaluate(root, "--size", "64x160", "--split", split, "--crop", "eigen")
    assert code == 0, err
    expected = by_hand(HybridDepthModel.from_pretrained("tiny"), root, truth, (2,), median_scaling=True, crop="eigen")
    assert "1 frame " in out and re.findall(r"\d+\.\d{3}", out) == row(expected)
    split.write_text(f"{DRIVE} 2 l\n{DRIVE} 0 r\n{DRIVE} 0 l\n")
    assert [(d.camera, f) for d, f in frames_with_lidar(root, split)] == [(2, 2), (3, 0), (2, 0)]
    assert [(d.camera, f) for d, f in frames_with_lidar(root, camera=3)] == [(3, 0)]
    assert [(d.camera, f) for d, f in frames_with_lidar(root / DRIVE)] == [(2, 0), (2, 2)]


class Oracle:
    """Predicts the true disparity of camera 2, at the size of the image that it is given."""

    def __init__(self, frame: SyntheticFrame) -> None:
        self.config = HybridDepthConfig()
        low, high = 1 / self.config.max_depth, 1 / self.config.min_depth
        self.disparity = torch.from_numpy((1 / frame.depth[None] - low) / (high - low))

    def infer(self, images: torch.Tensor, size: tuple[int, int] | None = None) -> DepthPrediction:
        assert size is None  # the model decides
        disparity = torch.nn.functional.interpolate(self.disparity, images.shape[-2:], mode="area")
        return DepthPrediction(disparity, self.to_depth(disparity), None)

    to_depth: Any = HybridDepthModel.to_depth


@pytest.mark.parametrize("step", [1, 2])
def test_true_depth_has_no_error_also_where_images_are_smaller(
    frames: list[SyntheticFrame], root: Path, tmp_path: Path, step: int
) -> None:
    points = np.fromfile(root / DRIVE / "velodyne_points" / "data" / "0000000000.bin", np.float32).reshape(-1, 4)
    xyz = np.stack([-points[:, 1], -points[:, 2], points[:, 0]], -1)
    folder = write_drive(tmp_path, {2: [frames[0].image]}, frames[0].K, {0: xyz})
    path = folder / "image_02" / "data" / "0000000000.png"
    with Image.open(path) as image:
        image.resize((320 // step, 96 // step)).save(path)
    oracle: Any = Oracle(frames[0])
    found = evaluate_kitti(oracle, frames_with_lidar(tmp_path), median_scaling=False)
    print(found)
    if step == 1:
        assert found.rmse < 1e-3 and found.a1 == 1
    else:
        assert found.abs_rel < 0.03 and found.a1 > 0.97


def test_a_frame_whose_lidar_misses_the_crop_is_named(
    frames: list[SyntheticFrame], tmp_path: Path, tiny_model: HybridDepthModel
) -> None:
    far = np.array([[BASELINE, 0, 200.0]])
    write_drive(tmp_path, {2: [frames[0].image]}, frames[0].K, {0: far})
    with pytest.raises(InputError, match=rf"{DRIVE} 0 l: 0 pixels count: truth above .* leave the image"):
        evaluate_kitti(tiny_model, frames_with_lidar(tmp_path), median_scaling=True, size=SIZE)


def test_wrong_input_is_refused_before_the_model_is_loaded(
    refused: Callable[..., None], root: Path, tmp_path: Path
) -> None:
    split, empty, blind = tmp_path / "split.txt", tmp_path / "empty", tmp_path / "blind"
    split.write_text(f"{DRIVE} 0 l\n{DRIVE} 1 l\n")
    (tmp_path / "words.txt").write_text("words\n")
    empty.mkdir()
    folder = write_drive(blind, {2: [np.zeros((3, 40, 40))]}, np.eye(3))
    broken = write_drive(tmp_path / "broken", {2: [np.zeros((3, 40, 40))]}, np.eye(3), {0: np.ones((1, 3))})
    (broken.parent / "calib_velo_to_cam.txt").unlink()
    cases = [
        ((root, "--size", "224"), "--size is '224'; give HEIGHTxWIDTH"),
        ((root, "--device", "nonsense"), "--device is 'nonsense'"),
        ((root, "--camera", 4), "camera is 4; KITTI's colour cameras are 2 (left) and 3 (right)"),
        ((root, "--camera", 2, "--split", split), "camera is 2, and a split is given, whose lines name a camera each"),
        ((root, "--split", split), f"split.txt, line 2: {root / DRIVE}/velodyne_points/data/0000000001.bin does not"),
        ((root, "--split", tmp_path / "words.txt"), "words.txt, line 1: 'words' is not a frame; write <date>/<drive>"),
        ((root, "--split", tmp_path / "gone.txt"), "gone.txt does not exist; give a text file"),
        ((empty,), "holds no drive, <date>/<date>_drive_<number>_sync; give the folder of KITTI's dates"),
        ((folder,), "has no frame with both an image and velodyne points; complete a drive"),
        ((tmp_path / "broken",), "calib_velo_to_cam.txt does not exist"),
        ((root, "--crop", "wide"), "'wide' is not one of"),
        ((root, "--max-depth", 0), "--max-depth"),
        ((), "Missing argument"),
    ]
    for arguments, says in cases:
        refused(says, "evaluate", *arguments, "--weights", tmp_path / "gone")
    refused("gone is neither a file or folder nor a Hub id", "evaluate", root, "--weights", tmp_path / "gone")
