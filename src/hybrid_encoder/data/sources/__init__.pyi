from .base import FrameSource
from .cache import CachedSource, cached
from .cityscapes import CityscapesSource, cityscapes_sources
from .folder import FolderSource
from .kitti_odometry import KittiOdometrySource, kitti_odometry_sources
from .kitti_raw import KittiSource
from .motion import choose_items
from .nuscenes import NuScenesSource, nuscenes_sources
from .opening import describe, open_sources
from .rendered import RenderedSource
from .tartanair import TartanAirSource, tartanair_sources
from .video import VideoSource

__all__ = [
    "CachedSource",
    "CityscapesSource",
    "FolderSource",
    "FrameSource",
    "KittiOdometrySource",
    "KittiSource",
    "NuScenesSource",
    "RenderedSource",
    "TartanAirSource",
    "VideoSource",
    "cached",
    "choose_items",
    "cityscapes_sources",
    "describe",
    "kitti_odometry_sources",
    "nuscenes_sources",
    "open_sources",
    "tartanair_sources",
]
