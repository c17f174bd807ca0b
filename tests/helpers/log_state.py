"""Whether a piece of code leaves the program's logging as it was."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

LIBRARIES = ("torch.onnx", "onnxscript", "onnx_ir", "onnxruntime", "open_clip")


def _state() -> dict[str, object]:
    root = logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in LIBRARIES}
    return {"level": root.level, "handlers": list(root.handlers), "filters": list(root.filters), **levels}


@contextlib.contextmanager
def logging_unchanged() -> Iterator[None]:
    """Run a block as in a program that has not configured logging, and assert that the block has not done so either."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []  # without pytest's, logging.warning would configure the root logger
    before = _state()
    try:
        yield
        assert _state() == before
    finally:
        root.handlers = handlers
