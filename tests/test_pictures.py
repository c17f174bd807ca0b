"""The README's picture is what the README's code makes of the frames that it shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "pictures" / "depth.jpg"


def _rows() -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut the picture into its rows: a frame, and the depth beside it. What is white from side to side is a gap."""
    pixels = np.asarray(Image.open(PICTURE))
    inked = (pixels.min(axis=(1, 2)) < 200).astype(int)
    edges = np.flatnonzero(np.diff(inked, prepend=0, append=0)).reshape(-1, 2)
    half = (pixels.shape[1] - 6) // 2
    return [(pixels[top:bottom, :half], pixels[top:bottom, -half:]) for top, bottom in edges]


@pytest.mark.slow
@pytest.mark.parametrize("row", [0, 1], ids=["street", "driving"])
def test_the_code_of_the_readme_makes_the_picture_of_the_readme(
    row: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, shown = _rows()[row]
    monkeypatch.chdir(tmp_path)
    Image.fromarray(frame).save("image.jpg", quality=95, subsampling=0)
    code = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)[0]
    exec(compile(code, "README.md", "exec", dont_inherit=True), {})
    made = np.asarray(Image.open("predictions/image_depth.png").convert("RGB"))
    # What JPEG does to the frames and to the colours; another row's depth differs by 15 and more.
    assert np.abs(made.astype(int) - shown).mean() < 4


def test_the_picture_is_light_and_says_whose_frames_it_shows() -> None:
    assert PICTURE.stat().st_size < 150_000 and len(_rows()) == 2
    readme, beside = (ROOT / "README.md").read_text(), PICTURE.with_name("ATTRIBUTION.txt").read_text()
    for source in ("flickr.com/photos/31176607@N05/44108158051", "youtube.com/watch?v=sF0wXxZwISw"):
        assert source in readme and source in beside
    for licence in ("licenses/by/2.0", "licenses/by/3.0"):
        assert licence in readme and licence in beside
    assert "docs/pictures/depth.jpg" in readme


def test_the_badges_say_what_the_package_says_of_itself() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    versions = [x.rsplit(" ", 1)[1] for x in declared["project"]["classifiers"] if "Python :: 3." in x]
    badges = re.findall(r"^!\[([^]]*)\]\(https://img", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert badges == [
        f"Python {versions[0]} to {versions[-1]}",
        f"Licence: {declared['project']['license']}",
        f"Coverage: at least {declared['tool']['coverage']['report']['fail_under']} %",
        "Types: mypy strict",
    ]
    assert "Typing :: Typed" in declared["project"]["classifiers"] and declared["tool"]["mypy"]["strict"]
