"""The public names beside a committed inventory, and what importing costs."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hybrid_encoder

INVENTORY = Path(__file__).with_name("api.txt")
ROOMS = (
    "hybrid_encoder",
    "hybrid_encoder.adapters",
    "hybrid_encoder.adapters.manydepth",
    "hybrid_encoder.adapters.monodepth2",
    "hybrid_encoder.app",
    "hybrid_encoder.bev",
    "hybrid_encoder.checkpoints",
    "hybrid_encoder.data",
    "hybrid_encoder.data.street",
    "hybrid_encoder.deploy",
    "hybrid_encoder.downloading",
    "hybrid_encoder.evaluation",
    "hybrid_encoder.geometry",
    "hybrid_encoder.integrations.segmentation_models_pytorch",
    "hybrid_encoder.integrations.timm",
    "hybrid_encoder.integrations.transformers",
    "hybrid_encoder.language",
    "hybrid_encoder.losses",
    "hybrid_encoder.models",
    "hybrid_encoder.pretraining",
    "hybrid_encoder.testing",
    "hybrid_encoder.towers",
    "hybrid_encoder.training",
)


def inventory() -> list[str]:
    """Every public name of every room: name, kind and signature, and the public methods of its own classes."""
    lines = []
    for room in ROOMS:
        module = __import__(room, fromlist=["_"])
        for name in sorted(getattr(module, "__all__", None) or _defined(module)):
            lines += _describe(f"{room}.{name}", getattr(module, name))
    return lines


def _defined(module: object) -> list[str]:
    here = getattr(module, "__name__", "")
    return [n for n, v in vars(module).items() if not n.startswith("_") and getattr(v, "__module__", "") == here]


def _describe(name: str, value: object) -> list[str]:
    if inspect.ismodule(value):
        return [f"{name}: module"]
    if inspect.isclass(value) and issubclass(value, BaseException):
        return [f"{name}: exception({', '.join(base.__name__ for base in value.__bases__)})"]
    if inspect.isclass(value):
        lines = [f"{name}: class{_signature(value)}"]
        for member, method in sorted(vars(value).items()):
            if member.startswith("_"):
                continue
            if isinstance(method, property):
                lines.append(f"{name}.{member}: property")
            elif isinstance(method, classmethod | staticmethod) or inspect.isfunction(method):
                lines.append(f"{name}.{member}: method{_signature(getattr(value, member))}")
        return lines
    if callable(value):
        return [f"{name}: function{_signature(value)}"]
    return [f"{name}: {type(value).__name__}"]


def _signature(value: object) -> str:
    try:
        parameters = inspect.signature(value).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""
    # Names, order, kinds and defaults; how Python prints annotations differs from version to version.
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return str(inspect.Signature([p.replace(default="...") if _unstable(p.default) else p for p in plain]))


def _unstable(default: object) -> bool:
    return default is not inspect.Parameter.empty and not isinstance(default, bool | int | float | str | tuple | None)


def test_the_public_names_are_those_of_the_inventory() -> None:
    """After a change that is meant: ``python tests/test_api.py`` writes the inventory anew; its diff is the change."""
    assert "\n".join(inventory()) + "\n" == INVENTORY.read_text(encoding="utf-8")


def test_every_public_name_is_listed() -> None:
    assert set(hybrid_encoder.__all__) <= set(dir(hybrid_encoder))
    for name in hybrid_encoder.__all__:
        assert getattr(hybrid_encoder, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        hybrid_encoder.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_no_public_name_is_also_that_of_a_module_beside_it() -> None:
    """An import of the module, by whoever, would put it in the place of the function or class."""
    package = Path(hybrid_encoder.__file__).parent
    checked = 0
    for stub in (*package.glob("**/__init__.pyi"), *(package / "adapters").glob("**/__init__.pyi")):  # a link
        beside = {path.stem for path in stub.parent.iterdir()}
        for line in ast.parse(stub.read_text(encoding="utf-8")).body:
            if isinstance(line, ast.ImportFrom) and line.module:  # not a module itself: ``from . import name``
                checked += len(line.names)
                assert not beside & {name.asname or name.name for name in line.names}, stub
    assert checked > 200


def test_paths_may_be_text() -> None:
    """A function or a class that takes the path of a file takes its name as text, too, as all of Python does."""
    strict = []
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            called = value.__init__ if inspect.isclass(value) and not dataclasses.is_dataclass(value) else value
            if not inspect.isfunction(called):
                continue
            parameters = inspect.signature(called).parameters.values()
            strict += [f"{name}({p})" for p in parameters if re.search(r"(?<!str \| )\bPath\b", str(p.annotation))]
    assert not strict


def _loaded_after(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_loads_no_model_library() -> None:
    heavy = {"transformers", "open_clip", "timm", "torch", "matplotlib"}
    assert not heavy & _loaded_after("import hybrid_encoder")
    assert not heavy & _loaded_after("from hybrid_encoder import HybridEncoderConfig as C; C.preset('paper')")
    assert not {"transformers", "open_clip", "timm"} & _loaded_after(
        "from hybrid_encoder import HybridDepthEncoder, HybridDepthModel, adapters"
    )


def test_rooms_are_attributes_without_an_import_of_their_own() -> None:
    folder = Path(hybrid_encoder.__file__).parent
    rooms = sorted(path.stem for path in folder.iterdir() if (path / "__init__.py").is_file() or path.suffix == ".py")
    rooms = [name for name in rooms if not name.startswith("_")] + ["adapters"]
    assert {name.split(".")[1] for name in ROOMS if "." in name} < set(rooms)
    loaded = _loaded_after(f"import hybrid_encoder as h\nfor name in {rooms}: getattr(h, name)")
    assert {f"hybrid_encoder.{room}" for room in rooms} <= loaded
    assert not {"transformers", "open_clip", "timm"} & loaded
    use = "import hybrid_encoder; hybrid_encoder.losses.CoarsePatchLoss; hybrid_encoder.adapters.monodepth2.patch"
    assert "hybrid_encoder.losses.coarse" in _loaded_after(use)


if __name__ == "__main__":
    INVENTORY.write_text("\n".join(inventory()) + "\n", encoding="utf-8")
