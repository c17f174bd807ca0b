"""Single bytes of every kind of checkpoint file changed at random: an error in one sentence, or a model."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from hybrid_encoder import CheckpointError, HybridDepthEncoder, HybridDepthModel
from hybrid_encoder.checkpoints import Checkpoint, fill, read_checkpoint
from hybrid_encoder.config import PromptConfig

from helpers.memory import peak, start_peak
from helpers.published_layout import small_config, stage1_config, write_published, write_stage1

DESCRIPTION = 60_000  # bytes at either end of a file, where most of what is no tensor's value stands
KINDS: dict[str, tuple[str, Any]] = {
    "model.safetensors": ("ours", HybridDepthModel),
    "encoder.pth": ("published", HybridDepthModel),
    "depth.pth": ("published", HybridDepthModel),
    "old/encoder.pth": ("old", HybridDepthModel),
    "stage1.ckpt": ("stage1.ckpt", HybridDepthEncoder),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("good")
    torch.manual_seed(0)
    model = HybridDepthModel(small_config(prompts=PromptConfig(num_tokens=6)), pretrained=False)
    write_published(model, folder / "published")
    (folder / "old").mkdir()
    for name in ("encoder.pth", "depth.pth"):
        content = torch.load(folder / "published" / name, weights_only=True)
        torch.save(content, folder / "old" / name, _use_new_zipfile_serialization=False)
    write_stage1(HybridDepthModel(stage1_config(), pretrained=False), folder / "stage1.ckpt")
    HybridDepthModel("tiny", pretrained=False).save_pretrained(folder / "ours")
    # Half the time of building a model this small goes into its tokenizer, which no file changes.
    with mock.patch("open_clip.tokenizer.SimpleTokenizer", functools.cache(SimpleTokenizer)):
        yield folder


class Loader:
    """Loads a source; where a file describes the same model as the good one did, that one is filled, not built anew."""

    def __init__(self, source: Path, model: Any) -> None:
        self.source, self.model = source, model
        checkpoint = read_checkpoint(source)
        self.described, self.built = self.describe(checkpoint), model.from_checkpoint(checkpoint)

    def describe(self, checkpoint: Checkpoint) -> Any:
        tensors = {**checkpoint.tensors, **checkpoint.decoder_tensors}
        return checkpoint.config, {name: (value.shape, value.dtype) for name, value in tensors.items()}

    def load(self) -> None:
        checkpoint = read_checkpoint(self.source)
        if self.describe(checkpoint) == self.described:
            config, size = self.built.config, self.built.text_size()
            fill(self.built, checkpoint.state("", config, *size), checkpoint.path)
        else:
            self.model.from_checkpoint(checkpoint)


def change_bytes(kind: str, good: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Change one byte ``count`` times, or cut the file there every tenth time; return how often it loaded or not.

    Anything but a model or a ``CheckpointError`` of one sentence passes through, and so ends the test.
    """
    source, model = KINDS[kind]
    path = good / kind if kind in ("old/encoder.pth", "stage1.ckpt") else good / source / kind
    whole = path.read_bytes()
    loader = Loader(good / source, model)
    draw = random.Random(f"{kind} {seed}")
    seen = {"loaded": 0, "refused": 0}
    before = start_peak()
    for number in range(count):
        near = draw.randrange(min(DESCRIPTION, len(whole)))
        place = (near, len(whole) - 1 - near, draw.randrange(len(whole)), near)[number % 4]
        value = (whole[place] + draw.randrange(1, 256)) % 256
        with open(path, "r+b") as file:
            if number % 10 == 9:
                file.truncate(place)
            else:
                file.seek(place)
                file.write(bytes([value]))
        start, sentence = time.monotonic(), ""
        try:
            loader.load()
            seen["loaded"] += 1
        except CheckpointError as error:
            sentence = str(error)
            seen["refused"] += 1
        except BaseException as error:
            raise AssertionError(f"{kind}: byte {place} as {value}: {type(error).__name__}") from error
        assert sentence.isprintable(), (place, value)
        assert time.monotonic() - start < 60, (place, value)
        if number % 10 == 9:
            path.write_bytes(whole)
        else:
            with open(path, "r+b") as file:
                file.seek(place)
                file.write(whole[place : place + 1])
    assert peak() - before < 2**30
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_some_changed_bytes(kind: str, good: Path) -> None:
    seen = change_bytes(kind, good, 40)
    assert seen["refused"] > 1


@pytest.mark.campaign
@pytest.mark.parametrize("kind", KINDS)
def test_3000_changed_bytes(kind: str, good: Path) -> None:
    seen = change_bytes(kind, good, 3000, seed=1)
    print(kind, seen)
    assert seen["refused"] > 100
