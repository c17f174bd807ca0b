"""Every code block of the README and the docs runs.

All of it runs inside the test process: importing torch and the model libraries anew for each command would take longer
than the commands do. What is executed is the text of the page, but for the numbers in ``SMALLER``.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid_encoder.cli import main
from hybrid_encoder.data import SyntheticDrive, VideoWriter
from hybrid_encoder.data.images import to_pixels
from hybrid_encoder.deploy.export import OPEN_SIZES

from helpers.fake_hub import fake_hub

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKING_PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
CODE_PAGES = [page for page in PAGES if re.search(r"^```(python|bash)$", page.read_text(), flags=re.MULTILINE)]
NEWER = {  # pages that say of themselves which torch they need
    "export.md": pytest.mark.skipif(torch.__version__ < OPEN_SIZES, reason="--dynamic-size needs torch 2.11")
}

# What the tests put in place of a command's own numbers. The pages show commands that are worth typing; here it is
# enough that every part of a run is reached once.
SMALLER = {
    "--steps": "1",
    "--coarse-steps": "1",
    "--fine-steps": "1",
    "--drives": "2",  # the small recipes need more items than one drive has
}
# The same for what no option of `demo` sets: the drives that it is measured on.
HELD_OUT_DRIVES = 2

NOT_RUN: tuple[list[str], ...] = (
    ["pip"],
    ["make"],
    ["cd"],
    ["python"],
    [],
)  # these words may begin a line of a page, and are not executed


def _blocks(page: Path, languages: str) -> list[tuple[str, str]]:
    """The language and the text of a page's code blocks, in their order."""
    return re.findall(rf"^```({languages})\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def _smaller(words: list[str]) -> list[str]:
    """Put the numbers of ``SMALLER`` in place of a command's own."""
    changed = [SMALLER.get(option, word) for option, word in pairwise(words)]
    return [*words[:1], *changed]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the images and the video that the pages speak of, as the current folder; and a Hub to push to."""
    rng = np.random.default_rng(0)
    for name in ("image.jpg", "images/one.png", "images/two.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (96, 160, 3), dtype=np.uint8)).save(tmp_path / name)
    with VideoWriter(tmp_path / "drive.mp4", (96, 320), rate=10) as video:
        for frame in SyntheticDrive(seed=31, num_frames=12, height=96, width=320, turning=3.0):
            video.write(to_pixels(torch.from_numpy(frame.image)))
    monkeypatch.chdir(tmp_path)
    with fake_hub(tmp_path / "hub"):
        yield tmp_path


@pytest.fixture
def hybrid_encoder_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[list[str]], None]:
    """The program behind ``hybrid-encoder``, called with a list of arguments; a failure shows what it printed."""
    monkeypatch.setattr("hybrid_encoder.training.demonstration.NUM_HELD_OUT", HELD_OUT_DRIVES)

    def run(arguments: list[str]) -> None:
        monkeypatch.setattr(sys, "argv", ["hybrid-encoder", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, None), f"hybrid-encoder {shlex.join(arguments)}: {capsys.readouterr().err}"

    return run


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("page", [pytest.param(p, marks=NEWER.get(p.name, ()), id=p.name) for p in CODE_PAGES])
def test_code_blocks_run(page: Path, hybrid_encoder_program: Callable[[list[str]], None]) -> None:
    # The blocks of a page are one session, in their order; it does not share this file's `from __future__` imports.
    session: dict[str, object] = {"__name__": "__main__"}
    for number, (language, block) in enumerate(_blocks(page, "python|bash")):
        if language == "python":
            exec(compile(block, f"{page.name}, block {number}", "exec", dont_inherit=True), session)
            continue
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["hybrid-encoder"]:
                hybrid_encoder_program(_smaller(words[1:]))
            else:
                assert words[:1] in NOT_RUN, f"nobody tests {line!r}"


def test_smaller_numbers_take_the_place_of_those_on_a_page() -> None:
    assert _smaller(["train-coarse", "--drives", "60", "--lr", "3", "--steps", "300"]) == (
        ["train-coarse", "--drives", SMALLER["--drives"], "--lr", "3", "--steps", SMALLER["--steps"]]
    )
    assert _smaller(["info", "tiny"]) == ["info", "tiny"]


def test_the_program_also_runs_as_a_module(tmp_path: Path) -> None:
    """As ``accelerate launch -m hybrid_encoder`` on the page about training needs it, in a process of its own."""
    command = [sys.executable, "-m", "hybrid_encoder"]
    done = subprocess.run([*command, "info", "tiny"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "HybridDepthModel" in done.stdout, done.stderr[-2000:]
    done = subprocess.run([*command, "info", "absent"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.startswith("error: absent is neither a file"), done.stderr[-2000:]


def test_the_readme_shows_both_commands_and_the_monodepth2_lines_early() -> None:
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:45])
    for part in ("pip install hybrid-encoder", "make demo", "make test", "+adapters.monodepth2.patch()", "pictures/"):
        assert part in first_screen


def test_every_extra_is_on_the_page_about_installation() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    table = re.findall(r"^\| (`.+?) \|", (ROOT / "docs" / "start.md").read_text(), flags=re.MULTILINE)
    assert set(extras) <= set(re.findall(r"`(\w+)`", " ".join(table)))


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_somewhere() -> None:
    for page in LINKING_PAGES:
        for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text()):
            if "://" not in target:
                file = page.parent / target if target else page
                assert file.exists(), f"{page.name} links to {target}"
                assert not anchor or anchor in _anchors(file), f"{page.name} links to {target}#{anchor}"


@pytest.mark.slow
def test_the_page_on_other_codebases_gives_an_encoder_that_keeps_the_contract(tmp_path: Path) -> None:
    blocks = [block for _, block in _blocks(ROOT / "docs" / "your_codebase.md", "python")]
    one_class, fork, *module = blocks
    assert len(one_class.splitlines()) < 30 and len(fork.splitlines()) < 30
    assert sum(len(block.splitlines()) for block in module) < 60
    (tmp_path / "test_backbone.py").write_text("\n".join(blocks))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_backbone.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "8 passed" in done.stdout
