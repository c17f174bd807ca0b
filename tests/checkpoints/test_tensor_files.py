"""Files of tensors, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hybrid_encoder.checkpoints.tensor_files import save_tensors

TENSORS = {"b": torch.arange(6.0).view(2, 3).t(), "a": torch.ones(3, dtype=torch.int64)}
TEXTS = {f"key {i}": f'Größe "{i}" \n \u2028 \x7f \t\\' for i in range(8)}


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    contents = set()
    for number in range(8):  # safetensors draws the order of the texts anew for each file
        path = tmp_path / f"{number}.safetensors"
        save_tensors(path, TENSORS, dict(sorted(TEXTS.items(), reverse=bool(number % 2))))
        contents.add(path.read_bytes())
    assert len(contents) == 1
    content = contents.pop()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0 and list(json.loads(content[8 : 8 + length])["__metadata__"]) == ["format", *sorted(TEXTS)]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, TEXTS)
    found = load_file(path)
    assert found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {"format": "pt", **TEXTS}
