"""``hybrid-encoder train-fine`` on a person's own recordings: what is read, chosen, held out, learned and refused."""

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

Run = Callable[..., tuple[int, str, str]]
SIZE = (48, 96)
TINY = ("--encoder", "tiny", "--no-pretrained", "--cpu", "--size", "48x96", "--batch-size", 2, "--workers", 0)


def pixels(image: Any) -> Any:
    return np.rint(image.transpose(1, 2, 0) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video that stands still in the middle, and a folder of pictures with its intrinsics."""
    root = tmp_path_factory.mktemp("recordings")
    height, width = 2 * SIZE[0], 2 * SIZE[1]  # twice that of the training
    drive = SyntheticDrive(7, num_frames=14, height=height, width=width, turning=2.0)
    frames = [pixels(frame.image) for frame in drive]
    with VideoWriter(root / "drive.mp4", (height, width), 10) as video:
        for frame in [*frames[:6], *[frames[6]] * 5, *frames[7:]]:
            video.write(frame)
    (root / "frames").mkdir()
    for number, frame in enumerate(frames, 1):
        write_png(root / "frames" / f"{number}.png", frame)
    np.savetxt(root / "frames" / "intrinsics.txt", drive.K)
    return root


def settings(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return told


def test_a_video_and_a_folder_with_learned_intrinsics(run: Run, recordings: Path, tmp_path: Path) -> None:
    output, sources = tmp_path / "run", (recordings / "drive.mp4", recordings / "frames")
    options = ("--intrinsics", "learn", "--steps", 4, "--validation", 0.3, "--save-every", 2)
    code, out, err = run("train-fine", *sources, *TINY, *options, "--cache", tmp_path / "cache", "--output", output)
    said = " ".join(out.split())
    assert code == 0, err
    assert "18 frames of 96 x 192" in said and "14 frames of 96 x 192" in said
    assert "stand still" in said, "the stretch in which nothing moves is told"
    for name in ("final", "best"):
        assert HybridDepthModel.from_pretrained(output / name).config.size == SIZE
        assert (output / name / "pose.safetensors").is_file()
    found = json.loads((output / "final" / "intrinsics.json").read_text())
    # One camera for each recording, in pixels of the recordings as they were made.
    assert [Path(camera["name"]).name for camera in found] == ["drive.mp4", "frames"]
    assert all(camera["size"] == [2 * side for side in SIZE] for camera in found)
    assert [round(camera["start"][0]) for camera in found] == [166, 111], "60 degrees, and what the folder says"
    assert all(f"fx {camera['fx']:.1f}" in said and camera["why"] in said for camera in found)
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert any("validation/score" in line or "score" in line for line in lines)
    assert list((output / "pictures").glob("*.png"))
    told = settings(output)
    assert told["intrinsics"] == "learn" and told["data"] == [str(path) for path in sources]
    # What it was is repeated from its settings alone, to the last bit.
    code, _, err = run(
        *("train-fine", "--config", output / "run.json", "--cpu", "--no-pretrained", "--workers", 0),
        *("--save-every", 2, "--output", tmp_path / "again"),
    )
    assert code == 0, err
    one, two = ((folder / "final" / "model.safetensors").read_bytes() for folder in (output, tmp_path / "again"))
    assert one == two and settings(tmp_path / "again") == told


def test_intrinsics_come_from_the_folder_the_command_or_the_field_of_view(
    run: Run, recordings: Path, tmp_path: Path
) -> None:
    frames, once = recordings / "frames", ("--steps", 1, "--validation", 0, "--keep-still")
    said = {}
    for name, options in (
        ("own", ()),
        ("given", ("--intrinsics", "100,102,95,46")),
        ("fov", ("--fov", 90)),
    ):
        code, out, err = run("train-fine", frames, *TINY, *once, *options, "--output", tmp_path / name)
        assert code == 0, err
        said[name] = " ".join(out.split())
        assert not (tmp_path / name / "best").exists()
    assert "fx 111.4" in said["own"] and "fx 100.0, fy 102.0, cx 95.0, cy 46.0" in said["given"]
    assert "fx 96.0, fy 96.0, cx 95.5, cy 47.5" in said["fov"]


def test_steps_by_number_and_by_motion(run: Run, recordings: Path, tmp_path: Path) -> None:
    for step in ("2", "motion"):
        arguments = (recordings / "frames", *TINY, "--steps", 1, "--step", step, "--output", tmp_path / step)
        code, _, err = run("train-fine", *arguments)
        assert code == 0, err
        assert settings(tmp_path / step)["step"] == step


def test_rendered_drives_are_held_out_whole(run: Run, tmp_path: Path, refused: Callable[..., None]) -> None:
    options = ("--steps", 1, "--validation", 0.3)
    code, out, err = run("train-fine", "synthetic", *TINY, *options, "--drives", 2, "--output", tmp_path / "run")
    assert code == 0, err
    assert "(abs_rel)" in " ".join(out.split()), "rendered frames have depth"
    assert (tmp_path / "run" / "best" / "config.json").is_file()
    says = "0.3 of 1 recordings leaves none to train on"
    refused(says, "train-fine", "synthetic", *TINY, *options, "--drives", 1, "--output", tmp_path / "one")


def test_the_right_view_gives_metres(run: Run, tmp_path: Path) -> None:
    for stereo in ("add", "only"):
        output = tmp_path / stereo
        code, _, err = run(
            "train-fine", "synthetic", *TINY, "--drives", 1, "--steps", 1, "--stereo", stereo, "--output", output
        )
        assert code == 0, err
        assert HybridDepthModel.from_pretrained(output / "final").config.metric
        assert (output / "pose.safetensors").exists() == (stereo == "add")


def test_a_student_follows_its_teacher(run: Run, tmp_path: Path) -> None:
    options = ("--drives", 1, "--steps", 1, "--teacher-weight", 2)
    code, _, err = run(
        "train-fine", "synthetic", *TINY, *options, "--teacher", "tiny", "--output", tmp_path / "student"
    )
    assert code == 0, err
    told = settings(tmp_path / "student")
    assert told["teacher"] == "tiny" and len(told["teacher_sha256"]) == 64 and told["teacher_weight"] == 2


def test_wrong_recordings_and_options_are_one_sentence(
    run: Run, recordings: Path, tmp_path: Path, refused: Callable[..., None]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("x")
    shutil.copy(recordings / "frames" / "1.png", tmp_path / "one.png")
    video, frames = recordings / "drive.mp4", recordings / "frames"
    cases: list[tuple[list[Any], str]] = [
        ([tmp_path / "empty"], "is empty, but no picture and no video"),
        ([tmp_path / "text"], "holds 1 .txt file, but no picture and no video"),
        ([tmp_path / "one.png"], "a single picture; give the folder of all frames"),
        ([video], "has no intrinsics; give --intrinsics fx,fy,cx,cy or learn, or --fov"),
        ([frames, "--step", "0"], "--step is '0'; give a number of frames, or 'motion'"),
        ([frames, "--step", "fast"], "--step is 'fast'"),
        ([frames, "--step", "30"], "14 lack a neighbour"),
        ([frames, "--fov", "180"], "--fov is 180"),
        ([frames, "--fov", "60", "--intrinsics", "1,1,1,1"], "exclude each other"),
        ([frames, "--intrinsics", "1,2,3"], "--intrinsics is '1,2,3'"),
        ([frames, "--validation", "1.5"], "--validation is 1.5; a fraction lies between 0 and 1"),
        ([frames, "--validation", "some"], "--validation is 'some'"),
        ([frames, "--split", "x.txt", "--step", "2"], "--split and --step exclude each other"),
        ([frames, frames, "--split", "x.txt"], "--split needs KITTI raw as the only source"),
        ([frames, "--stereo", "only"], "has no right view"),
        ([frames, "--teacher", "nonsense"], "nonsense is neither a file or folder nor a Hub id"),
        ([frames, "--log-with", "nonsense"], "accelerate knows"),
        ([frames, "--lr-scale", "sky=1"], "lr_scale names 'sky'"),
    ]
    for number, (arguments, says) in enumerate(cases):
        refused(says, "train-fine", *arguments, *TINY, "--steps", 1, "--output", tmp_path / f"out{number}")
