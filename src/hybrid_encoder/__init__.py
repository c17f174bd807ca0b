"""CLIP and DINO joined under language guidance, as one encoder for monocular depth.

Names and rooms are loaded on first use: ``import hybrid_encoder`` alone imports neither torch nor any model library.
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.2.0"

__getattr__, _names, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]


def __dir__() -> list[str]:
    return sorted(__all__)
