from .kitti import KittiDrive
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
from .sequences import Frames, KittiSequences, SyntheticSequences
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
    "Frames",
    "KittiDrive",
    "KittiSequences",
    "OrderedDepth",
    "OrderedPatches",
    "PatchBatch",
    "PointCloud",
    "SurroundFrame",
    "SyntheticBatch",
    "SyntheticDrive",
    "SyntheticFrame",
    "SyntheticLanes",
    "SyntheticSequences",
    "SyntheticSurround",
    "TuSimpleLanes",
    "VideoFrames",
    "VideoWriter",
    "collate",
    "depth_files",
    "lidar_frames",
    "ordered_points_from_depth",
    "render_drives",
    "synthetic_batch",
    "unprojected",
    "write_cloud",
    "write_tusimple",
]
