"""The program as a whole: its commands, and how fast its help appears."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable


def test_an_unknown_command_is_refused(refused: Callable[..., None]) -> None:
    refused("No such command", "fly")


def test_every_command_has_help(run: Callable[..., tuple[int, str, str]]) -> None:
    names = ("predict", "evaluate", "info", "convert", "demo", "export", "train-coarse", "train-fine", "run")
    code, out, _ = run("--help")
    assert code == 0 and all(name in out for name in names)
    for name in names:
        code, out, _ = run(name, "--help")
        assert code == 0 and f"{name} [OPTIONS]" in out


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, hybrid_encoder.cli; print([m for m in ('torch', 'timm', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
