"""``hybrid-encoder predict --words``: the picture of what the words say, and who has none."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.data.video import VideoWriter
from hybrid_encoder.models import draw_words

from helpers.published_layout import small_config

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_the_words_are_drawn_beside_the_same_depth(run: Run, picture: Path, published: Path, tmp_path: Path) -> None:
    arguments = ("predict", picture, "--weights", published, "--device", "cpu")
    assert run(*arguments, "--output", tmp_path / "plain")[0] == 0
    code, out, _ = run(*arguments, "--output", tmp_path / "words", "--words")
    assert code == 0
    assert "*_words.png" in out
    assert [path.name for path in sorted((tmp_path / "plain").iterdir())] == ["a_depth.png", "a_relative_depth.npy"]
    plain, same = (np.load(tmp_path / name / "a_relative_depth.npy") for name in ("plain", "words"))
    np.testing.assert_allclose(plain, same, rtol=1e-5)
    drawn = np.asarray(Image.open(tmp_path / "words" / "a_words.png"))
    model = HybridDepthModel.from_pretrained(published)
    said = model.infer(picture, words=True).words
    assert said is not None
    np.testing.assert_array_equal(drawn, draw_words(said, (64, 96)))


def test_a_second_run_replaces_the_words_and_does_not_read_them(
    run: Run, picture: Path, published: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        code, out, _ = run("predict", tmp_path, "--weights", published, "--output", tmp_path, "--words")
        assert code == 0
        assert "1 image " in out
    assert (tmp_path / "a_words.png").is_file()
    assert not (tmp_path / "a_words_depth.png").exists()


def test_weights_without_prompts_are_refused_before_a_file_is_written(
    refused: Callable[..., None], picture: Path, tmp_path: Path
) -> None:
    HybridDepthModel(small_config(prompts=None), pretrained=False).save_pretrained(tmp_path / "silent")
    target = tmp_path / "out"
    refused("no prompts", "predict", picture, "--weights", tmp_path / "silent", "--words", "--output", target)
    assert not target.exists()


def test_of_a_video_the_words_are_those_of_its_frames(
    run: Run, refused: Callable[..., None], published: Path, tmp_path: Path
) -> None:
    with VideoWriter(tmp_path / "drive.mp4", (64, 96), Fraction(10)) as out:
        for frame in np.random.default_rng(0).integers(0, 255, (3, 64, 96, 3), dtype=np.uint8):
            out.write(frame)
    arguments = ("predict", tmp_path / "drive.mp4", "--weights", published, "--words", "--output", tmp_path / "out")
    refused("--words is for pictures, and of videos for --frames", *arguments)
    assert not (tmp_path / "out").exists()
    assert run(*arguments, "--frames", "--numbers", "none")[0] == 0
    names = sorted(path.name for path in (tmp_path / "out" / "drive_frames").iterdir())
    assert names == [f"{index:06d}_{end}" for index in range(3) for end in ("depth.png", "words.png")]
