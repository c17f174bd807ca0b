"""Messages of libraries that write to the root logger, kept out of a user's log."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator


@contextlib.contextmanager
def quiet(*packages: str, below: int = logging.ERROR) -> Iterator[None]:
    """Drop what these packages write to the root logger.

    Levels and handlers of the root logger are as before afterwards, and messages of other code pass: some libraries
    call ``logging.warning`` itself, which configures the root logger of a program that has not done so.

    Args:
        packages: import names, such as ``"open_clip"``.
        below: messages of this level and above still pass.
    """
    parts = tuple(f"{os.sep}{package.replace('.', os.sep)}{os.sep}" for package in packages)

    def passes(record: logging.LogRecord) -> bool:
        return record.levelno >= below or not any(part in record.pathname for part in parts)

    root = logging.getLogger()
    placeholder = _LastResort()  # with any handler there, logging.warning configures nothing
    root.addFilter(passes)
    root.addHandler(placeholder)
    try:
        yield
    finally:
        root.removeHandler(placeholder)
        root.removeFilter(passes)


class _LastResort(logging.Handler):
    """A handler for a root logger that has none: it prints what Python prints of a program without any handler."""

    def emit(self, record: logging.LogRecord) -> None:
        handlers: list[logging.Handler] = []
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            handlers += logger.handlers
            logger = logger.parent if logger.propagate else None
        alone = all(isinstance(handler, _LastResort) for handler in handlers)
        if alone and self is handlers[0] and logging.lastResort and record.levelno >= logging.lastResort.level:
            logging.lastResort.handle(record)
