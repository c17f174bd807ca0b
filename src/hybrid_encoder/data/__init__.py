"""Images with ground truth: rendered drives, readers of public data sets, reading and writing of images."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
