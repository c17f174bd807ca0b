"""``hybrid-encoder evaluate``: its numbers beside those worked out by hand, and how it refuses wrong input."""

from __future__ import annotations

import hashlib
import json
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
from hybrid_encoder.evaluation import DepthMetrics, ModelPredictor, depth_metrics, evaluate_kitti, frames_with_lidar
from hybrid_encoder.evaluation import evaluate as evaluate_samples
from hybrid_encoder.evaluation.frame_lists import Frame, drive_name, pack_frames
from hybrid_encoder.evaluation.ground_truth import kitti_samples
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
    return partial(run, "evaluate", "--protocol", "lidar", "--no-baselines")


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
    assert "2 images" in out
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
    assert "1 image " in out and re.findall(r"\d+\.\d{3}", out) == row(expected)
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
        ((root, "--protocol", "usual"), "'usual' is not one of"),
        ((root, "--scale-factor", 0), "--scale-factor is 0; give a number above 0"),
        ((root, "--scale-factor", "nan"), "--scale-factor is nan; give a finite number"),
        ((root, "--error-maps"), "--error-maps is given without --report"),
        ((root, "--json", tmp_path), f"{tmp_path} is a folder; give the path of a file"),
        ((root, "--json", tmp_path / "no" / "a.json"), "no is not a folder; make it first"),
        ((root, "--save-predictions", tmp_path / "no" / "a.npy"), "no is not a folder; make it first"),
        ((root, "--save-depths", tmp_path / "no" / "a.npz"), "no is not a folder; make it first"),
        ((root, "--report", tmp_path / "words.txt"), "words.txt is no folder; give another one for the report"),
        ((root, "--report", tmp_path), "holds"),
        ((root, "--predictions", tmp_path / "gone.npy"), "so no model runs; leave out --weights, --size and --flip"),
        ((root, "--depths", tmp_path / "gone.npz"), "gone.npz"),
        ((root, "--protocol", "eigen-improved"), "has no frame with annotated depth; unpack"),
    ]
    for arguments, says in cases:
        refused(says, "evaluate", *arguments, "--weights", tmp_path / "gone")
    refused("gone is neither a file or folder nor a Hub id", "evaluate", root, "--weights", tmp_path / "gone")


def numbers(file: Path) -> dict[str, float]:
    content = json.loads(file.read_text())
    return {name: content[name] for name in ("abs_rel", "sq_rel", "rmse", "rmse_log", "a1", "a2", "a3")}


def test_eigen_is_the_default_and_its_numbers_are_written_under_their_names(
    run: Run, root: Path, tmp_path: Path
) -> None:
    file, split = tmp_path / "numbers.json", tmp_path / "split.txt"
    split.write_text(f"{DRIVE} 0 l\n{DRIVE} 2 l\n")
    code, out, err = run("evaluate", root, "--json", file, "--split", split, "--flip", "--device", "cpu")
    assert code == 0, err
    predictor = ModelPredictor(HybridDepthModel.from_pretrained("tiny"), flip=True)
    expected = evaluate_samples(predictor, kitti_samples(root, split, truth="eigen"), "eigen")
    assert numbers(file) == pytest.approx(expected.mean.as_dict(), rel=1e-6)
    content = json.loads(file.read_text())
    assert content["count"] == 2 and content["scale"]["median"] == pytest.approx(expected.scale, rel=1e-6)
    settings = content["settings"]
    assert settings["protocol"]["name"] == "eigen" and settings["predictor"]["flip"] and settings["median_scaling"]
    assert settings["split"] == {"file": str(split), "sha256": hashlib.sha256(split.read_bytes()).hexdigest()}
    assert set(content["baselines"]) >= {"flat road"} and "flat road" in out
    assert row(expected.mean) == re.findall(r"\d+\.\d{3}", out)[:7]
    lidar = evaluate_samples(predictor, kitti_samples(root, split, truth="lidar"), "lidar")
    assert abs(lidar.mean.abs_rel / expected.mean.abs_rel - 1) > 1e-3


def test_predictions_and_truth_in_files_give_the_same_numbers(run: Run, root: Path, tmp_path: Path) -> None:
    """What is saved is read again here, and has Monodepth2's form: (N, h, w), and an archive with "data" in it."""
    saved, truth, first, second = (tmp_path / name for name in ("d.npy", "gt.npz", "1.json", "2.json"))
    split = tmp_path / "split.txt"
    split.write_text(f"{DRIVE} 0 l\n{DRIVE} 2 l\n")
    size = ("--size", "64x160", "--no-baselines")
    code, _, err = run("evaluate", root, *size, "--save-predictions", saved, "--save-depths", truth, "--json", first)
    assert code == 0, err
    assert np.load(saved).shape == (2, 64, 160) and np.load(truth, allow_pickle=True)["data"][0].shape == (96, 320)
    for options in ((), ("--depths", truth, "--split", split)):
        code, _, err = run("evaluate", root, "--predictions", saved, *options, "--json", second, "--no-baselines")
        assert code == 0, err
        assert numbers(second) == pytest.approx(numbers(first), rel=1e-5)
    content = json.loads(second.read_text())["settings"]
    assert content["predictor"]["size"] == [64, 160]
    assert content["predictions_sha256"] == hashlib.sha256(saved.read_bytes()).hexdigest()
    np.save(saved, 1 / np.load(saved))
    code, _, err = run("evaluate", root, "--predictions", saved, "--gives", "depth", "--json", second)
    assert code == 0, err
    assert numbers(second)["abs_rel"] == pytest.approx(numbers(first)["abs_rel"], rel=0.01)  # 1 / depth was resized
    np.save(saved, np.ones((3, 4, 5)))
    code, _, err = run("evaluate", root, "--predictions", saved)
    assert code == 2 and "holds 3 predictions, and 2 images are evaluated" in err


def test_a_factor_takes_the_place_of_median_scaling(run: Run, root: Path, tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    code, out, err = run("evaluate", root, "--scale-factor", 5.4, "--json", file, "--no-baselines")
    assert code == 0, err
    assert "no scaling, depth times 5.4" in out
    predictor = ModelPredictor(HybridDepthModel.from_pretrained("tiny"))
    expected = evaluate_samples(predictor, kitti_samples(root), "eigen", factor=5.4, median_scaling=False)
    assert numbers(file) == pytest.approx(expected.mean.as_dict(), rel=1e-6)


def test_a_report_is_written_and_a_changed_protocol_says_so(run: Run, root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    code, out, err = run("evaluate", root, "--report", folder, "--crop", "none", "--max-depth", 50)
    assert code == 0, err
    content = json.loads((folder / "report.json").read_text())
    assert content["protocol"] == "eigen (crop None) (max_truth 50.0, max_depth 50.0)" and content["num_images"] == 2
    assert (folder / "worst_best.png").is_file() and "eigen (crop None)" in " ".join(out.split())


def test_weights_that_were_trained_on_a_test_frame_are_refused(run: Run, root: Path, tmp_path: Path) -> None:
    model = HybridDepthModel.from_pretrained("tiny")
    seen = pack_frames([Frame(drive_name(DRIVE), 2, "l")])
    model.training_history = [{"stage": "fine", "drives": seen, "offsets": [-1, 1], "known": True}]
    model.save_pretrained(tmp_path / "seen")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelPredictor, "predict", None)  # it is refused before anything is predicted
        code, _, err = run("evaluate", root, "--weights", tmp_path / "seen")
    assert code == 2 and "--allow-leak" in err
    code, out, err = run("evaluate", root, "--weights", tmp_path / "seen", "--allow-leak", "--no-baselines")
    assert code == 0 and "abs_rel" in out, err
