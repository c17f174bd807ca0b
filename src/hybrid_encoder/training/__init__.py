"""Training with language guidance: the coarse and the fine stage, their loop and their recipes."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
