from .frames import Frames, make_frames
from .kitti import KittiDrive
from .nuscenes_tables import NuScenesTables, SensorTrack
from .ordered import (
    OrderedDepth,
    OrderedPatches,
    PatchBatch,
    collate,
    depth_files,
    lidar_frames,
    ordered_points_from_depth,
)
from .point_clouds import PointCloud, unprojected, write_cloud
from .poses import Trajectory, read_trajectory, write_trajectory
from .sequences import Item, KittiSequences, SourceSequences, SyntheticSequences
from .sources import (
    CachedSource,
    FolderSource,
    FrameSource,
    KittiSource,
    RenderedSource,
    VideoSource,
    cached,
    choose_items,
    open_sources,
)
from .street import StreetDrive, StreetFrame, StreetObject, render_streets
from .synthetic import (
    SurroundFrame,
    SyntheticBatch,
    SyntheticDrive,
    SyntheticFrame,
    SyntheticSurround,
    render_drives,
    synthetic_batch,
    write_tusimple,
)
from .tusimple import SyntheticLanes, TuSimpleLanes
from .video import VideoFrames, VideoWriter

__all__ = [
    "CachedSource",
    "FolderSource",
    "FrameSource",
    "Frames",
    "Item",
    "KittiDrive",
    "KittiSequences",
    "KittiSource",
    "NuScenesTables",
    "OrderedDepth",
    "OrderedPatches",
    "PatchBatch",
    "PointCloud",
    "RenderedSource",
    "SensorTrack",
    "SourceSequences",
    "StreetDrive",
    "StreetFrame",
    "StreetObject",
    "SurroundFrame",
    "SyntheticBatch",
    "SyntheticDrive",
    "SyntheticFrame",
    "SyntheticLanes",
    "SyntheticSequences",
    "SyntheticSurround",
    "Trajectory",
    "TuSimpleLanes",
    "VideoFrames",
    "VideoSource",
    "VideoWriter",
    "cached",
    "choose_items",
    "collate",
    "depth_files",
    "lidar_frames",
    "make_frames",
    "open_sources",
    "ordered_points_from_depth",
    "read_trajectory",
    "render_drives",
    "render_streets",
    "synthetic_batch",
    "unprojected",
    "write_cloud",
    "write_trajectory",
    "write_tusimple",
]
