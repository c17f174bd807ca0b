"""The examples run, and say at once what they show and what to type."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from helpers.checkouts import DATA, DRIVE

FOLDER = Path(__file__).parents[1] / "examples"
SHIPPED = FOLDER.parent / "src/hybrid_encoder/weights/tiny"


def _run(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, *arguments: str) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(FOLDER / name), run_name="__main__")


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.name)
def test_the_first_lines_say_what_to_type(file: Path) -> None:
    first_lines = "\n".join(file.read_text().splitlines()[:12])
    assert re.search(rf"python \S*/{file.name}\b", first_lines)


@pytest.mark.slow
def test_both_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _run(monkeypatch, tmp_path, "train_synthetic.py", "--steps", "1", "--drives", "2", "--size", "64x208")
    order, error = re.findall(r"held out: (\d\.\d+)", capsys.readouterr().out)
    assert 0.3 < float(order) <= 1 and 0 < float(error) < 1
    assert (tmp_path / "runs/example/fine/final/model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("label_weight", [0.0, 1.0])
def test_the_weights_in_the_package(label_weight: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script writes what the package holds: the same tensors in half precision, the same configuration."""
    small = ["--drives", "20", "--coarse-steps", "2", "--steps", "2", "--label-weight", str(label_weight)]
    _run(monkeypatch, tmp_path, "train_tiny.py", *small)
    final = tmp_path / "runs/tiny/final"
    assert (final / "config.json").read_text() == (SHIPPED / "config.json").read_text()
    made, shipped = (load_file(folder / "model.safetensors") for folder in (final, SHIPPED))
    assert {name: (x.dtype, x.shape) for name, x in made.items()} == {n: (x.dtype, x.shape) for n, x in shipped.items()}
    assert all(x.isfinite().all() for x in made.values() if x.is_floating_point())
    assert ("as a label" in (final / "README.md").read_text()) == bool(label_weight)


@pytest.mark.slow
def test_birds_eye_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(monkeypatch, tmp_path, "bev.py", "--steps", "1", "--drives", "4", "--scenes", "1")
    assert len(Image.open(tmp_path / "bev.png").convert("RGB").getcolors(1 << 24) or ()) > 1000


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="no KITTI frames here")
def test_matching_on_real_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(monkeypatch, tmp_path, "match_kitti.py", str(DATA / DRIVE), "--frame", "2", "--lookup", "1", "3")
    found = re.findall(r"^(\w+): cheapest bin (\S+), best constant (\S+),", capsys.readouterr().out, re.MULTILINE)
    assert [name for name, *_ in found] == ["rgb", "tiny"]
    assert all(float(bins) < 0.7 * float(constant) for _, bins, constant in found)  # 0.15 and 0.20 of 0.40
