from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_encoder.adapters.patching import legacy, replacing
from hybrid_encoder.adapters.patching.hook import HOOK

from helpers.toy_repository import Repo


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repo]:
    root = tmp_path / "checkout"
    monkeypatch.syspath_prepend(str(root))
    repo = Repo(root)
    yield repo
    for handle in list(replacing.ACTIVE):
        handle.undo()
    assert HOOK not in sys.meta_path and not HOOK.listeners
    assert legacy.active_shims(root) is None
    for name in repo.names():
        del sys.modules[name]
