"""Public weights: what their names mean, what the cache holds, and how they are downloaded."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
