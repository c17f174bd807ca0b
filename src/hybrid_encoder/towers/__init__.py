"""The image towers: CLIP's through open_clip, DINO's through timm or transformers."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
