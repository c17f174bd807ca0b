"""``hybrid-encoder train-coarse`` and ``train-fine``: the files they write, and how they refuse wrong input."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid_encoder import HybridDepthConfig, HybridDepthEncoder, HybridDepthModel
from hybrid_encoder.config import DEPTH_WORDS
from hybrid_encoder.data import SyntheticDrive, write_tusimple
from hybrid_encoder.training.coarse import CoarseStage

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--encoder", "tiny", "--no-pretrained", "--cpu", "--steps", 2, "--size", "48x96", "--batch-size", 2)
SYNTHETIC = ("synthetic", *SMALL, "--drives", 1)


def _ok(done: tuple[int, str, str]) -> str:
    code, out, err = done
    assert code == 0, err
    return " ".join(out.split())


def test_both_stages_one_after_the_other(run: Run, tmp_path: Path) -> None:
    coarse, fine = tmp_path / "coarse", tmp_path / "fine"
    said = _ok(run("train-coarse", *SYNTHETIC, "--output", coarse, "--two-sided"))
    assert said.replace(" ", "").endswith(f"weights->{coarse}/final")
    first = HybridDepthEncoder.from_pretrained(coarse / "final")
    assert first.config.prompts is not None and first.config.prompts.words == DEPTH_WORDS
    told = json.loads((coarse / "run.json").read_text())
    expected = {"data": "synthetic", "encoder": "tiny", "drives": 1, "steps": 2, "batch_size": 2, "size": [48, 96]}
    assert expected.items() <= told.items() and told["two_sided"] is True

    arguments = ("--encoder", coarse / "final", "--cpu", "--steps", 2, "--size", "48x96")
    options = ("--batch-size", 2, "--drives", 1, "--lr", "0.0001", "--prompts", 12, "--language-loss", 0.1)
    _ok(run("train-fine", "synthetic", *arguments, *options, "--output", fine))
    model = HybridDepthModel.from_pretrained(fine / "final")
    assert model.config.size == (48, 96)
    assert model.config.encoder.prompts is not None and model.config.encoder.prompts.num_tokens == 12
    assert (fine / "pose.safetensors").is_file()
    told = json.loads((fine / "run.json").read_text())
    assert {"prompts": 12, "language_loss": 0.1, "lr": 1e-4}.items() <= told.items()
    # The weights say what both stages were trained on: rendered drives, no frame of a recording.
    records = [{"stage": stage, "drives": {}, "offsets": offsets, "known": True}
               for stage, offsets in (("CoarseStage", []), ("FineStage", [-1, 1]))]  # fmt: skip
    assert model.training_history == records and told["trained_on"] == records[1]
    assert told["refine"] == 3, "towers as small as tiny's get the small recipe"
    # The towers went on from the coarse stage: two steps at such a rate move a weight by 0.0002 at most, and decay.
    assert first.spatial is not None and model.encoder.spatial is not None
    for (name, one), other in zip(first.spatial.named_parameters(), model.encoder.spatial.parameters(), strict=True):
        torch.testing.assert_close(other, one, atol=3e-4, rtol=1e-4, msg=name)


def test_the_published_recipes_from_one_stage_to_the_other(run: Run, tmp_path: Path) -> None:
    """Settings of the recipe that a command hands on, and the options that change them."""
    options = ("--recipe", "published", "--cpu", "--no-pretrained", "--steps", 1, "--batch-size", 2, "--drives", 1)
    _ok(run("train-coarse", "synthetic", "--encoder", "tiny", *options, "--output", tmp_path / "coarse"))
    told = json.loads((tmp_path / "coarse" / "run.json").read_text())
    expected = {"size": 224, "jitter": True, "flip": False, "freeze_text": True, "final_div_factor": 100.0}
    assert expected.items() <= told.items()

    fine = ("train-fine", "synthetic", "--encoder", tmp_path / "coarse" / "final", *options, "--size", "48x96")
    pose = ("--pose", "test_resnet")
    _ok(run(*fine, *pose, "--output", tmp_path / "fine"))
    told = json.loads((tmp_path / "fine" / "run.json").read_text())
    published = {"prompts": 256, "prompts_init": "random", "jitter": "per_frame", "resample": "lanczos", "scales": [0]}
    assert {**published, "pose_pretrained": False, "raw_input": True}.items() <= told.items()
    config = HybridDepthModel.from_pretrained(tmp_path / "fine" / "final").config
    assert config.encoder.prompts is not None and config.encoder.prompts.num_tokens == 256
    assert config.encoder.semantic.std == (1.0, 1.0, 1.0)
    preset = HybridDepthConfig.preset("tiny").decoder
    assert config.decoder == replace(preset, scales=(0,)), "the decoder of the preset with these towers"

    _ok(run(*fine, *pose, "--keep-words", "--jitter", "per_item", "--output", tmp_path / "words"))
    told = json.loads((tmp_path / "words" / "run.json").read_text())
    assert {"prompts": None, "jitter": "per_item"}.items() <= told.items()
    kept = HybridDepthModel.from_pretrained(tmp_path / "words" / "final").config.encoder.prompts
    assert kept is not None and kept.words == DEPTH_WORDS


def test_a_preset_starts_the_fine_stage_too(run: Run, tmp_path: Path) -> None:
    arguments = ("--output", tmp_path, "--pose", "class_token", "--no-automask")
    _ok(run("train-fine", *SYNTHETIC, *arguments))
    model = HybridDepthModel.from_pretrained(tmp_path / "final")
    with torch.no_grad():
        assert model(torch.rand(1, 3, 48, 96)).isfinite().all()
    told = json.loads((tmp_path / "run.json").read_text())
    assert (told["pose"], told["automask"]) == ("class_token", False)


def test_the_layout_of_tusimple_is_read(run: Run, tmp_path: Path) -> None:
    write_tusimple(tmp_path / "tusimple", [SyntheticDrive(seed=2, num_frames=4, height=72, width=128)])
    _ok(run("train-coarse", tmp_path / "tusimple", *SMALL, "--output", tmp_path / "run"))
    assert HybridDepthEncoder.from_pretrained(tmp_path / "run" / "final").prompts is not None
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["data"] == str(tmp_path / "tusimple") and told["drives"] is None


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Three rendered frames as images, with their depth and disparity."""
    for folder in ("images", "depth", "disparity"):
        (tmp_path / folder).mkdir()
    for i, frame in enumerate(SyntheticDrive(seed=2, num_frames=3, height=48, width=96)):
        pixels = np.rint(frame.image.transpose(1, 2, 0) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
        np.save(tmp_path / "depth" / f"{i}.npy", frame.depth[0])
        np.save(tmp_path / "disparity" / f"{i}_disparity.npy", 1 / frame.depth[0])
    return tmp_path


def test_images_with_depth_maps_are_read(run: Run, frames: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    plain = CoarseStage.forward

    def forward(stage: CoarseStage, batch: Any) -> Any:
        seen.append(batch)
        return plain(stage, batch)

    monkeypatch.setattr(CoarseStage, "forward", forward)
    arguments = ("train-coarse", frames / "images", *SMALL, "--output")
    _ok(run(*arguments, frames / "a", "--depths", frames / "depth"))
    options = ("--depths", frames / "disparity", "--ending", "_disparity.npy", "--inverse")
    _ok(run(*arguments, frames / "b", *options))
    assert len(seen) == 4 and all(batch.points.shape == (8, 7, 2) for batch in seen), "four groups in each of two"
    # Points run from near to far, whichever way depth was given.
    for batch in seen:
        for name, points in zip(batch.names, batch.points.unflatten(0, (2, 4)), strict=True):
            depth = torch.from_numpy(np.load(frames / "depth" / (Path(name).stem + ".npy")))
            x, y = points.round().long().unbind(-1)
            orders = [(depth[y, column].diff(dim=-1) > 0).all() for column in (x, 95 - x)]  # mirrored or not
            assert any(orders), name


def test_a_stopped_run_is_resumed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("train-coarse", *SYNTHETIC, "--output")
    _ok(run(*arguments, tmp_path / "whole"))
    plain = CoarseStage.forward

    def stopped(stage: CoarseStage, batch: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(stage, batch)

    with monkeypatch.context() as patch:
        patch.setattr(CoarseStage, "forward", stopped)
        said = _ok(run(*arguments, tmp_path / "parts"))
    assert "stopped; run the same command with --resume to continue from" in said
    assert not (tmp_path / "parts" / "final").exists()
    assert "weights ->" in _ok(run(*arguments, tmp_path / "parts", "--resume"))
    one, other = ((tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert one == other

    code, _, err = run(*arguments, tmp_path / "parts", "--resume", "--lr", 0.5)
    assert code == 2 and "lr is 0.5, and the run in" in err and "keep it" in err
    code, _, err = run(*arguments, tmp_path / "parts")
    assert code == 2 and "holds a run already (step_00000002); resume it, or choose another folder" in err


def test_wrong_input_is_refused_in_one_sentence(refused: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases: list[tuple[list[object], str]] = [
        (["train-coarse", "synthetic", "--size", "96"], "--size is '96'; give HEIGHTxWIDTH with both at least 32"),
        (["train-coarse", "synthetic", "--size", "16x96"], "--size is '16x96'; give HEIGHTxWIDTH"),
        (["train-coarse", tmp_path / "gone"], "gone does not exist; give the folder with TuSimple's label files"),
        (["train-coarse", tmp_path / "empty", "--depths", tmp_path], "empty holds no images"),
        (["train-coarse", "synthetic", "--seed", "-1"], "--seed is -1; it must be from 0 to 99999"),
        (
            ["train-coarse", "synthetic", "--drives", 1, "--size", "48x96", "--encoder", "nonsense"],
            "nonsense is neither a file or folder nor a Hub id",
        ),
        (["train-coarse", *SYNTHETIC, "--batch-size", 6], "there are 5 items and a step takes 6; lower the batch size"),
        (["train-coarse", *SYNTHETIC, "--resume"], "holds no checkpoint to resume from"),
        (["train-coarse", *SYNTHETIC, "--lr", "-1"], "lr is -1"),
        (["train-coarse", "synthetic", "--steps", 0], "--steps"),
        (["train-coarse", "synthetic", "--precision", "int8"], "--precision"),
        (["train-coarse", "synthetic", "--seed", 100_000], "--seed is 100000; it must be from 0 to 99999"),
        (["train-coarse", tmp_path, "--seed", -1], "--seed is -1; it must be from 0 to 4294967295"),
        (["train-coarse"], "Missing argument"),
        (["train-fine", tmp_path / "gone"], "gone does not exist; give videos, folders of frames, or a data set"),
        (["train-fine", tmp_path, "--split", tmp_path / "gone.txt"], "gone.txt does not exist"),
        (
            ["train-fine", "synthetic", "--drives", 1, "--size", "48x96", "--encoder", "nonsense"],
            "nonsense is neither a file or folder nor a Hub id",
        ),
        (["train-fine", *SYNTHETIC, "--pose", "no_such_net"], "pose is 'no_such_net', which timm does not know"),
        (["train-fine", *SYNTHETIC, "--prompts", 1], "--prompts"),
        (["train-fine", *SYNTHETIC, "--prompts", 4, "--keep-words"], "--keep-words and --prompts 4 exclude each other"),
    ]
    for number, (arguments, says) in enumerate(cases):
        refused(says, *arguments, "--output", tmp_path / f"out{number}")
    (tmp_path / "file").write_text("not a folder")
    refused("file cannot be made", "train-coarse", *SYNTHETIC, "--output", tmp_path / "file")
    refused("cannot be made", "train-fine", *SYNTHETIC, "--output", tmp_path / "file" / "run")
