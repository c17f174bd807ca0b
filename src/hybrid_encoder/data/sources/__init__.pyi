from .base import FrameSource
from .kitti_raw import KittiSource
from .rendered import RenderedSource

__all__ = [
    "FrameSource",
    "KittiSource",
    "RenderedSource",
]
