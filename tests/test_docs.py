"""Every code block of the README and the docs, and every example, runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder with the pictures that the pages speak of."""
    rng = np.random.default_rng(0)
    for name in ("picture.jpg", "pictures/one.png", "pictures/two.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (96, 160, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_run(page: Path, folder: Path) -> None:
    code = "\n".join(_blocks(page, "python"))
    if code:
        _run([sys.executable, "-c", code], folder)
    for block in _blocks(page, "bash"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["hybrid-encoder"]:
                _run([sys.executable, "-m", "hybrid_encoder", *words[1:]], folder)
            else:
                assert words[:1] in (["pip"], ["make"], ["cd"], ["python"], []), f"nobody tests {line!r}"


def test_the_readme_shows_both_commands_and_the_monodepth2_lines_early() -> None:
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:45])
    for part in ("pip install hybrid-encoder", "make demo", "make test", "+adapters.monodepth2.patch()"):
        assert part in first_screen


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.slow
def test_the_quickstart_runs(folder: Path) -> None:
    out = _run([sys.executable, str(ROOT / "examples" / "quickstart.py"), "picture.jpg"], folder)
    assert out.count("fused (1, 128, ") == 4
    assert Image.open(folder / "picture_depth.png").size == (160, 96)


@pytest.mark.slow
def test_the_page_on_other_codebases_gives_an_encoder_that_keeps_the_contract(tmp_path: Path) -> None:
    blocks = _blocks(ROOT / "docs" / "your_codebase.md", "python")
    assert sum(len(block.splitlines()) for block in blocks) < 60
    (tmp_path / "test_backbone.py").write_text("\n".join(blocks))
    out = _run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_backbone.py"], tmp_path)
    assert "8 passed" in out
