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
from .sequences import Frames, KittiSequences, SyntheticSequences
from .synthetic import (
    SyntheticBatch,
    SyntheticDrive,
    SyntheticFrame,
    render_drives,
    synthetic_batch,
    write_tusimple,
)
from .tusimple import SyntheticLanes, TuSimpleLanes

__all__ = [
    "Frames",
    "KittiDrive",
    "KittiSequences",
    "OrderedDepth",
    "OrderedPatches",
    "PatchBatch",
    "SyntheticBatch",
    "SyntheticDrive",
    "SyntheticFrame",
    "SyntheticLanes",
    "SyntheticSequences",
    "TuSimpleLanes",
    "collate",
    "depth_files",
    "lidar_frames",
    "ordered_points_from_depth",
    "render_drives",
    "synthetic_batch",
    "write_tusimple",
]
