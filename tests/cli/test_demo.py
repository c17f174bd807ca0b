"""``hybrid-encoder demo``: a short one, and how it refuses wrong input."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.errors import InputError
from hybrid_encoder.training.demonstration import run_demo
from hybrid_encoder.training.demonstration_measures import HeldOut, Report

Run = Callable[..., tuple[int, str, str]]


def test_a_short_demo_writes_an_image_and_weights(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid_encoder.training.demonstration.NUM_HELD_OUT", 4)
    arguments = ("--coarse-steps", 3, "--fine-steps", 2, "--drives", 2, "--cpu", "--save", tmp_path / "w")
    code, out, _ = run("demo", "--output", tmp_path / "demo.png", *arguments)
    assert code == 0
    for name in ("a guess; a constant  0.500", "the row; a plane", "before ", "after coarse ", "after fine "):
        assert name in out
    width, height = Image.open(tmp_path / "demo.png").size
    assert width > 1000 and height > 4 * 420 * 64 // 208
    card = " ".join((tmp_path / "w" / "README.md").read_text().split())
    assert "demo --coarse-steps 3 --fine-steps 2 --drives 2 --seed 0" in card
    assert "On 4 held-out frames" in card and "a plane fitted to each frame 0." in card
    model = HybridDepthModel.from_pretrained(tmp_path / "w")
    assert model.config.size == (64, 208) and model.config.encoder.reads_jointly


@pytest.mark.slow
def test_the_coarse_stage_puts_words_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid_encoder.training.demonstration.NUM_HELD_OUT", 8)
    steps = {"coarse_steps": 100, "fine_steps": 1, "drives": 16}
    console = Console(quiet=True)
    found = run_demo(tmp_path / "demo.png", **steps, seed=0, save=None, cpu=True, console=console)
    assert all(map(math.isfinite, found.values()))
    assert found["coarse_words"] > found["start_words"] + 0.1 and found["coarse_words"] > 0.6
    assert 0.5 < found["row_order"] < 0.8 and 0.4 < found["constant_abs_rel"] < 0.6


def test_what_is_not_finite_is_no_result() -> None:
    report = Report(HeldOut(range(1_000_000, 1_000_001), 3, (64, 208), "kitti"))
    model = HybridDepthModel("tiny", pretrained=False)
    with torch.no_grad():
        next(iter(model.decoder.parameters())).fill_(math.nan)
    with pytest.raises(InputError, match="not finite"):
        report.add("coarse", model)
    assert not report.stages


def test_wrong_input_is_refused_in_one_sentence(refused: Callable[..., None], tmp_path: Path) -> None:
    refused("is not a folder", "demo", "--output", tmp_path / "no" / "demo.png")
    refused("is a folder; give the path of a file", "demo", "--output", tmp_path)
    refused("--fine-steps", "demo", "--fine-steps", 0)
    refused("--drives", "demo", "--drives", 1)
