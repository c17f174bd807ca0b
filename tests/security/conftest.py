"""Every test here runs with the network closed and traps laid out; a trap that was sprung fails the test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.traps import Traps, closed_network, put_ghostscript


@pytest.fixture(autouse=True)
def traps(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Traps]:
    """Lay out the traps; after the test, fail if one was sprung."""
    place: Path = tmp_path_factory.mktemp("traps")
    laid = Traps(place / "sprung", place / "ghostscript-started")
    put_ghostscript(place / "bin", laid.ghostscript)
    monkeypatch.setenv("PATH", f"{place / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}")
    monkeypatch.setenv("HF_HOME", str(place / "hub"))  # nothing of the machine's own cache
    with closed_network(laid.requests):
        yield laid
    laid.check()
