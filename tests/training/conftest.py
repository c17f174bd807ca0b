"""What all tests of training share."""

from __future__ import annotations

from helpers.threads import one_thread

__all__ = ["one_thread"]
