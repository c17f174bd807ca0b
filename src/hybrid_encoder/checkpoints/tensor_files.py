"""Write files of tensors: the same tensors and texts always give the same bytes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, final: Path | None = None
) -> None:
    """Write tensors, and texts beside them, as a safetensors file.

    Args:
        path: of the file; write to a hidden place first (:mod:`hybrid_encoder.writing`), as it appears bit by bit.
        tensors: by name, on any device.
        metadata: the texts, by name.
        final: where it goes later, which an error names.

    Raises:
        OSError: it cannot be written.
    """
    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        save_file(stored, path, metadata={"format": "pt", **(metadata or {})})
    except SafetensorError as error:
        if not (number := re.search(r"os error (\d+)", str(error))):
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(final or path)) from error
    _sort_metadata(path)


def _sort_metadata(path: Path) -> None:
    """Sort the texts in the header, whose order safetensors leaves to chance."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= length  # the same words, written as safetensors writes them, which pads them with blanks
        file.seek(8)
        file.write(text.ljust(length))
