"""Messages of libraries are dropped while they work; the program's own logging is left alone."""

from __future__ import annotations

import logging
import os

import pytest

from hybrid_encoder import HybridDepthEncoder
from hybrid_encoder.quiet import quiet

from helpers.log_state import logging_unchanged


def _record(package: str, level: int) -> logging.LogRecord:
    path = os.sep.join(["", "site-packages", package, "module.py"])
    return logging.LogRecord("root", level, path, 1, "told", None, None)


def test_only_messages_of_the_named_packages_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    root = logging.getLogger()
    with quiet("noisy"):
        root.handle(_record("noisy", logging.WARNING))
        root.handle(_record("noisy", logging.ERROR))
        root.handle(_record("other", logging.WARNING))
        logging.getLogger("an.application").warning("of another logger")
    root.handle(_record("noisy", logging.WARNING))
    found = [(record.levelname, record.pathname.split(os.sep)[-2]) for record in caplog.records]
    assert found[:2] == [("ERROR", "noisy"), ("WARNING", "other")] and found[3] == ("WARNING", "noisy")
    assert caplog.records[2].message == "of another logger" and len(found) == 4


def test_a_failure_restores_the_root_logger() -> None:
    with logging_unchanged(), pytest.raises(RuntimeError), quiet("noisy"):
        logging.warning("this would configure the root logger")
        raise RuntimeError


def test_building_clip_leaves_the_root_logger_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_unchanged():
        HybridDepthEncoder("tiny", pretrained=False)
    assert "WARNING" not in capfd.readouterr().err


def test_a_program_without_handlers_sees_the_messages_of_other_code(capfd: pytest.CaptureFixture[str]) -> None:
    own = logging.getLogger("with.a.handler")
    handler = logging.StreamHandler()
    own.addHandler(handler)
    with logging_unchanged(), quiet("noisy"), quiet("loud"):
        for package, level in (("noisy", logging.WARNING), ("other", logging.INFO), ("other", logging.WARNING)):
            logging.getLogger().handle(_record(package, level))
        logging.getLogger("an.application").warning("of another logger")
        own.warning("once")
    own.removeHandler(handler)
    assert capfd.readouterr().err.splitlines() == ["told", "of another logger", "once"]
