"""The examples run, and say at once what they show and what to type."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from helpers.checkouts import DATA, DRIVE

FOLDER = Path(__file__).parents[1] / "examples"


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
    assert all(float(bins) < 0.7 * float(constant) for _, bins, constant in found)  # 0.15 and 0.24 of 0.40
