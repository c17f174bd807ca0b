"""The command line: one module for each command; what they share is in ``options``."""

from __future__ import annotations

from hybrid_encoder.cli.entry import app, main

__all__ = ["app", "main"]
