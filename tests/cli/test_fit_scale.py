"""``hybrid-encoder fit-scale``: weights in metres, which ``evaluate`` then takes as they are; and refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.data import SyntheticDrive, SyntheticFrame
from hybrid_encoder.evaluation import evaluate_kitti, fit_kitti_scale, frames_with_lidar, kitti_frames

from helpers.kitti_layout import write_drive

Run = Callable[..., tuple[int, str, str]]
FIT, TEST = (f"2011_01_01/2011_01_01_drive_{number:04d}_sync" for number in (1, 2))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drives of 2 frames each, all of them with lidar; no image of camera 3 but one."""
    root = tmp_path_factory.mktemp("kitti")
    for number in (1, 2):
        frames: list[SyntheticFrame] = list(SyntheticDrive(number + 2, num_frames=2))
        points = {}
        for index, frame in enumerate(frames):
            v, u = np.nonzero(frame.valid[0] & (np.arange(96)[:, None] % 3 == 0) & (np.arange(320) % 5 == 0))
            rays = np.linalg.inv(frame.K.astype(float)) @ np.stack([u, v, np.ones_like(u)])
            points[index] = (rays * frame.depth[0][v, u]).T
        images = [frame.image for frame in frames]
        where = root if number == 1 else root / "second"
        folder = write_drive(where, {2: images, 3: images[:1]}, frames[0].K, points, number)
        if number == 2:  # write_drive makes a date for one drive
            folder.rename(root / TEST)
    return root


@pytest.fixture(scope="module")
def splits(root: Path) -> tuple[Path, Path]:
    fit, test = root / "fit.txt", root / "test.txt"
    fit.write_text(f"{FIT} 0 l\n{FIT} 1 l\n")
    test.write_text(f"{TEST} 0 l\n{TEST} 1 l\n")
    return fit, test


def numbers(out: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d{3}", out)]


def test_weights_in_metres_are_evaluated_without_scaling_on_another_drive(
    run: Run, root: Path, splits: tuple[Path, Path], tmp_path: Path
) -> None:
    fit, test = splits
    model = HybridDepthModel.from_pretrained("tiny")
    model.config = model.config.replace(min_depth=0.01, max_depth=10.0)  # in another unit, which is no metre
    model.save_pretrained(tmp_path / "unit")
    given = ("--weights", tmp_path / "unit", "--split", fit, "--output", tmp_path / "metres", "--device", "cpu")
    code, out, err = run("fit-scale", root, *given)
    assert code == 0, err
    expected = fit_kitti_scale(model, frames_with_lidar(root, fit))
    assert expected.spread is not None
    assert f"factor {expected.factor:.4g}, spread {expected.spread:.1%}, 2 frames" in out
    assert "evaluate them on other drives than those" in " ".join(out.split())

    metres = HybridDepthModel.from_pretrained(tmp_path / "metres")
    assert metres.config.metric
    assert metres.config.min_depth == pytest.approx(0.01 * expected.factor)
    assert metres.config.max_depth == pytest.approx(10 * expected.factor)
    card = (tmp_path / "metres" / "README.md").read_text()
    assert "| scale of depth | metres |" in card
    assert f"depth multiplied by {expected.factor:.6g} to be in metres: fitted to lidar on 2 frames" in card

    code, out, err = run("evaluate", root, "--weights", tmp_path / "metres", "--split", test)
    assert code == 0 and "no scaling" in out, err
    frames = frames_with_lidar(root, test)
    by_medians = evaluate_kitti(model, frames, median_scaling=True)
    assert numbers(out)[3] == pytest.approx(by_medians.rmse_log, abs=0.05)
    # The same frames without the factor, or with twice the factor, are far off.
    assert evaluate_kitti(model, frames, median_scaling=False).rmse_log > 2 * by_medians.rmse_log
    metres.set_metric_scale(2)
    assert evaluate_kitti(metres, frames, median_scaling=False).rmse_log > 2 * by_medians.rmse_log


def test_a_factor_is_fitted_once(run: Run, root: Path, splits: tuple[Path, Path], tmp_path: Path) -> None:
    for weights, output in (("tiny", "once"), (tmp_path / "once", "twice")):
        arguments = ("--split", splits[0], "--output", tmp_path / output, "--weights", weights, "--size", "64x192")
        code, out, err = run("fit-scale", root, *arguments)
        assert code == 0, err
    assert "factor 1, spread" in out
    first, second = (json.loads((tmp_path / name / "config.json").read_text())["config"] for name in ("once", "twice"))
    assert second["min_depth"] == pytest.approx(first["min_depth"], rel=1e-4)


@pytest.mark.parametrize("source", ["camera-height", "stereo"])
def test_other_sources_are_those_of_the_library(run: Run, root: Path, tmp_path: Path, source: str) -> None:
    height = ("--camera-height", 1.4) if source == "camera-height" else ()
    code, out, err = run("fit-scale", root / FIT, "--output", tmp_path / "metres", "--from", source, *height)
    frames = kitti_frames(root / FIT, needs="stereo" if source == "stereo" else "image")
    assert [frame for _, frame in frames] == ([0] if source == "stereo" else [0, 1])
    if source == "stereo":  # the right images are the left ones: without parallax there is no scale
        assert code == 2 and "none of 1 images gives a scale: no factor makes depth explain" in err
        assert not (tmp_path / "metres" / "config.json").exists()
    else:
        assert code == 0, err
        expected = fit_kitti_scale(HybridDepthModel.from_pretrained("tiny"), frames, source, camera_height=1.4)  # type: ignore[arg-type]
        assert f"factor {expected.factor:.4g}" in out
        assert "a camera 1.4 m over the road" in (tmp_path / "metres" / "README.md").read_text()


def test_wrong_input_is_refused_before_the_model_is_loaded(
    refused: Callable[..., None], root: Path, tmp_path: Path
) -> None:
    taken, file, new = tmp_path / "taken", tmp_path / "file", tmp_path / "new"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    file.write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    cases = [
        ((root, "--output", taken), "taken exists already and is no empty folder; name another one"),
        ((root, "--output", file), "file exists already and is no empty folder; name another one"),
        ((root, "--output", tmp_path / "link"), "link exists already and is no empty folder"),
        ((root,), "Missing option"),
        ((tmp_path / "gone", "--output", new), "gone does not exist; give the folder of KITTI's dates"),
        ((root, "--output", new, "--from", "sonar"), "'sonar' is not one of"),
        (
            (root, "--output", new, "--camera-height", 2),
            "--camera-height is 2, and --from is lidar; give --from camera",
        ),
        ((root, "--output", new, "--from", "camera-height", "--camera-height", 0), "--camera-height is 0; give the"),
        ((root, "--output", new, "--from", "camera-height", "--camera-height", "nan"), "--camera-height is nan"),
        ((root, "--output", new, "--from", "stereo", "--split", root / "right.txt"), "right.txt, line 2: "),
        ((root, "--output", new, "--size", "64"), "--size is '64'"),
        ((root, "--output", new, "--camera", 4), "camera is 4"),
        ((root, "--output", new, "--device", "nonsense"), "--device is 'nonsense'"),
    ]
    (root / "right.txt").write_text(f"{FIT} 0 r\n{FIT} 1 l\n")
    for arguments, says in cases:
        refused(says, "fit-scale", *arguments, "--weights", tmp_path / "absent")
    refused("absent is neither a file or folder", "fit-scale", root, "--output", new, "--weights", tmp_path / "absent")
    assert not new.exists()
    assert (taken / "notes.txt").read_text() == "mine" and file.read_text() == "mine"
