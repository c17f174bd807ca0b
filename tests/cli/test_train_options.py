"""``hybrid-encoder train-fine`` with options that would change nothing, and runs that are repeated or resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.data import SyntheticDrive, VideoWriter
from hybrid_encoder.data.images import write_png

from helpers.kitti_layout import write_drive

Run = Callable[..., tuple[int, str, str]]
SIZE = (48, 96)
TINY = ("--encoder", "tiny", "--no-pretrained", "--cpu", "--size", "48x96", "--batch-size", 2, "--workers", 0)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight frames, beside two videos of them: of all, and of six."""
    root = tmp_path_factory.mktemp("recordings")
    drive = SyntheticDrive(7, num_frames=8, height=SIZE[0], width=SIZE[1])
    pixels = [np.rint(frame.image.transpose(1, 2, 0) * 255).astype(np.uint8) for frame in drive]
    for name, length in (("long.mp4", 8), ("short.mp4", 6)):
        with VideoWriter(root / name, SIZE, 10) as video:
            for frame in pixels[:length]:
                video.write(frame)
    (root / "frames").mkdir()
    for number, frame in enumerate(pixels):
        write_png(root / "frames" / f"{number}.png", frame)
    return root / "frames"


@pytest.fixture(scope="module")
def kitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """KITTI raw with one drive of five frames, and two splits that share a frame."""
    root = tmp_path_factory.mktemp("kitti")
    own = np.array([[50, 0, 47], [0, 52, 31], [0, 0, 1]], np.float32)
    noise = np.random.default_rng(0).random((5, 3, 64, 96), np.float32)
    drive = write_drive(root, {2: list(noise)}, own)
    name = f"{drive.parent.name}/{drive.name}"
    (root / "train.txt").write_text(f"{name} 1 l\n{name} 2 l\n")
    (root / "val.txt").write_text(f"{name} 3 l\n{name} 2 l\n")
    return root


def test_options_that_would_change_nothing_are_refused(
    frames: Path, kitti: Path, tmp_path: Path, refused: Callable[..., None]
) -> None:
    HybridDepthModel("tiny", pretrained=False).save_pretrained(tmp_path / "whole")
    whole = ("--encoder", tmp_path / "whole")
    alone, split = "'synthetic' is rendered, with a camera of its own", ("--split", kitti / "train.txt")
    cases: list[tuple[list[Any], str]] = [
        ([frames, "--fov", 60, "--every", 2], "--every would change nothing: there is no video among the sources"),
        (
            [frames, "--fov", 60, "--drives", 7],
            "--drives would change nothing: they are rendered for 'synthetic' alone",
        ),
        ([frames, "--fov", 60, "--world", "street"], "--world would change nothing: they are rendered for"),
        ([frames, "--fov", 60, "--camera", "all"], "--camera would change nothing: no source has several cameras"),
        ([frames, "--fov", 60, "--teacher-weight", 2], "--teacher-weight would change nothing: there is no --teacher"),
        (["synthetic", "--fov", 20], f"--fov would change nothing: {alone}; leave it out"),
        (["synthetic", "--intrinsics", "90,90,47,23"], f"--intrinsics would change nothing: {alone}"),
        (["synthetic", "--cache", tmp_path / "cache"], f"--cache would change nothing: {alone}"),
        (["synthetic", "--keep-still"], f"--keep-still would change nothing: {alone}"),
        (["synthetic", "--stereo", "only", "--step", 3], "--step would change nothing: --stereo only compares no"),
        (["synthetic", "--stereo", "only", "--pose", "resnet18"], "--pose would change nothing: --stereo only"),
        (["synthetic", "--stereo", "only", "--lr-scale", "pose=2"], "lr_scale names 'pose'"),
        ([kitti, *split, "--every", 2], "--every would change nothing: --split reads the frames of KITTI raw"),
        ([kitti, *split, "--validation", kitti / "val.txt"], "val.txt names 1 frames that"),
        (
            ["synthetic", *whole, "--readout", "joint"],
            "this is a whole model, whose decoder has learned from the published",
        ),
        ([frames, frames, "--fov", 60], "frames comes 2 times among the sources; name every recording once"),
    ]
    for number, (arguments, says) in enumerate(cases):
        refused(
            says, "train-fine", arguments[0], *TINY, *arguments[1:], "--steps", 1, "--output", tmp_path / f"out{number}"
        )


@pytest.mark.parametrize(
    "options",
    [("--prompts", 5), ("--stereo", "only"), ("--stereo", "add", "--lr-scale", "pose=0.5"), ("--world", "street")],
)
def test_a_run_is_repeated_by_its_settings_alone(run: Run, tmp_path: Path, options: tuple[Any, ...]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    code, _, err = run("train-fine", "synthetic", *TINY, "--drives", 1, "--steps", 1, *options, "--output", first)
    assert code == 0, err
    code, _, err = run("train-fine", "--config", first / "run.json", "--cpu", "--workers", 0, "--output", second)
    assert code == 0, err
    for name in ("run.json", "final/model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert json.loads((first / "run.json").read_text())["pretrained"] is False


def test_the_coarse_stage_learns_from_varied_streets(run: Run, tmp_path: Path, refused: Callable[..., None]) -> None:
    weights = {}
    for world in ("plain", "street"):
        options = (
            *TINY,
            "--drives",
            3,
            "--steps",
            1,
            "--size",
            "96x320",
            "--world",
            world,
            "--output",
            tmp_path / world,
        )
        code, _, err = run("train-coarse", "synthetic", *options)
        assert code == 0, err
        weights[world] = (tmp_path / world / "final" / "model.safetensors").read_bytes()
        assert json.loads((tmp_path / world / "run.json").read_text()).get("world", "plain") == world
    assert weights["plain"] != weights["street"]
    refused("--world would change nothing", "train-coarse", tmp_path, *TINY, "--world", "street")


def test_a_recording_that_has_changed_is_not_trained_on_instead(
    run: Run, frames: Path, tmp_path: Path, refused: Callable[..., None]
) -> None:
    video, output = tmp_path / "drive.mp4", tmp_path / "run"
    arguments: tuple[object, ...] = (
        "train-fine",
        video,
        *TINY,
        "--fov",
        60,
        "--steps",
        2,
        "--save-every",
        1,
        "--validation",
        0,
    )
    arguments = (*arguments, "--keep-still", "--cache", tmp_path / "cache", "--output", output)
    shutil.copy(frames.parent / "long.mp4", video)
    code, _, err = run(*arguments)
    assert code == 0, err
    whole = (output / "final" / "model.safetensors").read_bytes()
    shutil.rmtree(output / "checkpoints" / "step_00000002")
    shutil.copy(frames.parent / "short.mp4", video)
    refused("the recordings, or the frames chosen of them, are others than when", *arguments, "--resume")
    shutil.copy(frames.parent / "long.mp4", video)  # at another time
    code, _, err = run(*arguments, "--resume")
    assert code == 0, err
    assert (output / "final" / "model.safetensors").read_bytes() == whole
