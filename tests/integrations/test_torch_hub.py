"""torch.hub on a clone, and on what it downloads: also where the package is not installed."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hybrid_encoder import HybridDepthEncoder, HybridDepthModel

from helpers.plugs import plugs

CLONE = Path(__file__).resolve().parents[2]
REPOSITORY = "somebody/hybrid-encoder:main"
IMPORTED_AS = {"open_clip_torch": "open_clip", "pillow": "PIL", "pyyaml": "yaml"}

# Hides the package where it is installed, and what hubconf.py does not ask for. torch.hub comes before all of it.
SCRIPT = """
import sys
from pathlib import Path

import torch

clone, hidden, picture = sys.argv[1], set(sys.argv[2].split(",")), sys.argv[3]
installed = [path for path in sys.path if Path(path, "hybrid_encoder").is_dir() and not Path(path, "torch").is_dir()]
sys.path[:] = [path for path in sys.path if path not in installed]

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
model = torch.hub.load(clone, "hybrid_depth", weights="tiny", source="local")
images = torch.load(picture)
torch.save((model(images), model.infer(images[0]).relative_depth), picture)

import hybrid_encoder

assert Path(hybrid_encoder.__file__).is_relative_to(clone), hybrid_encoder.__file__
assert not hidden & {name.partition(".")[0] for name in sys.modules}, hidden & set(sys.modules)
"""


def _dependencies() -> list[str]:
    tree = ast.parse((CLONE / "hubconf.py").read_text(encoding="utf-8"))
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    (found,) = (node.value for node in assigned if ast.unparse(node.targets[0]) == "dependencies")
    return list(ast.literal_eval(found))


def _declared() -> set[str]:
    text = (CLONE / "pyproject.toml").read_text(encoding="utf-8").split("\ndependencies = [")[1].split("\n]")[0]
    names = re.findall(r'^  "([\w-]+)', text, re.MULTILINE)
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The clone as torch.hub unpacks a repository's archive: links are files that hold their target."""
    folder = tmp_path / "hub" / "somebody_hybrid-encoder_main"
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(CLONE / "src", folder / "src", symlinks=True, ignore=skipped)
    shutil.copy(CLONE / "hubconf.py", folder)
    link = folder / "src" / "hybrid_encoder" / "adapters"
    link.unlink(missing_ok=True)
    link.write_text("../../adapters")
    return folder


@plugs("torch", '`hub.load(..., source="local")`', "build", "run", "load")
def test_entries_are_the_models_of_the_package() -> None:
    images = torch.rand(1, 3, 96, 320, generator=torch.Generator().manual_seed(0))
    model: Any = torch.hub.load(str(CLONE), "hybrid_depth", weights="tiny", source="local")
    assert not model.training
    assert torch.equal(model(images), HybridDepthModel.from_pretrained("tiny")(images))
    encoder: Any = torch.hub.load(str(CLONE), "hybrid_encoder", source="local")
    expected = HybridDepthEncoder.from_pretrained("tiny")(images)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(encoder(images), expected, strict=True))
    torch.manual_seed(0)
    fresh: Any = torch.hub.load(str(CLONE), "hybrid_encoder", weights=None, config="tiny", source="local")
    torch.manual_seed(0)
    assert torch.equal(fresh.eval()(images)[3], HybridDepthEncoder("tiny", pretrained=False).eval()(images)[3])


@plugs("torch", "`hub.list`, `hub.help`, `hub.load` of a repository", "build", "load")
def test_a_repository_that_torch_hub_has_downloaded(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(archive.parent))
    assert sorted(torch.hub.list(REPOSITORY, trust_repo=True)) == ["hybrid_depth", "hybrid_encoder"]
    for entry in ("hybrid_depth", "hybrid_encoder"):
        assert "[0, 1]" in torch.hub.help(REPOSITORY, entry, trust_repo=True)
    model: Any = torch.hub.load(REPOSITORY, "hybrid_depth", trust_repo=True)
    images = torch.rand(1, 3, 96, 320, generator=torch.Generator().manual_seed(0))
    assert not model.training and torch.equal(model(images), HybridDepthModel.from_pretrained("tiny")(images))


@pytest.mark.slow
def test_without_an_installation_and_with_nothing_but_the_dependencies(archive: Path, tmp_path: Path) -> None:
    assert set(_dependencies()) <= _declared()
    images = torch.rand(1, 3, 96, 320, generator=torch.Generator().manual_seed(0))
    torch.save(images, tmp_path / "picture.pt")
    hidden = ",".join(sorted(_declared() - {*_dependencies(), "filelock", "pyyaml"}))
    command = [sys.executable, "-c", SCRIPT, str(archive), hidden, str(tmp_path / "picture.pt")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    disparity, depth = torch.load(tmp_path / "picture.pt")
    model = HybridDepthModel.from_pretrained("tiny")
    assert torch.equal(disparity, model(images).detach())
    expected = model.infer(images[0]).relative_depth
    assert expected is not None and torch.equal(depth, expected)
