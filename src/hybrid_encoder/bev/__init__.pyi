from .grid import BevGrid

__all__ = [
    "BevGrid",
]
