"""Depth against ground truth: the seven usual numbers, and the protocols that they are measured by."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
