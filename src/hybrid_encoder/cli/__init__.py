"""The command line: one file a command, what they share in ``options``."""

from __future__ import annotations

from hybrid_encoder.cli.entry import app, main

__all__ = ["app", "main"]
