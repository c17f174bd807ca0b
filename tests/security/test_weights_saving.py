"""A checkpoint that is saved over another one: the old one stays until the new one is whole."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from hybrid_encoder import CheckpointError, HybridDepthModel

from helpers.memory import peak, start_peak

FILES = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]


def make(seed: int, **changes: Any) -> HybridDepthModel:
    torch.manual_seed(seed)
    model = HybridDepthModel("tiny", pretrained=False)
    model.config = model.config.replace(**changes)
    return model


@pytest.fixture
def saved(tmp_path: Path) -> tuple[HybridDepthModel, Path]:
    model = make(0, metric=True)
    model.save_pretrained(tmp_path / "model", notes="The old one.")
    return model, tmp_path / "model"


def check_is(model: HybridDepthModel, folder: Path) -> None:
    """The folder holds this model and nothing else."""
    assert sorted(path.name for path in folder.iterdir()) == FILES
    loaded = HybridDepthModel.from_pretrained(folder)
    assert loaded.config == model.config
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


class _Fails:
    """Fails the n-th time that it is called, in the way of a full disk, and does its work before."""

    def __init__(self, work: Callable[..., Any], when: int, error: Exception) -> None:
        self.work, self.left, self.error = work, when, error

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise self.error
        return self.work(*arguments, **options)


FULL = OSError(28, "No space left on device")
FAILURES = {
    "writing the weights": (
        "hybrid_encoder.checkpoints.tensor_files.save_file",
        1,
        SafetensorError("I/O error: No space (os error 28)"),
    ),
    "writing the configuration": ("pathlib.Path.write_text", 1, FULL),
    "writing the card": ("pathlib.Path.write_text", 2, FULL),
    "waiting for the disk": ("os.fsync", 1, FULL),
    "waiting for the disk again": ("os.fsync", 2, FULL),
    "the first replacement": ("os.replace", 1, FULL),
}


@pytest.mark.parametrize("where", FAILURES)
def test_a_full_disk_leaves_the_old_checkpoint(
    where: str, saved: tuple[HybridDepthModel, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, folder = saved
    name, when, error = FAILURES[where]
    module, attribute = name.rsplit(".", 1)
    with monkeypatch.context() as patch:
        found: Any = sys.modules.get(module)
        if found is None:
            parent, kind = module.rsplit(".", 1)
            found = getattr(__import__(parent), kind)
        work = getattr(found, attribute)
        fails = _Fails(work, when, error)
        patch.setattr(found, attribute, lambda *arguments, **options: fails(*arguments, **options))
        with pytest.raises(OSError, match="No space left on device"):
            make(1).save_pretrained(folder)
    check_is(old, folder)


def test_a_limit_on_the_size_of_files(saved: tuple[HybridDepthModel, Path]) -> None:
    """The system itself refuses, in the middle of the weights."""
    old, folder = saved
    new = make(1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            new.save_pretrained(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    check_is(old, folder)


def test_a_disk_of_8_megabytes(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"a small disk can only be mounted by root: {mount.stderr.strip()}")
    try:
        old = make(0)
        old.save_pretrained(disk / "model")
        with pytest.raises(OSError, match="No space left on device"):
            make(1).save_pretrained(disk / "model")
        check_is(old, disk / "model")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def save_for_ever(folder: Path, models: list[HybridDepthModel]) -> int:
    """Start a process that saves one model over the other until it is killed; return its number."""
    started, ready = os.pipe()
    child = os.fork()
    if child:
        os.close(ready)
        assert os.read(started, 1) == b"x"
        os.close(started)
        return child
    try:
        os.write(ready, b"x")
        while True:
            for model in models:
                model.save_pretrained(folder)
    finally:
        os._exit(1)


def kill_while_saving(folder: Path, times: int) -> None:
    models = [make(0), make(1)]
    models[0].save_pretrained(folder)
    draw = random.Random(0)
    seen = set()
    for _ in range(times):
        child = save_for_ever(folder, models)
        time.sleep(draw.uniform(0.05, 0.4))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        state = HybridDepthModel.from_pretrained(folder).state_dict()
        same = [all(torch.equal(state[name], value) for name, value in model.state_dict().items()) for model in models]
        assert any(same)
        seen.add(same.index(True))
    assert times < 10 or seen == {0, 1}


def test_a_kill_while_saving_leaves_one_or_the_other(tmp_path: Path) -> None:
    kill_while_saving(tmp_path, 2)


@pytest.mark.campaign
def test_30_kills_while_saving(tmp_path: Path) -> None:
    kill_while_saving(tmp_path, 30)


class TestWhatIsReplaced:
    def test_the_whole_checkpoint_its_card_too(self, saved: tuple[HybridDepthModel, Path]) -> None:
        _, folder = saved
        new = make(1, metric=False)
        new.save_pretrained(folder, notes="The new one.")
        check_is(new, folder)
        card = (folder / "README.md").read_text()
        assert "The new one." in card and "The old one." not in card and "unknown (relative)" in card

    def test_a_readme_of_another_kind_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_text("# My project\n")
        (tmp_path / "notes.txt").write_text("mine")
        make(0).save_pretrained(tmp_path)
        assert (tmp_path / "README.md").read_text() == "# My project\n"
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, "notes.txt"])

    def test_a_file_is_not_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "model").write_text("mine")
        (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
        for name in ("model", "nowhere"):
            with pytest.raises(CheckpointError, match=rf"{name} is a file; a model is saved into a folder"):
                make(0).save_pretrained(tmp_path / name)
        assert (tmp_path / "model").read_text() == "mine"

    def test_others_may_read_what_is_saved(self, saved: tuple[HybridDepthModel, Path]) -> None:
        _, folder = saved
        umask = os.umask(0)
        os.umask(umask)
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666 & ~umask}


LARGER: list[tuple[str, Any]] = [
    ("encoder.spatial.overrides.embed_dim", 3072),
    ("encoder.spatial.overrides.img_size", 3500),
    ("encoder.semantic.overrides.embed_dim", 4096),
    ("encoder.semantic.overrides.vision_cfg.width", 1024),
    ("encoder.semantic.overrides.vision_cfg.layers", [40, 40, 40, 40]),
    ("encoder.semantic.overrides.text_cfg.width", 4096),
    ("encoder.semantic.overrides.text_cfg.layers", 64),
    ("encoder.fusion.channels", 4096),
    ("encoder.prompts.num_tokens", 1000),
    ("decoder.features", 4096),
    ("decoder.head_channels", 4096),
    ("decoder.channels", [4096, 4096, 4096, 4096]),
]


@pytest.mark.parametrize(("field", "value"), LARGER, ids=[field for field, _ in LARGER])
def test_a_configuration_larger_than_its_file(field: str, value: Any, saved: tuple[HybridDepthModel, Path]) -> None:
    """It is compared with the file before anything of that size is allocated."""
    _, folder = saved
    content = json.loads((folder / "config.json").read_text())
    *path, last = field.split(".")
    place = content["config"]
    for name in path:
        place = place[name]
    assert last in place or "overrides" in path
    place[last] = value
    (folder / "config.json").write_text(json.dumps(content))
    start, before = time.monotonic(), start_peak()
    with pytest.raises(CheckpointError):
        HybridDepthModel.from_pretrained(folder)
    assert time.monotonic() - start < 60
    assert peak() - before < 500 * 2**20
