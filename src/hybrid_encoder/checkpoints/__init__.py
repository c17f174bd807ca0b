"""Weights: find, read, save and describe them; ours, the published layout, and the Hub. Knows no model class."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
