"""Small foundation models of this library's own: a CLIP and a DINO, trained offline on rendered streets."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
