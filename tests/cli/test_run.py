"""``hybrid-encoder run``: how it ends is the script's own affair."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.command_line import Ended, call
from helpers.toy_repository import FILES


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small repository as the working folder; what a script changes in its process is given back."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    main = sys.modules["__main__"]
    yield tmp_path
    sys.modules["__main__"] = main
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def run_text(checkout: Path, text: str) -> Ended:
    (checkout / "script.py").write_text(text)
    return call("run", "monodepth2", "--encoder", "tiny", "--no-legacy", "--", "script.py")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("open('/nope/x')", "FileNotFoundError: [Errno 2] No such file or directory: '/nope/x'"),
        ("def f():\n    raise ValueError('mine')\nf()", "ValueError: mine"),
        ("raise MemoryError", "MemoryError"),
    ],
)
def test_a_failure_of_the_script_is_shown_as_python_shows_it(checkout: Path, text: str, says: str) -> None:
    ended = run_text(checkout, text)
    assert ended.status == 1
    assert "Traceback" in ended.err and 'script.py", line' in ended.err
    assert ended.err.rstrip().endswith(says)


@pytest.mark.parametrize(("text", "status"), [("import sys; sys.exit(7)", 7), ("pass", 0), ("raise SystemExit", 0)])
def test_the_exit_status_is_the_script_s(checkout: Path, text: str, status: int) -> None:
    ended = run_text(checkout, text)
    assert ended.status == status
    assert all(line.startswith("hybrid-encoder: hybrid encoder in ") for line in ended.err.splitlines()), ended.err


@pytest.mark.parametrize("text", ["def :", "\0", "# -*- coding: nonsense -*-\n", "é = '\udcff'"])
def test_a_text_that_is_no_program_is_refused(checkout: Path, text: str) -> None:
    (checkout / "script.py").write_bytes(text.encode("utf-8", "surrogateescape"))
    ended = call("run", "monodepth2", "--encoder", "tiny", "--", "script.py")
    assert (ended.status, ended.fault()) == (2, None), ended
    assert "script.py cannot be run" in ended.err
