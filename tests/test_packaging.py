"""What an installation holds: the same names and types from a wheel, from an sdist and from an editable install."""

from __future__ import annotations

import ast
import importlib.metadata
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import venv
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    ROOT / "src": Path(),
    ROOT / "adapters": Path("hybrid_encoder", "adapters"),
}  # folder: place when installed
BESIDE = ("benchmarks", "docs", "examples", "tests", "tools")  # in an sdist, not in a wheel
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

# As little of a Monodepth2 checkout as the adapter can be asked to patch.
NETWORKS = """
    from torch import nn

    class ResnetEncoder(nn.Module):
        def __init__(self, num_layers, pretrained, num_input_images=1):
            super().__init__()

    class DepthDecoder(nn.Module):
        def __init__(self, num_ch_enc, scales=range(4), num_output_channels=1):
            super().__init__()
"""
USE = """
    import importlib.metadata, importlib.util, json, sys

    sys.path.append(sys.argv[1])
    import hybrid_encoder
    from hybrid_encoder import adapters

    handle = adapters.monodepth2.patch("tiny")
    import networks

    encoder = networks.ResnetEncoder(18, False)
    bare = importlib.util.find_spec("adapters")
    print(json.dumps({
        "package": hybrid_encoder.__file__,
        "adapters": adapters.__file__,
        "bare adapters": bare and bare.origin,
        "version": [hybrid_encoder.__version__, importlib.metadata.version("hybrid-encoder")],
        "room": hybrid_encoder.losses.CoarsePatchLoss.__module__,
        "replaced": handle.replaced,
        "encoder": type(encoder).__module__,
        "pose encoder": type(networks.ResnetEncoder(18, False, num_input_images=2)).__module__,
    }))
"""


class Installation(NamedTuple):
    python: Path
    package: Path  # folders that the two packages must come from
    adapters: Path


def _run(*command: str | Path, cwd: Path) -> str:
    """Standard output, of a process that cannot see the tree by way of its folder or environment."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_USER")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def _installed_files() -> set[str]:
    """What must be in a wheel, by its path there: every module, and what ships beside them."""
    files = {
        (place / file.relative_to(folder)).as_posix()
        for folder, place in SOURCES.items()
        for file in [
            *folder.rglob("*.py"),
            *folder.rglob("*.pyi"),
            *folder.rglob("py.typed"),
            *folder.rglob("app/*.jpg"),
            *folder.rglob("integrations/*.json"),
            *folder.rglob("weights/**/*"),
        ]
        if file.is_file()
    }
    assert {"hybrid_encoder/py.typed", "hybrid_encoder/adapters/monodepth2.py"} <= files
    return files


def test_every_package_is_listed() -> None:
    folders = {
        ".".join((place / file.parent.relative_to(folder)).parts)
        for folder, place in SOURCES.items()
        for file in folder.rglob("*.py")
    }
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(folders)


def test_every_import_is_declared() -> None:
    """What the modules import from elsewhere stands in the dependencies or in an extra for users."""
    imported: set[str] = set()
    for folder in SOURCES:
        for file in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported.update(alias.name.split(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    imported.add(node.module.split(".")[0])
    extras = PROJECT["project"]["optional-dependencies"]
    users = [lines for name, lines in extras.items() if name not in ("dev", "docs")]
    lines = [*PROJECT["project"]["dependencies"], *itertools.chain(*users)]
    declared = {_normal(re.split(r"[^\w.-]", line)[0]) for line in lines}
    foreign = imported - sys.stdlib_module_names - {"hybrid_encoder"}
    brought_by = _brought_by(foreign)
    for name in sorted(foreign):
        distributions = {_normal(distribution) for distribution in brought_by.get(name, [name])}
        assert distributions & declared, f"{name} is imported and not declared in pyproject.toml"


def _brought_by(names: set[str]) -> dict[str, set[str]]:
    """The distributions that hold each top-level module; on Python 3.10 not all of them say so."""
    found = {name: set(told) for name, told in importlib.metadata.packages_distributions().items() if name in names}
    for distribution in importlib.metadata.distributions() if names - set(found) else ():
        for name in {file.parts[0].removesuffix(".py") for file in distribution.files or ()} & names:
            found.setdefault(name, set()).add(distribution.metadata["Name"])
    return found


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_import_is_cheap(tmp_path: Path) -> None:
    code = "import sys, hybrid_encoder, hybrid_encoder.adapters; print(*sys.modules)"
    loaded = set(_run(sys.executable, "-c", code, cwd=tmp_path).split())
    assert "hybrid_encoder.adapters" in loaded
    assert not loaded & {"torch", "torchvision", "transformers", "open_clip", "timm", "numpy", "typer"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads: the working tree stays clean, and no earlier build slips in."""
    tree = tmp_path_factory.mktemp("tree")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache")
    for name in ("src", "adapters", *BESIDE):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=skip)
    for file in ROOT.iterdir():
        if file.is_file() and not file.name.startswith("."):
            shutil.copy(file, tree)
    return tree


@pytest.fixture(scope="module", params=["tree", "tree without links", "sdist"])
def wheel(request: pytest.FixtureRequest, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the tree, and by way of the sdist (which lies beside it).

    Without links: as git on Windows may write them, text files with the path of what they link to.
    """
    output = tmp_path_factory.mktemp("dist")
    what = ["--wheel"] if request.param != "sdist" else []
    if request.param == "tree without links":
        tree = Path(shutil.copytree(tree, output / "tree", symlinks=True))
        link = tree / "src" / "hybrid_encoder" / "adapters"
        target = os.readlink(link)
        link.unlink()
        link.write_text(target)
    _run(sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", output, tree, cwd=output)
    (wheel,) = output.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_wheel_holds_what_it_must_and_nothing_else(wheel: Path) -> None:
    metadata = f"{wheel.name.rsplit('-', 3)[0]}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        licence = archive.read(f"{metadata}/licenses/LICENSE").decode()
    assert {name for name in names if not name.startswith(f"{metadata}/")} == _installed_files()
    assert licence == (ROOT / "LICENSE").read_text()


@pytest.mark.slow
def test_sdist_holds_docs_examples_and_tests(tree: Path, tmp_path: Path) -> None:
    """And adapters/ once, at the place where it stands in the repository."""
    _run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", tmp_path, tree, cwd=tmp_path)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    files = {
        file.relative_to(tree).as_posix()
        for name in ("adapters", "src", *BESIDE)
        for file in (tree / name).rglob("*")
        if file.is_file() and "src/hybrid_encoder/adapters" not in file.as_posix()
    }
    assert len(files) > 500
    files |= {"CHANGELOG.md", "CITATION.cff", "Dockerfile", "LICENSE", "Makefile", "README.md", "constraints.txt"}
    made = {name for name in names if name in ("PKG-INFO", "setup.cfg") or ".egg-info/" in name}
    assert not {name for name in files if ".egg-info/" not in name} - names
    assert not {name for name in names - made if "/" in name} - files


@pytest.fixture(scope="module")
def from_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel alone in a new environment, which borrows the dependencies of this one.

    Borrowed folders come last on the path, and as bare folders: what their .pth files do, an editable install
    of this very package among it, stays undone. They are added after pip has run, which would otherwise find
    that package there and remove it.
    """
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, symlinks=os.name != "nt")
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", python, "install"]
    _run(*pip, "--no-deps", "--no-index", "--quiet", wheel, cwd=home)
    site = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    ours = {ROOT, ROOT / "src", ROOT / "tests"}
    borrowed = [path for path in sys.path if Path(path).is_dir() and Path(path).resolve() not in ours]
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return Installation(python, site / "hybrid_encoder", site / "hybrid_encoder" / "adapters")


def _check_use(installation: Installation, folder: Path) -> None:
    """Patches a checkout from an empty folder."""
    networks = folder / "checkout" / "networks" / "__init__.py"
    networks.parent.mkdir(parents=True)
    networks.write_text(textwrap.dedent(NETWORKS))
    empty = folder / "empty"
    empty.mkdir()

    out = _run(installation.python, "-c", textwrap.dedent(USE), networks.parents[1], cwd=empty)
    found = json.loads(out.splitlines()[-1])
    assert Path(found["package"]).parent == installation.package
    assert Path(found["adapters"]).parent.resolve() == installation.adapters.resolve()
    assert found["bare adapters"] is None or Path(found["bare adapters"]).parent != installation.adapters
    assert len(set(found["version"])) == 1
    assert found["room"] == "hybrid_encoder.losses.coarse"
    assert {"networks.ResnetEncoder", "networks.DepthDecoder"} <= set(found["replaced"])
    assert found["encoder"] == "hybrid_encoder.adapters.networks"
    assert found["pose encoder"] == "networks"


@pytest.mark.slow
def test_use_from_a_wheel(from_wheel: Installation, tmp_path: Path) -> None:
    _check_use(from_wheel, tmp_path)


@pytest.mark.slow
def test_command_from_a_wheel(from_wheel: Installation, tmp_path: Path) -> None:
    command = from_wheel.python.with_name("hybrid-encoder")
    assert "predict" in _run(command, "--help", cwd=tmp_path)


@pytest.mark.slow
def test_use_from_this_environment(tmp_path: Path) -> None:
    """Where the tests run, the package is installed editable, or else as a wheel."""
    package = importlib.metadata.distribution("hybrid-encoder")
    url = json.loads(package.read_text("direct_url.json") or "{}")
    if url.get("dir_info", {}).get("editable"):
        installation = Installation(Path(sys.executable), ROOT / "src" / "hybrid_encoder", ROOT / "adapters")
    else:
        folder = Path(str(package.locate_file("hybrid_encoder"))).resolve()
        installation = Installation(Path(sys.executable), folder, folder / "adapters")
    _check_use(installation, tmp_path)


# A user's script, and what mypy must find in it.
SCRIPT = """
    import torch
    from hybrid_encoder import HybridDepthEncoder, HybridDepthModel
    from hybrid_encoder.adapters import monodepth2

    model = HybridDepthModel.from_pretrained("tiny")
    images = torch.rand(1, 3, 96, 320)
    reveal_type(model(images))
    reveal_type(HybridDepthEncoder("tiny")(images))
    reveal_type(monodepth2.patch().replaced)
"""
TYPES = ["torch._tensor.Tensor", "list[torch._tensor.Tensor]", "list[str]"]
# Large, and without a part in these types: read as Any, they leave a fifth of mypy's minute.
UNREAD = "transformers timm open_clip matplotlib accelerate huggingface_hub sympy torch.fx torch.distributed torch.onnx"
UNREAD += " torch.export torch.testing torch.ao torch._inductor torch._dynamo torch._export torch._functorch"


def _check_types(python: Path, folder: Path, cache: Path) -> None:
    script, settings = folder / "script.py", folder / "mypy.ini"
    script.write_text(textwrap.dedent(SCRIPT))
    unread = ",".join(f"{name}.*" for name in UNREAD.split())
    settings.write_text(f"[mypy]\nstrict = True\n[mypy-{unread}]\nfollow_imports = skip\n")
    mypy: list[str | Path] = [sys.executable, "-m", "mypy", "--config-file", settings, "--cache-dir", cache]
    out = _run(*mypy, "--python-executable", python, script, cwd=folder)
    assert re.findall(r'Revealed type is "(.*)"', out.replace("builtins.", "")) == TYPES, out


@pytest.fixture(scope="module")
def mypy_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


@pytest.mark.slow
def test_types_from_a_wheel(from_wheel: Installation, tmp_path: Path, mypy_cache: Path) -> None:
    _check_types(from_wheel.python, tmp_path, mypy_cache)


@pytest.mark.slow
def test_types_from_this_environment(tmp_path: Path, mypy_cache: Path) -> None:
    _check_types(Path(sys.executable), tmp_path, mypy_cache)
