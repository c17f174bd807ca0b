from .base import FrameSource
from .cache import CachedSource, cached
from .folder import FolderSource
from .kitti_raw import KittiSource
from .motion import choose_items
from .opening import describe, open_sources
from .rendered import RenderedSource
from .video import VideoSource

__all__ = [
    "CachedSource",
    "FolderSource",
    "FrameSource",
    "KittiSource",
    "RenderedSource",
    "VideoSource",
    "cached",
    "choose_items",
    "describe",
    "open_sources",
]
