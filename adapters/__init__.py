"""The seam with other people's code: their repositories, as checked out by the user, with this encoder inside."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
