"""``hybrid-encoder convert`` and ``info``: every layout and every kind of model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import hybrid_encoder
from hybrid_encoder import HybridDepthEncoder, HybridDepthModel
from hybrid_encoder.config import MODEL_CONFIGS

from helpers.published_layout import stage1_config, write_stage1

Run = Callable[..., tuple[int, str, str]]


def test_a_published_model(run: Run, published: Path, tmp_path: Path, images: Tensor) -> None:
    assert run("convert", published, tmp_path / "ours")[0] == 0
    ours, theirs = (HybridDepthModel.from_pretrained(path) for path in (tmp_path / "ours", published))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=0)
    for source, layout in ((published, "Hybrid-depth stage 2"), (tmp_path / "ours", "hybrid-encoder")):
        code, out, _ = run("info", source)
        assert code == 0
        for part in (layout, "HybridDepthModel", "6 learned tokens", "logits and maps", "interp_conv1x1", "70 x 98"):
            assert part in " ".join(out.split())
    code, _, err = run("convert", published, tmp_path / "ours")
    assert code == 2
    assert "exists already" in err


def test_a_stage_1_checkpoint(run: Run, tmp_path: Path) -> None:
    path = write_stage1(HybridDepthModel(stage1_config(), pretrained=False), tmp_path / "stage1.ckpt")
    assert run("convert", path, tmp_path / "ours")[0] == 0
    assert HybridDepthEncoder.from_pretrained(tmp_path / "ours").config.prompts is not None
    assert "7 fixed words" in run("info", path)[1]


@pytest.mark.parametrize("name", list(MODEL_CONFIGS))
def test_every_kind_of_model(run: Run, tmp_path: Path, name: str) -> None:
    kind = getattr(hybrid_encoder, name)
    torch.manual_seed(0)
    model = kind("tiny", pretrained=False)
    model.save_pretrained(tmp_path / "source")
    code, out, err = run("convert", tmp_path / "source", tmp_path / "ours", "--notes", "Random weights.")
    assert code == 0, err
    assert " ".join(out.split()).startswith(f"{name} -> ")
    loaded = kind.from_pretrained(tmp_path / "ours")
    assert loaded.config == model.config
    state = loaded.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    card = (tmp_path / "ours" / "README.md").read_text()
    assert f"# {name}\n" in card and "Random weights." in card

    code, out, err = run("info", tmp_path / "ours")
    assert code == 0, err
    rows = dict(line.split(maxsplit=1) for line in out.splitlines() if len(line.split(maxsplit=1)) == 2)
    assert rows["holds"].strip() == name
    assert rows["tensors"].startswith(f"{len(state)} with ")
    assert ("cost volume" in out or "depth bins" in out) == ("Matching" in name)
    assert ("DPT" in out) == name.endswith("Model")


def test_wrong_input_is_refused_in_one_sentence(refused: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a checkpoint")
    refused("not a checkpoint that torch can read", "info", tmp_path / "text.jpg")
    refused("is neither a file or folder nor a Hub id", "convert", tmp_path / "gone.ckpt", tmp_path / "x")
