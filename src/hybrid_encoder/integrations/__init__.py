"""The encoder under the interfaces of other libraries; each module registers itself with its library when imported."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
