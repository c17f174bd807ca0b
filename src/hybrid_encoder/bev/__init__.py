"""Bird's-eye view: camera features lifted by depth and pooled on a metric grid of the ground."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
