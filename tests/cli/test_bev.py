"""``hybrid-encoder train-bev`` and ``evaluate-bev``: what they write and say, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hybrid_encoder import BevModel, HybridDepthModel
from hybrid_encoder.cli import _surround

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--cpu", "--steps", 2, "--size", "32x64", "--drives", 1, "--cell", 2)


def test_train_and_evaluate(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid_encoder.cli.evaluate_bev.NUM_PRIOR", 2)
    output = tmp_path / "run"
    code, out, err = run(
        "train-bev", "synthetic", *SMALL, "--depth", "learned", "--weights", "none", "--output", output
    )
    assert code == 0, err
    assert "".join(out.split()).endswith(f"weights->{output}/final")
    told = json.loads((output / "run.json").read_text())
    assert {
        "depth": "learned",
        "weights": "none",
        "encoder_lr": 1.0,
        "steps": 2,
        "size": [32, 64],
    }.items() <= told.items()
    model = BevModel.from_pretrained(output / "final")
    assert model.config.depth == "learned" and model.grid.shape == (24, 24)

    measured = ("evaluate-bev", "synthetic", "--weights", output / "final", "--size", "32x64", "--device", "cpu")
    code, out, err = run(*measured, "--drives", 2, "--json", tmp_path / "numbers.json")
    assert code == 0, err
    assert "constant map" in out and "4 frames of 2 drives; depth: learned" in " ".join(out.split())
    assert "not all" not in out
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert 0 <= numbers["miou"] <= 1 and numbers["baselines"]["constant map"]["iou_road"] > 0.2
    assert numbers["settings"]["frames"] == 4 and numbers["settings"]["trained_on_is_known"]

    # Were the drives to be measured on those of the training, they would be refused.
    monkeypatch.setattr(_surround, "HELD_OUT", _surround.TRAINING)
    code, out, err = run(*measured, "--drives", 2)
    assert code == 2 and "trained on 1 of these 2 drives" in err


def test_a_hybrid_depth_starts_from_weights_and_is_resumed(run: Run, tmp_path: Path) -> None:
    weights = HybridDepthModel.from_pretrained("tiny")
    weights.config = weights.config.replace(min_depth=0.01, max_depth=10.0)
    weights.save_pretrained(tmp_path / "unit")
    arguments = ("train-bev", "synthetic", *SMALL, "--weights", tmp_path / "unit", "--output", tmp_path / "run")
    assert run(*arguments)[0] == 0
    model = BevModel.from_pretrained(tmp_path / "run" / "final")
    assert model.config.depth == "hybrid-disparity" and model.uncertainty is not None
    assert model.uncertainty.log_scale.exp() > 3  # depth has no unit here: the scale was found
    code, _, err = run(*arguments)
    assert code == 2 and "holds a run already" in err
    assert run(*arguments, "--resume")[0] == 0


def test_seeds_of_training_and_test_never_meet() -> None:
    last = _surround.NUM_SEEDS - 1
    assert _surround.drive_seeds(_surround.TRAINING, last, _surround.MAX_DRIVES).stop <= _surround.HELD_OUT
    assert _surround.drive_seeds(_surround.TRAINING, 0, 5).start == _surround.TRAINING


def test_refuses(refused: Callable[..., None], tmp_path: Path) -> None:
    train = ("train-bev", "synthetic", "--cpu", "--output", tmp_path)
    refused("--seed is 10000", *train, "--seed", 10000)
    refused("HEIGHTxWIDTH", *train, "--size", "wide")
    refused("nowhere", *train, "--weights", tmp_path / "nowhere")
    refused("nowhere", "evaluate-bev", "synthetic", "--weights", tmp_path / "nowhere")
    refused("'kitti' is not", "train-bev", "kitti")
