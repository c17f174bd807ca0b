"""Where names of a repository are replaced, and the way back. What is built in their place is none of its business."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
