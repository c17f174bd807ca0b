"""``hybrid-encoder pretrain-clip`` and ``pretrain-dino``: what they write, and how they refuse wrong input."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from hybrid_encoder import HybridDepthEncoder, HybridEncoderConfig
from hybrid_encoder.cli.pretrain import FRAMES, _images, _pictures
from hybrid_encoder.data.street import render_streets

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--drives", 2, "--steps", 2, "--size", "64x96", "--cpu", "--workers", 0)
TINY = HybridEncoderConfig.preset("tiny")


def test_a_clip_is_trained_and_an_encoder_starts_from_it(run: Run, tmp_path: Path) -> None:
    code, out, err = run("pretrain-clip", *SMALL, "--batch-size", 2, "--output", tmp_path / "clip")
    assert code == 0, err
    file = tmp_path / "clip" / "final" / "model.safetensors"
    assert "order, untrained" in out and "weights -> " in out and file.is_file()
    settings = json.loads((tmp_path / "clip" / "run.json").read_text())
    assert settings["drives"] == 2 and settings["shuffle_captions"] is False and settings["size"] == [64, 96]
    HybridDepthEncoder(TINY.replace(semantic=dataclasses.replace(TINY.semantic, pretrained=str(file))))


def test_the_control_says_that_it_is_one(run: Run, tmp_path: Path) -> None:
    code, _, err = run("pretrain-clip", *SMALL, "--batch-size", 2, "--shuffle-captions", "--output", tmp_path)
    assert code == 0, err
    assert "as a control" in (tmp_path / "final" / "README.md").read_text()


def test_a_dino_learns_from_pictures_as_well(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "below").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (3, 80, 120, 3), dtype=np.uint8)
    for number, name in enumerate(("a.png", "b.jpg", "below/c.png")):
        Image.fromarray(pixels[number]).save(tmp_path / "pictures" / name)
    options = ("--batch-size", 2, "--images", tmp_path / "pictures", "--output", tmp_path / "dino")
    code, out, err = run("pretrain-dino", *SMALL, *options)
    assert code == 0, err
    assert "kinds linear, untrained" in out
    card = (tmp_path / "dino" / "final" / "README.md").read_text()
    assert "2 steps on 4 rendered frames and 3 pictures" in card and str(tmp_path) not in card


def test_pictures_cover_the_size_of_the_frames(tmp_path: Path) -> None:
    """Views are as wide as the frames: of a smaller picture they would be blurred."""
    for name, size in (("wide", (600, 100)), ("upright", (100, 200)), ("same", (96, 64))):
        Image.new("RGB", size, (255, 0, 128)).save(tmp_path / f"{name}.png")
    found = {picture.shape[-2:] for picture in _pictures(tmp_path, (64, 96))}
    assert found == {(64, 384), (192, 96), (64, 96)}
    assert all(picture.dtype == torch.uint8 and picture[0].min() == 255 for picture in _pictures(tmp_path, (64, 96)))


def test_rendered_images_are_those_of_the_streets() -> None:
    found = _images(2, (64, 96), 1, Console(quiet=True))
    drives = render_streets([10_000, 10_001], FRAMES, (64, 96))
    for image, frame in zip(found, (frame for drive in drives for frame in drive), strict=True):
        np.testing.assert_allclose(image / 255, frame.image, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("command", ["pretrain-clip", "pretrain-dino"])
def test_a_run_is_repeated_from_its_settings(run: Run, tmp_path: Path, command: str) -> None:
    extra = ("--batch-size", 2, "--lr", "1e-4") + (("--patch-weight", 0.5) if command == "pretrain-dino" else ())
    assert run(command, *SMALL, *extra, "--output", tmp_path / "one")[0] == 0
    settings = tmp_path / "one" / "run.json"
    code, _, err = run(command, "--config", settings, "--cpu", "--output", tmp_path / "two")
    assert code == 0, err
    one, two = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two"))
    assert one == two
    files = [(tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def test_sizes_of_views_from_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("large: 42x70\nsmall: [42, 42]\ntargets: center\nbatch_size: 2\n")
    code, _, err = run("pretrain-dino", *SMALL, "--config", tmp_path / "recipe.yaml", "--output", tmp_path / "dino")
    assert code == 0, err
    found = json.loads((tmp_path / "dino" / "run.json").read_text())
    assert (found["large"], found["small"], found["targets"]) == ([42, 70], [42, 42], "center")
    (tmp_path / "recipe.yaml").write_text("large: 42 by 70\n")
    code, _, err = run("pretrain-dino", *SMALL, "--config", tmp_path / "recipe.yaml", "--output", tmp_path / "other")
    assert code == 2 and "large is '42 by 70'; give HEIGHTxWIDTH" in " ".join(err.split())


def test_a_run_is_not_begun_twice(run: Run, tmp_path: Path) -> None:
    arguments = ("pretrain-clip", *SMALL, "--batch-size", 2, "--output", tmp_path)
    assert run(*arguments)[0] == 0
    code, _, err = run(*arguments)
    assert code == 2 and "holds a run already" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pretrain-clip", "--encoder", "nonsense"], "--encoder is 'nonsense'; it must be a preset: "),
        (["pretrain-clip", "--size", "64"], "--size is '64'; give HEIGHTxWIDTH"),
        (["pretrain-clip", "--seed", "-1"], "--seed is -1; it must be from 0 to"),
        (["pretrain-dino", "--images", "absent"], "--images is absent, which is no folder"),
        (["pretrain-dino", "--images", "empty"], "empty holds no images"),
        (["pretrain-dino", "--patch-weight", "-1"], "patch_weight is -1"),
        (["pretrain-dino", "--lr", "nan"], "--lr is nan"),
    ],
)
def test_wrong_input_is_refused_before_any_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*arguments, "--output", tmp_path / "run")
    assert code == 2 and says in err
    assert not (tmp_path / "run").exists()
