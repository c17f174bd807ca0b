"""``hybrid-encoder demo``: a short one, and how it refuses wrong input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from hybrid_encoder import HybridDepthModel


def test_a_short_demo_writes_an_image_and_weights(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    arguments = ("--coarse-steps", 3, "--fine-steps", 2, "--drives", 2, "--cpu", "--save", tmp_path / "w")
    code, out, _ = run("demo", "--output", tmp_path / "demo.png", *arguments)
    assert code == 0
    assert "lane points in the right order: 0." in out
    assert "abs_rel (median-scaled) on held-out drives: 0." in out
    assert Image.open(tmp_path / "demo.png").size[0] > 1000
    assert "demo --coarse-steps 3 --fine-steps 2 --drives 2 --seed 0" in (tmp_path / "w" / "README.md").read_text()
    assert HybridDepthModel.from_pretrained(tmp_path / "w").config.size == (96, 320)


def test_wrong_input_is_refused_in_one_sentence(refused: Callable[..., None], tmp_path: Path) -> None:
    refused("is not a folder", "demo", "--output", tmp_path / "no" / "demo.png")
    refused("is a folder; give the path of a file", "demo", "--output", tmp_path)
    refused("--fine-steps", "demo", "--fine-steps", 0)
    refused("--drives", "demo", "--drives", 1)
