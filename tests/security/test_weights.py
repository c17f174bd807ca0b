"""Files of weights that would run code, exhaust memory, or load as something else: each is refused in one sentence."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hybrid_encoder import CheckpointError, HybridDepthEncoder, HybridDepthModel
from hybrid_encoder.config import PromptConfig

from helpers.hostile_weights import OURS, PUBLISHED, STAGE1, Calls, Case
from helpers.memory import peak, start_peak
from helpers.published_layout import small_config, stage1_config, write_published, write_stage1
from helpers.traps import Traps

Images = torch.Tensor


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good checkpoints: ``published``, ``ours``, and ``stage1.ckpt``."""
    folder = tmp_path_factory.mktemp("good")
    torch.manual_seed(0)
    write_published(
        HybridDepthModel(small_config(prompts=PromptConfig(num_tokens=6)), pretrained=False), folder / "published"
    )
    HybridDepthModel("tiny", pretrained=False).save_pretrained(folder / "ours")
    write_stage1(HybridDepthModel(stage1_config(), pretrained=False), folder / "stage1.ckpt")
    return folder


@pytest.fixture
def good(kept: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the good checkpoints, to be damaged."""
    yield shutil.copytree(kept, tmp_path / "good")
    shutil.rmtree(tmp_path / "good")  # pytest would keep it, and there are many


@contextmanager
def within_limits(seconds: float = 10, megabytes: float = 1000) -> Iterator[None]:
    start, before = time.monotonic(), start_peak()
    yield
    assert time.monotonic() - start < seconds
    assert peak() - before < megabytes * 2**20


def refused(load: Callable[[], Any], says: str) -> None:
    with within_limits(), pytest.raises(CheckpointError) as error:
        load()
    sentence = str(error.value)
    assert says in sentence
    assert sentence.isprintable() and sentence.endswith((".", "name the folder."))


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case.name)
def test_a_hostile_file_of_the_published_layout(case: Case, good: Path, traps: Traps) -> None:
    case.write(good / "published", traps)
    refused(lambda: HybridDepthModel.from_pretrained(good / "published"), case.says)


@pytest.mark.parametrize("case", OURS, ids=lambda case: case.name)
def test_a_hostile_file_of_ours(case: Case, good: Path, traps: Traps) -> None:
    case.write(good / "ours", traps)
    refused(lambda: HybridDepthModel.from_pretrained(good / "ours"), case.says)


@pytest.mark.parametrize(("name", "content", "says", "how"), STAGE1, ids=[row[0] for row in STAGE1])
@pytest.mark.parametrize("old", [False, True], ids=["today's format", "old format"])
def test_a_hostile_stage_1_file(
    name: str, content: Any, says: str, how: dict[str, Any], old: bool, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "x.ckpt", _use_new_zipfile_serialization=not old)
    refused(lambda: HybridDepthEncoder.from_pretrained(tmp_path / "x.ckpt"), says)


@pytest.mark.parametrize("old", [False, True], ids=["today's format", "old format"])
def test_code_beside_the_tensors_does_not_run(good: Path, traps: Traps, old: bool) -> None:
    """It is an object that is not read, like options; the weights are."""
    for file, place in ((good / "published" / "encoder.pth", None), (good / "stage1.ckpt", "state_dict")):
        content = torch.load(file, weights_only=True)
        content["opt"] = traps.trap()
        (content if place is None else content[place])["more"] = Calls(eval, f"open({str(traps.sprung)!r}, 'w')")
        torch.save(content, file, _use_new_zipfile_serialization=not old)
    HybridDepthModel.from_pretrained(good / "published")
    HybridDepthEncoder.from_pretrained(good / "stage1.ckpt")


def _prefixed(prefix: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda content: {prefix + k if isinstance(v, torch.Tensor) else k: v for k, v in content.items()}


FOREIGN: dict[str, tuple[Callable[[dict[str, Any]], Any], dict[str, Any]]] = {
    "module.": (_prefixed("module."), {}),
    "_orig_mod.": (_prefixed("_orig_mod."), {}),
    "both": (_prefixed("module._orig_mod."), {}),
    "both, the other way": (_prefixed("_orig_mod.module."), {}),
    "model.": (_prefixed("model."), {}),
    "old torch format": (lambda content: content, {"_use_new_zipfile_serialization": False}),
    "newer pickle protocol": (lambda content: content, {"pickle_protocol": 4}),
    "numpy integer": (lambda content: {**content, "height": np.int64(70)}, {}),
    "numpy float": (lambda content: {**content, "loss": np.float32(0.5), "best": np.float64(1)}, {}),
    "a tensor as a size": (
        lambda content: {**content, "height": torch.tensor(70)} if "height" in content else content,
        {},
    ),
    "options": (lambda content: {**content, "opt": argparse.Namespace(lr=1, out=Path("x"))}, {}),
    "an epoch and a name": (lambda content: {**content, "epoch": 3, "name": "run 5", "when": None}, {}),
    "model": (lambda content: {"model": content, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, "epoch": 3}, {}),
    "state_dict": (lambda content: {"state_dict": content, "hyper_parameters": {"lr": 1}}, {}),
    "model_state_dict, old": (
        lambda content: {"model_state_dict": content, "rng": np.random.default_rng(0)},
        {"_use_new_zipfile_serialization": False},
    ),
    "parameters": (
        lambda content: {k: torch.nn.Parameter(v) if "weight" in k else v for k, v in content.items()},
        {},
    ),
    "half precision": (lambda content: content, {}),
    "other memory layouts": (
        lambda content: {
            k: v.T.contiguous().T if torch.is_tensor(v) and v.ndim == 2 else v for k, v in content.items()
        },
        {},
    ),
    "views of one storage": (lambda content: _packed(content), {}),
}


def _packed(content: dict[str, Any]) -> dict[str, Any]:
    names = [name for name, value in content.items() if torch.is_tensor(value) and value.dtype == torch.float32]
    whole, at = torch.cat([content[name].flatten() for name in names]), 0
    for name in names:
        content[name] = whole[at : at + content[name].numel()].view_as(content[name])
        at += content[name].numel()
    return content


@pytest.mark.parametrize("name", FOREIGN)
def test_what_training_code_writes_is_read(name: str, good: Path, images: Images) -> None:
    change, how = FOREIGN[name]
    with torch.no_grad():
        expected = HybridDepthModel.from_pretrained(good / "published")(images)
        for file in ("encoder.pth", "depth.pth"):
            content = torch.load(good / "published" / file, weights_only=True)
            torch.save(change(content), good / "published" / file, **how)
        loaded = HybridDepthModel.from_pretrained(good / "published")
        torch.testing.assert_close(loaded(images), expected, rtol=0, atol=0)
    assert loaded.config.size == (70, 98)


def test_parameters_share_no_memory(good: Path) -> None:
    """Weights saved as views of one storage, or under two names, train apart."""
    file = good / "published" / "encoder.pth"
    torch.save(_packed(torch.load(file, weights_only=True)), file)
    parameters = list(HybridDepthModel.from_pretrained(good / "published").parameters())
    assert len({parameter.untyped_storage().data_ptr() for parameter in parameters}) == len(parameters)
    assert all(parameter.untyped_storage().nbytes() == parameter.nbytes for parameter in parameters)


class TestTheFileChangesAfterwards:
    @pytest.mark.parametrize("layout", ["ours", "published"])
    @pytest.mark.parametrize("change", ["rewritten", "cut", "deleted"])
    def test_a_loaded_model_keeps_its_numbers(self, layout: str, change: str, good: Path, images: Images) -> None:
        model = HybridDepthModel.from_pretrained(good / layout)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        for file in [f for f in (good / layout).iterdir() if f.suffix in (".pth", ".safetensors")]:
            if change == "deleted":
                file.unlink()
                continue
            with open(file, "r+b") as opened:
                size = os.fstat(opened.fileno()).st_size
                opened.truncate(0)
                if change == "rewritten":
                    opened.write(b"\xff" * size)
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
        with torch.no_grad():
            assert model(images).isfinite().all()

    def test_a_file_that_is_cut_while_it_is_read(self, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from hybrid_encoder.checkpoints import files, stored

        file = good / "ours" / "model.safetensors"
        load = stored.load

        def cut(*arguments: Any) -> Any:
            os.truncate(file, file.stat().st_size // 2)
            return load(*arguments)

        monkeypatch.setattr(files, "load", cut)
        refused(lambda: HybridDepthModel.from_pretrained(good / "ours"), "became shorter while it was read")


class TestRunsAndFiles:
    def test_the_weights_file_of_a_folder_stands_for_the_folder(self, good: Path) -> None:
        for file in ("ours/model.safetensors", "ours/config.json", "published/encoder.pth", "published/depth.pth"):
            loaded = HybridDepthModel.from_pretrained(good / file)
            folder = HybridDepthModel.from_pretrained((good / file).parent)
            torch.testing.assert_close(loaded.state_dict(), folder.state_dict(), rtol=0, atol=0)

    def test_what_a_run_resumes_from_is_refused_by_naming_final(self, good: Path, tmp_path: Path) -> None:
        step = tmp_path / "run" / "checkpoints" / "step_00000100"
        step.mkdir(parents=True)
        (tmp_path / "run" / "run.json").write_text("{}")
        (step / "model.safetensors").write_bytes((good / "ours" / "model.safetensors").read_bytes())
        (tmp_path / "run" / "pose.safetensors").write_bytes((good / "ours" / "model.safetensors").read_bytes())
        for source in (step, step / "model.safetensors", tmp_path / "run", tmp_path / "run" / "pose.safetensors"):
            refused(lambda: HybridDepthModel.from_pretrained(source), str(tmp_path / "run" / "final"))  # noqa: B023


@pytest.mark.parametrize(
    "source",
    [
        "x" * 5000,
        "org/" + "x" * 5000,
        "~nosuchuser/x",
        "~nosuchuser",
        "a\0b",
        "org/a\0b",
        "org/na me",
        "org/..",
        "../x/y",
        "org//name",
        "-/name",
        "org/name\n",
        "örg/name",
        "org/\ud800",
        "",
        " ",
        "http://example.com",
        "hf-hub:org/name",
        "org/name@main",
        "org\\name/x",
        "org/name.safetensors",
    ],
    ids=lambda name: ascii(name[:20]),
)
def test_a_name_that_cannot_be_on_the_hub_is_not_asked_for(source: str, traps: Traps) -> None:
    """The traps refuse any request, and note it."""
    with pytest.raises(CheckpointError) as error:
        HybridDepthModel.from_pretrained(source)
    assert str(error.value).isprintable()
    assert not traps.requests


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_a_source_that_is_no_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        import socket

        socket.socket(socket.AF_UNIX).bind(str(path)[-100:] if len(str(path)) < 100 else "x.ckpt")
    refused(lambda: HybridDepthModel.from_pretrained(path), "x.ckpt")
