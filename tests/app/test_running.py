"""What the page does, without the page: files of pictures and videos, choices, and one model that is kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from numpy.typing import NDArray
from PIL import Image

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.app import running, scenes
from hybrid_encoder.app.choices import NATIVE, Choices
from hybrid_encoder.app.running import EXAMPLE, DepthRunner
from hybrid_encoder.app.scenes import foreground, thinned
from hybrid_encoder.data.images import colorize
from hybrid_encoder.data.point_clouds import PointCloud
from hybrid_encoder.data.synthetic import SyntheticDrive
from hybrid_encoder.data.video import VideoFrames
from hybrid_encoder.errors import CheckpointError, HybridEncoderError, InputError
from hybrid_encoder.models.word_pictures import draw_words

from helpers.published_layout import small_config

CPU = torch.device("cpu")


def vertices(path: Path) -> NDArray[np.float32]:
    """The points of a file, in the file's own axes."""
    loaded: Any = trimesh.load(path)
    (cloud,) = loaded.geometry.values() if isinstance(loaded, trimesh.Scene) else (loaded,)
    points: NDArray[np.float32] = np.asarray(cloud.vertices, np.float32)
    return points


@pytest.fixture(scope="module")
def model() -> HybridDepthModel:
    return HybridDepthModel.from_pretrained("tiny")


@pytest.fixture
def runner(tmp_path: Path) -> DepthRunner:
    return DepthRunner(tmp_path / "results", ["tiny"], device=CPU)


def test_the_example_is_the_drawn_street_that_it_says() -> None:
    frame = SyntheticDrive(920, 4, height=288, width=960)[0]
    difference = np.asarray(Image.open(EXAMPLE)) / 255 - frame.image.transpose(1, 2, 0)
    assert np.sqrt((difference**2).mean()) < 0.03  # of the JPEG
    assert EXAMPLE.stat().st_size < 150_000


def test_a_picture_becomes_what_the_model_says(runner: DepthRunner, model: HybridDepthModel) -> None:
    result = runner.picture(EXAMPLE, Choices())
    prediction = model.infer(EXAMPLE)
    assert np.array_equal(np.load(result.numbers), prediction.depth[0].numpy())
    assert np.array_equal(np.asarray(Image.open(result.colors)), prediction.colored())
    assert np.array_equal(np.asarray(Image.open(result.depth)), prediction.colored())
    assert np.array_equal(np.asarray(Image.open(result.picture)), np.asarray(Image.open(EXAMPLE)))
    points = prediction.points()  # the lens is told by the file
    assert np.array_equal(vertices(result.cloud), points.positions)
    assert "'tiny' at 96 x 320 on cpu" in result.summary
    assert "field of view 81.2°." in result.summary
    assert {path.name for path in (result.numbers, result.cloud)} == {"street_relative_depth.npy", "street_points.ply"}


def test_what_the_words_say_is_drawn_where_there_are_words(runner: DepthRunner, model: HybridDepthModel) -> None:
    drawn = runner.picture(EXAMPLE, Choices(colormap="viridis")).words
    said = model.infer(EXAMPLE, words=True).words
    assert drawn is not None and said is not None
    assert drawn.name == "street_words.png"
    assert np.array_equal(np.asarray(Image.open(drawn)), draw_words(said, (288, 960), "viridis"))


def test_without_prompts_there_are_no_words(tmp_path: Path) -> None:
    silent = HybridDepthModel(small_config(prompts=None), pretrained=False)
    silent.save_pretrained(tmp_path / "silent")
    runner = DepthRunner(tmp_path / "results", [str(tmp_path / "silent")], device=CPU)
    result = runner.picture(EXAMPLE, Choices(weights=str(tmp_path / "silent")))
    assert result.words is None
    assert not list(result.colors.parent.glob("*_words.png"))
    assert result.cloud.is_file()


def test_a_scene_is_few_points_of_the_foreground(
    runner: DepthRunner, model: HybridDepthModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenes, "POINTS_SHOWN", 5000)
    result = runner.picture(EXAMPLE, Choices())
    scene = vertices(result.scene)
    assert len(scene) == 5000
    all_depths = model.infer(EXAMPLE).points(edges=0.3).positions[:, 2]
    assert -scene[:, 2].min() <= 2.5 * np.median(all_depths) < all_depths.max()
    assert result.extent == pytest.approx(float(np.linalg.norm(np.ptp(scene, axis=0))), rel=0.05)


def test_choices_are_followed(runner: DepthRunner, model: HybridDepthModel) -> None:
    result = runner.picture(EXAMPLE, Choices(size="64x 192", colormap="viridis", fov="40°"))
    prediction = model.infer(EXAMPLE, (64, 192))
    assert np.array_equal(np.load(result.numbers), prediction.depth[0].numpy())
    assert np.array_equal(np.asarray(Image.open(result.colors)), prediction.colored("viridis"))
    assert np.array_equal(vertices(result.cloud), prediction.points(fov=40).positions)
    assert "at 64 x 192" in result.summary
    assert "field of view 40°." in result.summary
    native = runner.picture(EXAMPLE, Choices(size=NATIVE))
    assert np.array_equal(np.load(native.numbers), model.infer(EXAMPLE, "native").depth[0].numpy())


def test_where_nothing_says_the_lens_it_is_told_to_be_assumed(runner: DepthRunner, tmp_path: Path) -> None:
    Image.open(EXAMPLE).convert("L").save(tmp_path / "grey.png")
    assert runner.picture(tmp_path / "grey.png", Choices()).summary.endswith("field of view 65° (assumed).")


def test_a_large_picture_is_shown_small_and_kept_whole(runner: DepthRunner, tmp_path: Path) -> None:
    Image.open(EXAMPLE).resize((2000, 600)).save(tmp_path / "large.jpg")
    result = runner.picture(tmp_path / "large.jpg", Choices())
    assert Image.open(result.picture).size == Image.open(result.depth).size == (1600, 480)
    assert Image.open(result.colors).size == (2000, 600)
    assert np.load(result.numbers).shape == (600, 2000)


def test_a_picture_with_depth_that_jumps_everywhere_has_its_points(runner: DepthRunner, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    result = runner.picture(tmp_path / "noise.png", Choices(size=NATIVE))
    assert len(vertices(result.cloud)) > 0


def test_what_cannot_be_chosen_is_told_in_a_sentence(
    runner: DepthRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong: list[tuple[Choices, str]] = [
        (Choices(size="big"), "the working size is 'big'"),
        (Choices(size=["96x320"]), "the working size is"),
        (Choices(size="96x99999"), "would be 96 x 99999, 9,599,904 pixels"),
        (Choices(size="1x1"), "size"),
        (Choices(colormap="jet"), "the colours are 'jet'; choose one of magma"),
        (Choices(fov="wide"), "the field of view is 'wide'; give degrees from 1 to 170"),
        (Choices(fov="nan"), "the field of view is"),
        (Choices(fov={"a": 1}), "the field of view is"),
        (Choices(weights=str(tmp_path)), "cannot be chosen here; take tiny"),
        (Choices(weights=None), "the weights None cannot be chosen here"),
    ]
    for choices, says in wrong:
        with pytest.raises(InputError) as error:
            runner.picture(EXAMPLE, choices)
        assert says in str(error.value)
    monkeypatch.setattr(running, "MAX_WORKING", 100_000)
    with pytest.raises(InputError, match="would be 288 x 960, 276,480 pixels"):
        runner.picture(EXAMPLE, Choices(size=NATIVE))
    assert list(runner.folder.rglob("*.*")) == []


def test_weights_can_be_typed_where_the_machine_is_the_visitors_own(
    runner: DepthRunner, tmp_path: Path, tiny_model: HybridDepthModel
) -> None:
    tiny_model.save_pretrained(tmp_path / "own")
    own = str(tmp_path / "own")
    for name in (own, "somebody/weights"):
        with pytest.raises(InputError, match="cannot be chosen here"):
            runner.load(name)
    mine = DepthRunner(tmp_path / "more", ["tiny"], device=CPU, any_weights=True)
    loaded = mine.load(f" {own} ")
    parameter = next(tiny_model.parameters())
    assert torch.equal(next(loaded.parameters()), parameter)
    with pytest.raises(CheckpointError, match="neither a file or folder nor a Hub id"):
        mine.load("no such weights")
    assert mine.load("tiny") is mine.load("tiny")


def test_one_model_is_loaded_once(runner: DepthRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load: Callable[[str], HybridDepthModel] = HybridDepthModel.from_pretrained

    def counted(name: str) -> HybridDepthModel:
        loads.append(name)
        return load(name)

    monkeypatch.setattr(HybridDepthModel, "from_pretrained", counted)
    runner.picture(EXAMPLE, Choices())
    runner.picture(EXAMPLE, Choices(colormap="gray"))
    assert loads == ["tiny"]


def test_files_that_cannot_be_read_and_too_large_ones(
    runner: DepthRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(InputError, match="is not an image of a format that is read here"):
        runner.picture(broken, Choices())
    with pytest.raises(InputError, match="cannot be read as a video"):
        list(runner.video(broken, Choices()))
    monkeypatch.setattr(running, "MAX_PIXELS", 1000)
    with pytest.raises(InputError, match="276,480 pixels; at most 1,000 are read"):
        runner.picture(EXAMPLE, Choices())


def test_weights_that_give_no_depth_are_told(
    runner: DepthRunner, drive: Path, tiny_model: HybridDepthModel, tmp_path: Path
) -> None:
    with torch.no_grad():
        for parameter in tiny_model.decoder.parameters():
            parameter.mul_(1e30)  # finite by itself
    tiny_model.save_pretrained(tmp_path / "broken")
    broken = DepthRunner(tmp_path / "more", [str(tmp_path / "broken")], device=CPU)
    choices = Choices(weights=str(tmp_path / "broken"))
    with pytest.raises(
        CheckpointError, match=r"that the weights give for street\.jpg, \d+ are not finite; .* take other weights"
    ):
        broken.picture(EXAMPLE, choices)
    with pytest.raises(CheckpointError, match=r"for drive\.mp4, \d+ are not finite"):
        list(broken.video(drive, choices))
    assert [path for path in broken.folder.rglob("*") if path.is_file()] == []


def test_old_results_are_deleted_and_others_stay(tmp_path: Path) -> None:
    runner = DepthRunner(tmp_path, ["tiny"], device=CPU, kept_for=60)
    old, new = runner.example(), runner.example()
    os.utime(old.parent, (time.time() - 100,) * 2)
    assert runner.example().read_bytes() == EXAMPLE.read_bytes()
    assert not old.parent.exists()
    assert new.exists()


@pytest.mark.parametrize("source_above", [False, True])
def test_a_video_becomes_one_of_the_same_length_and_rate(
    runner: DepthRunner, model: HybridDepthModel, drive: Path, source_above: bool
) -> None:
    *steps, last = runner.video(drive, Choices(source_above=source_above))
    assert (steps[0].done, steps[0].total, steps[0].video) == (0, 10, None)
    assert last.done == last.total == 10
    assert last.video is not None
    assert last.video.name == "drive_depth.mp4"
    assert "'tiny' at 96 x 320 on cpu, 10 frames" in last.summary
    with VideoFrames(drive) as source, VideoFrames(last.video) as result:
        assert result.rate == source.rate == 10
        frames, made = list(source), list(result)
    assert len(made) == 10
    assert made[0].shape == ((192 if source_above else 96), 320, 3)
    first = model.infer(frames[0])
    assert np.abs(made[0][-96:].astype(float) - first.colored()).mean() < 4  # of the compression
    if source_above:
        assert np.abs(made[-1][:96].astype(float) - frames[-1]).mean() < 4


def test_the_colours_of_a_video_follow_slowly(runner: DepthRunner, model: HybridDepthModel, drive: Path) -> None:
    *_, last = runner.video(drive, Choices())
    assert last.video is not None
    with VideoFrames(drive) as source, VideoFrames(last.video) as result:
        frames, made = list(source), list(result)
    ends = None
    for frame in frames:
        disparity = model.infer(frame).disparity[0]
        now = np.array([float(disparity.min()), float(np.percentile(disparity.numpy(), 95))])
        ends = now if ends is None else 0.9 * ends + 0.1 * now
    assert ends is not None
    expected = colorize(disparity, float(ends[0]), float(ends[1]))
    assert np.abs(made[-1].astype(float) - expected).mean() < 4


def test_a_video_that_is_stopped_or_too_long_leaves_no_file(
    runner: DepthRunner, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "PAUSE", 0)
    steps = runner.video(drive, Choices())
    assert [next(steps).done for _ in range(4)] == [0, 1, 2, 3]
    steps.close()  # type: ignore[attr-defined]
    assert [path for path in runner.folder.rglob("*") if path.is_file()] == []
    monkeypatch.setattr(running, "MAX_FRAMES", 9)
    with pytest.raises(HybridEncoderError, match="more than 9 frames"):
        list(runner.video(drive, Choices()))


def test_thinning_and_the_foreground() -> None:
    positions = np.zeros((1000, 3), np.float32)
    positions[:, 2] = np.arange(1000)
    cloud = PointCloud(positions, np.repeat(np.arange(1000) % 256, 3).reshape(-1, 3).astype(np.uint8))
    thin = thinned(cloud, 100)
    assert len(thin) == 100
    assert np.array_equal(thin.colors[:, 0], thin.positions[:, 2] % 256)  # each keeps its colour
    assert np.all(np.diff(thin.positions[:, 2]) > 0)
    assert thinned(cloud, 1000) is cloud
    near = PointCloud(positions[[1, 2, 3, 7, 8]], cloud.colors[:5])  # the median is 3
    assert foreground(near).positions[:, 2].tolist() == [1, 2, 3, 7]
