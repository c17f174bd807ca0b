"""``hybrid-encoder track`` and ``evaluate-pose``: what they write and say, and what they refuse."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid_encoder.data.poses import read_trajectory, write_trajectory
from hybrid_encoder.models import PoseNetwork

Run = Callable[..., tuple[int, str, str]]
SIZE = (32, 64)
STEP = 1.25  # metres from frame to frame
CALIB = "".join(f"P{camera}: 50 0 39.5 0 0 50 19.5 0 0 0 1 0\n" for camera in range(4))
FRAME = {"drives": {"2011_09_30_drive_0033": {"l": "40"}}, "offsets": [-1, 1], "known": True}  # sequence 09's drive


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose pose network says of all frames that the camera moved half a unit ahead."""
    folder = tmp_path_factory.mktemp("run")
    network = PoseNetwork("test_resnet", channels=4)
    network.config = network.config.replace(size=SIZE)
    last = network.state_dict()["head.6.weight"], network.state_dict()["head.6.bias"]
    last[0].zero_()
    last[1].copy_(torch.tensor([0, 0, 0, 0, 0, -0.5]) / 0.01)
    network.training_history = [FRAME]
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def odometry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """KITTI odometry: 103 frames of 04 and 09, straight ahead; of 10 there is no pose."""
    root = tmp_path_factory.mktemp("kitti") / "dataset"
    poses = np.tile(np.eye(4), (103, 1, 1))
    poses[:, 2, 3] = STEP * np.arange(103)
    (root / "poses").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("04", 3), ("09", 103), ("10", 3)):
        folder = root / "sequences" / name
        (folder / "image_2").mkdir(parents=True)
        (folder / "calib.txt").write_text(CALIB)
        for frame in range(count):
            pixels = rng.integers(0, 255, (40, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "image_2" / f"{frame:06d}.png")
        if name != "10":
            write_trajectory(root / "poses" / f"{name}.txt", poses[:count])
    return root


def flat(text: str) -> str:
    return " ".join(text.split())


def test_sequences_are_measured_beside_controls(run: Run, weights: Path, odometry: Path, tmp_path: Path) -> None:
    files = ("--json", tmp_path / "n.json", "--csv", tmp_path / "n.csv", "--paths", tmp_path / "paths")
    code, out, err = run("evaluate-pose", odometry, "--weights", weights, *files, "--device", "cpu", "--allow-leak")
    assert code == 0, err
    assert "1 of 106 test frames were seen" not in out  # the frame, and its neighbours
    assert "3 of 106 test frames were seen in training (1 as targets" in flat(out)
    assert "10, camera 2: 3 of 3 frames have no pose" in flat(out)
    told = json.loads((tmp_path / "n.json").read_text())
    assert list(told["recordings"]) == ["09, camera 2"], "04 is one of those that others train on"
    assert told["scale"] == pytest.approx(STEP / 0.5)
    assert [told["snippet_ate"], told["kitti_translation"], told["ate"]] == pytest.approx([0, 0, 0], abs=1e-5)
    assert (told["num_frames"], told["num_segments"]) == (103, 3)
    still, constant = told["controls"]["standing still"], told["controls"]["constant motion"]
    # Segments of 100 m end after 81 steps, at 101.25 m.
    assert still["kitti_translation"] == pytest.approx(101.25)
    snippets = [STEP * np.sqrt(sum(k * k for k in range(n))) / n for n in (*[5] * 99, 4, 3, 2)]
    assert still["snippet_ate"] == pytest.approx(np.mean(snippets))
    assert constant["ate"] == pytest.approx(0, abs=1e-6)
    settings = told["settings"]
    assert settings["size"] == list(SIZE) and settings["leak"]["seen_as_target"] == 1
    assert len(settings["sha256"]["pose.safetensors"]) == 64
    rows = list(csv.DictReader((tmp_path / "n.csv").open()))
    assert [row["predictor"] for row in rows] == ["pose network", "standing still", "constant motion", "shuffled"]
    assert float(rows[1]["kitti_translation"]) == pytest.approx(101.25)
    names = ["00_09_camera_2.png", "00_09_camera_2_predicted.txt", "00_09_camera_2_truth.txt"]
    assert sorted(file.name for file in (tmp_path / "paths").iterdir()) == names
    predicted, truth = (read_trajectory(tmp_path / "paths" / name).poses for name in names[1:])
    np.testing.assert_allclose(predicted, truth, atol=1e-4)


def test_a_scale_that_is_given_is_kept(run: Run, weights: Path, odometry: Path, tmp_path: Path) -> None:
    arguments = ("evaluate-pose", odometry, "--weights", weights, "--metric", "--allow-leak", "--device", "cpu")
    code, _, err = run(*arguments, "--json", tmp_path / "n.json")
    assert code == 0, err
    told = json.loads((tmp_path / "n.json").read_text())
    assert told["scale"] == 1 and told["settings"]["metric"]
    assert told["kitti_translation"] == pytest.approx(101.25 * (1 - 0.5 / STEP))
    assert told["snippet_ate"] == pytest.approx(0, abs=1e-5), "snippets have a scale of their own, always"


def test_weights_that_have_seen_the_frames_are_refused(run: Run, weights: Path, odometry: Path) -> None:
    code, _, err = run("evaluate-pose", odometry, "--weights", weights)
    assert code == 2 and "3 of 106 test frames were seen in training" in err and "--allow-leak" in err
    code, out, err = run("evaluate-pose", odometry, "--weights", weights, "--recording", "04", "--device", "cpu")
    assert code == 0, err
    assert "none of 3 test frames was seen in training" in flat(out) and "1 recording;" in flat(out)


def test_rendered_drives_are_measured_and_the_same_each_time(run: Run, weights: Path, tmp_path: Path) -> None:
    arguments = ("evaluate-pose", "synthetic", "--weights", weights, "--drives", 2, "--frames", 4, "--turning", 1)
    told = []
    for name in ("a.json", "b.json"):
        code, out, err = run(*arguments, "--json", tmp_path / name, "--device", "cpu")
        assert code == 0, err
        assert "2 recordings" in flat(out) and "8 frames" in out and "seen" not in out
        told.append(json.loads((tmp_path / name).read_text()))
    assert told[0] == told[1]
    assert list(told[0]["recordings"]) == ["drive 1500000000", "drive 1500000001"]
    assert told[0]["kitti_translation"] is None and 0 < told[0]["frame_rotation"] < 2


def test_track_writes_poses_and_a_picture(run: Run, weights: Path, odometry: Path, tmp_path: Path) -> None:
    output, picture = tmp_path / "path.txt", tmp_path / "path.png"
    arguments = ("track", odometry / "sequences" / "04", "--weights", weights, "--output", output, "--device", "cpu")
    code, out, err = run(*arguments, "--picture", picture)
    assert code == 0, err
    told = f"3 frames, a path of length 1 in no known unit -> {output}"
    assert told.replace(" ", "") in "".join(out.split())  # lines may break anywhere in a long path
    poses, _ = read_trajectory(output)
    np.testing.assert_allclose(poses[:, :3, 3], np.array([[0, 0, 0], [0, 0, 0.5], [0, 0, 1]]), atol=1e-6)
    assert Image.open(picture).size[1] > 600
    code, _, err = run(*arguments, "--format", "tum", "--fps", 10)
    assert code == 0, err
    timed = read_trajectory(output)
    assert timed.times is not None and timed.times.tolist() == pytest.approx([0, 0.1, 0.2])
    np.testing.assert_allclose(timed.poses[2, :3, 3], [0, 0, 1], atol=1e-6)


def test_track_of_a_folder_of_frames(run: Run, weights: Path, odometry: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for frame, name in enumerate(("1.png", "2.png", "10.png")):
        source = odometry / "sequences" / "09" / "image_2" / f"{frame:06d}.png"
        (folder / name).write_bytes(source.read_bytes())
    code, out, err = run("track", folder, "--weights", weights, "--output", tmp_path / "p.txt", "--device", "cpu")
    assert code == 0, err
    assert "3 frames" in out and len(read_trajectory(tmp_path / "p.txt").poses) == 3


def test_missing_frames_are_told(run: Run, weights: Path, odometry: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for frame in (0, 1, 2, 3, 6, 7, 8):
        source = odometry / "sequences" / "09" / "image_2" / f"{frame:06d}.png"
        (folder / source.name).write_bytes(source.read_bytes())
    options = ("--weights", weights, "--output", tmp_path / "p.txt", "--format", "tum", "--device", "cpu")
    code, out, err = run("track", folder, *options)
    assert code == 0, err
    assert "frames: 2 frames are missing in 1 place, the first after" in flat(out)
    timed = read_trajectory(tmp_path / "p.txt")
    assert timed.times is not None and timed.times.tolist() == [0, 1, 2, 3, 6, 7, 8]


def test_frames_without_a_pose_are_looked_at_on_the_way(
    run: Run, weights: Path, odometry: Path, tmp_path: Path
) -> None:
    from hybrid_encoder.cli._tracking import make_tracker, track
    from hybrid_encoder.data.sources import KittiOdometrySource

    tracker = make_tracker(str(weights), device="cpu")
    source = KittiOdometrySource(odometry / "sequences" / "09")
    poses = track(tracker, source, [2, 3, 6])  # half a unit from frame to frame
    np.testing.assert_allclose(poses[:, 2, 3], [0, 0.5, 2], atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("track", "{odometry}", "--weights", "{weights}", "--turning", "3"), "--turning would change nothing: they"),
        (("track", "synthetic", "--weights", "{weights}", "--fov", "50"), "--fov would change nothing: 'synthetic'"),
        (("evaluate-pose", "synthetic", "--weights", "{weights}", "--camera", "4"), "--camera would change nothing"),
        (("evaluate-pose", "{odometry}", "--weights", "{weights}", "--drives", "4"), "--drives would change nothing"),
        (("track", "{odometry}", "--weights", "{weights}"), "holds 3 recordings (04, camera 2, 09, camera 2"),
        (("track", "{odometry}", "--weights", "{weights}", "--recording", "x"), "no recording has x in its name"),
        (("track", "{odometry}", "--weights", "tiny"), "tiny holds weights of depth alone"),
        (("track", "{odometry}", "--weights", "{weights}", "--refine", "1"), "needs the depth model of the same"),
        (("track", "{odometry}", "--weights", "{weights}", "--fps", "0"), "--fps is 0"),
        (("track", "nowhere", "--weights", "{weights}"), "nowhere does not exist"),
        (("track", "{odometry}", "--weights", "{weights}", "--output", "{weights}"), "is a folder; give the path"),
        (("evaluate-pose", "{odometry}/sequences/04", "--weights", "{weights}"), "neither 09 nor 10"),
        (("evaluate-pose", "{odometry}/sequences/10", "--weights", "{weights}"), "has poses of two frames"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    run: Run, weights: Path, odometry: Path, arguments: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(weights)
    code, _, err = run(*(word.format(weights=weights, odometry=odometry) for word in arguments))
    assert code == 2 and says in err and err.count("\n") == 1
    assert sorted(file.name for file in weights.iterdir()) == ["pose.safetensors"], "nothing was written"
