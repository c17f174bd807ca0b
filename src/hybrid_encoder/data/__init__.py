"""Pictures with ground truth: rendered drives and readers of public data sets. Names load on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid_encoder.data.kitti import KittiDrive
    from hybrid_encoder.data.ordered import (
        OrderedDepth,
        OrderedPatches,
        PatchBatch,
        collate,
        depth_files,
        lidar_frames,
        ordered_points_from_depth,
    )
    from hybrid_encoder.data.sequences import Frames, KittiSequences, SyntheticSequences
    from hybrid_encoder.data.synthetic import (
        SyntheticBatch,
        SyntheticDrive,
        SyntheticFrame,
        synthetic_batch,
        write_tusimple,
    )
    from hybrid_encoder.data.tusimple import SyntheticLanes, TuSimpleLanes

_HOME = {
    "kitti": ("KittiDrive",),
    "ordered": (
        "OrderedDepth",
        "OrderedPatches",
        "PatchBatch",
        "collate",
        "depth_files",
        "lidar_frames",
        "ordered_points_from_depth",
    ),
    "sequences": ("Frames", "KittiSequences", "SyntheticSequences"),
    "synthetic": ("SyntheticBatch", "SyntheticDrive", "SyntheticFrame", "synthetic_batch", "write_tusimple"),
    "tusimple": ("SyntheticLanes", "TuSimpleLanes"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

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
    "synthetic_batch",
    "write_tusimple",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
