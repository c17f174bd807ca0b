"""``hybrid-encoder predict`` on videos."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.data.results import MARK
from hybrid_encoder.data.synthetic import SyntheticDrive
from hybrid_encoder.data.video import VideoFrames, VideoWriter, video_comment

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--size", "64x96", "--device", "cpu")
NUM_FRAMES = 11


@pytest.fixture(scope="module")
def frames() -> list[NDArray[np.uint8]]:
    drive = SyntheticDrive(0, NUM_FRAMES, 64, 96)
    return [(frame.image.transpose(1, 2, 0) * 255).round().astype(np.uint8) for frame in drive]


@pytest.fixture
def video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: list[NDArray[np.uint8]]) -> Path:
    monkeypatch.chdir(tmp_path)
    with VideoWriter(Path("drive.mp4"), (64, 96), Fraction(10)) as out:
        for frame in frames:
            out.write(frame)
    return Path("drive.mp4")


def read(path: str | Path) -> tuple[list[NDArray[np.uint8]], Fraction]:
    with VideoFrames(Path(path)) as found:
        return list(found), found.rate


def distance(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def test_a_video_of_depth(run: Run, video: Path) -> None:
    code, out, err = run("predict", video, "-o", "out", "--range", 1, 50, *QUICK)
    assert code == 0, err
    assert "1 video -> out (*_depth.mp4)" in out
    shown, rate = read("out/drive_depth.mp4")
    source, _ = read(video)
    assert len(shown) == NUM_FRAMES and rate == 10 and os.listdir("out") == ["drive_depth.mp4"]
    model = HybridDepthModel.from_pretrained("tiny")
    for index in (0, 4, NUM_FRAMES - 1):
        expected = model.infer(source[index], size=(64, 96)).colored(near=1, far=50)
        right, wrong = (distance(shown[i], expected) for i in (index, (index + 5) % NUM_FRAMES))
        assert right < 4, "up to what encoding loses"
        assert right < wrong, "the frame's own depth, not another's"


def test_every_nth_frame_and_side_by_side(run: Run, video: Path) -> None:
    assert run("predict", video, "-o", "out", "--every", 4, "--side-by-side", *QUICK)[0] == 0
    shown, rate = read("out/drive_depth.mp4")
    source, _ = read(video)
    assert len(shown) == 3 and rate == Fraction(10, 4)
    for index, frame in enumerate(shown):
        assert frame.shape == (64, 192, 3)
        assert distance(frame[:, :96], source[4 * index]) < 4


def test_a_wide_video_stands_above_its_depth(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with VideoWriter(Path("wide.mp4"), (64, 192), Fraction(10)) as out:
        for value in (60, 120):
            out.write(np.full((64, 192, 3), value, np.uint8))
    assert run("predict", "wide.mp4", "-o", "out", "--side-by-side", *QUICK)[0] == 0
    shown, _ = read("out/wide_depth.mp4")
    assert [frame.shape for frame in shown] == [(128, 192, 3)] * 2
    assert abs(float(shown[1][:64].mean()) - 120) < 3


def test_the_numbers_of_frames(run: Run, video: Path) -> None:
    code, out, _ = run("predict", video, "-o", "out", "--every", 5, "--frames", "--json", *QUICK)
    assert code == 0
    row = json.loads(out)["results"][0]
    assert row["frames"] == 3 and row["size"] == [64, 96] and row["working_size"] == [64, 96] and row["seconds"] > 0
    assert row["files"] == ["out/drive_depth.mp4", "out/drive_frames"]
    names = [f"{index:06d}_{kind}" for index in (0, 5, 10) for kind in ("depth.png", "relative_depth.npy")]
    assert sorted(os.listdir("out/drive_frames")) == names
    expected = HybridDepthModel.from_pretrained("tiny").infer(read(video)[0][5], size=(64, 96)).depth[0]
    np.testing.assert_allclose(np.load("out/drive_frames/000005_relative_depth.npy"), expected, rtol=1e-4)


def test_own_videos_are_no_input_and_are_replaced(run: Run, video: Path) -> None:
    for _ in range(2):
        code, out, err = run("predict", ".", "-o", ".", "--frames", "--every", 5, *QUICK)
        assert code == 0, err
        assert "1 video ->" in out
    assert sorted(os.listdir()) == ["drive.mp4", "drive_depth.mp4", "drive_frames"]
    assert video_comment(Path("drive_depth.mp4")) == MARK
    code, _, err = run("predict", "drive_depth.mp4", *QUICK)
    assert code == 2 and "drive_depth.mp4 is a result of an earlier run" in err


@pytest.mark.parametrize("place", ["out/drive_depth.mp4", "out/drive_frames", "out/drive_frames/000000_depth.png"])
def test_a_file_of_a_person_is_never_replaced(run: Run, video: Path, place: str) -> None:
    Path(place).parent.mkdir(parents=True)
    Path(place).write_bytes(b"mine")
    code, _, err = run("predict", video, "-o", "out", "--frames", *QUICK)
    assert code == 2 and f"{place} would be replaced" in err and err.count("\n") == 1
    assert Path(place).read_bytes() == b"mine" and len(list(Path("out").rglob("*.*"))) <= 1


def test_colours_do_not_flicker(run: Run, video: Path, frames: list[NDArray[np.uint8]]) -> None:
    """One dark frame among many changes the colours of the others little."""
    with VideoWriter(Path("flash.mp4"), (64, 96), Fraction(10)) as out:
        for index in range(12):
            out.write(frames[0] if index != 6 else np.zeros_like(frames[0]))
    assert run("predict", "flash.mp4", "-o", "out", *QUICK)[0] == 0
    shown, _ = read("out/flash_depth.mp4")
    assert distance(shown[5], shown[6]) > 2 * distance(shown[5], shown[7])
    assert distance(shown[5], shown[7]) < 12


def test_damaged_videos_are_named_with_damaged_pictures(run: Run, video: Path) -> None:
    Path("cut.mp4").write_bytes(video.read_bytes()[:500])
    Path("x.jpg").write_bytes(b"nothing")
    code, _, err = run("predict", ".", "-o", "out", *QUICK)
    assert code == 2 and "2 of 3 files cannot be used: cut.mp4 and x.jpg" in err and not Path("out").exists()
    assert run("predict", ".", "-o", "out", "--skip-damaged", *QUICK)[0] == 0
    assert run("predict", video, "-o", "out", "--max-pixels", 10**12, *QUICK)[0] == 0
    code, _, err = run("predict", video, "-o", "out", "--max-pixels", 1000, *QUICK)
    assert code == 2 and "drive.mp4" in err and "at most 1,000" in err


def test_a_video_that_ends_in_damage_stops_no_other(run: Run, video: Path) -> None:
    """Its first frame is right, so that only the work shows the damage."""
    content = bytearray(video.read_bytes())
    begin = content.find(b"mdat") + 4
    middle = begin + (len(content) - begin) // 2
    content[middle : middle + 400] = np.random.default_rng(0).bytes(400)
    Path("bad.mp4").write_bytes(content)
    Image.new("RGB", (96, 64)).save("x.png")
    code, out, err = run("predict", ".", "-o", "out", "--json", *QUICK)
    told = json.loads(out)
    assert code == 2 and "bad.mp4 cannot be decoded after" in err and err.count("\n") == 1
    assert f"error: {told['error']}\n" == err and [row["path"] for row in told["damaged"]] == ["bad.mp4"]
    assert sorted(row["path"] for row in told["results"]) == ["drive.mp4", "x.png"]
    assert sorted(os.listdir("out")) == ["drive_depth.mp4", "x_depth.png", "x_relative_depth.npy"]
    code, out, err = run("predict", ".", "-o", "out", "--skip-damaged", *QUICK)
    assert code == 0 and err == "" and "left out, as damaged: 1 (bad.mp4)" in " ".join(out.split())


def test_frames_that_a_person_took_out_of_a_video(run: Run, video: Path) -> None:
    """They lie in a folder that has the name of the results'; it is used only where it is asked for."""
    Path("drive_frames").mkdir()
    Image.new("RGB", (96, 64)).save("drive_frames/000000.png")
    code, _, err = run("predict", ".", "-o", ".", *QUICK)
    assert code == 0, err
    for output in ("out", "."):
        code, _, err = run("predict", ".", "-o", output, "--frames", *QUICK)
        assert code == 2 and "drive.mp4 and drive_frames/000000.png would be written to the same files" in err


def test_frames_of_an_earlier_run_are_replaced_by_those_of_this_one(run: Run, video: Path) -> None:
    arguments = ("predict", video, "-o", "out", "--frames", "--numbers", "npy", *QUICK)
    assert run(*arguments, "--every", 2)[0] == 0
    assert run(*arguments, "--every", 5)[0] == 0
    names = [f"{index:06d}_{kind}" for index in (0, 5, 10) for kind in ("depth.png", "relative_depth.npy")]
    assert sorted(os.listdir("out/drive_frames")) == names


def test_a_result_that_got_another_name_is_no_input(run: Run, video: Path) -> None:
    assert run("predict", video, "-o", "out", *QUICK)[0] == 0
    Path("out/drive_depth.mp4").rename("other.mp4")
    code, out, _ = run("predict", ".", "-o", "out", *QUICK)
    assert code == 0 and "1 video ->" in out and "results of earlier runs: 1" in " ".join(out.split())


def test_names_that_look_like_markup(run: Run, video: Path) -> None:
    video.rename("[red]x[link=1].mp4")
    code, out, err = run("predict", "[red]x[link=1].mp4", "-o", "out", *QUICK)
    assert code == 0 and "[red]x[link=1].mp4" in out, err


@pytest.mark.parametrize("every", [10**6, 10**30])
def test_one_frame_of_very_many(run: Run, video: Path, every: int) -> None:
    assert run("predict", video, "-o", "out", "--every", every, *QUICK)[0] == 0
    assert len(read("out/drive_depth.mp4")[0]) == 1


def test_what_stops_half_way_leaves_no_video(run: Run, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = VideoWriter.write, 0

    def fill_up(self: VideoWriter, pixels: NDArray[np.uint8]) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise OSError(28, "No space left on device", "out/drive_depth.mp4")
        write(self, pixels)

    monkeypatch.setattr(VideoWriter, "write", fill_up)
    code, _, err = run("predict", video, "-o", "out", *QUICK)
    assert code == 2 and "No space left" in err and err.count("\n") == 1
    assert os.listdir("out") == []


def test_clouds_are_of_frames(run: Run, video: Path) -> None:
    clouds = ("--point-cloud", "ply", "--every", 10)
    code, _, err = run("predict", video, "-o", "out", *clouds, "--fov", 70, *QUICK)
    assert code == 2 and "--point-cloud is for pictures, and of videos for --frames" in err
    code, _, err = run("predict", video, "-o", "out", *clouds, "--frames", *QUICK)
    assert code == 2 and "nothing says how wide the camera saw that made drive.mp4" in err
    assert run("predict", video, "-o", "out", *clouds, "--frames", "--fov", 70, *QUICK)[0] == 0
    names = sorted(path.name for path in Path("out/drive_frames").glob("*.ply"))
    assert names == ["000000_points.ply", "000010_points.ply"]


@pytest.mark.parametrize("option", [("--every", 2), ("--side-by-side",), ("--frames",)])
def test_options_of_videos_without_a_video(run: Run, tmp_path: Path, option: tuple[object, ...]) -> None:
    Image.new("RGB", (96, 64)).save(tmp_path / "a.png")
    code, _, err = run("predict", tmp_path / "a.png", "-o", tmp_path / "out", *option, *QUICK)
    assert code == 2 and f"{option[0]} is for videos, and there is none" in err
