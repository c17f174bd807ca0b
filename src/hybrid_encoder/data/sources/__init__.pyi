from .base import FrameSource
from .folder import FolderSource
from .kitti_raw import KittiSource
from .rendered import RenderedSource

__all__ = [
    "FolderSource",
    "FrameSource",
    "KittiSource",
    "RenderedSource",
]
