from .alignment import refine_pose
from .camera import (
    Projected,
    depth_to_disparity,
    disparity_to_depth,
    intrinsics_from_fov,
    pixel_coordinates,
    project,
    resized_intrinsics,
    sample,
    transform,
    unproject,
    warp,
)
from .ground import Ground, fit_ground
from .plane_sweep import confidence_mask, depth_bins, lowest_cost_disparity, plane_sweep_cost_volume
from .pose import pose_matrix
from .trajectory import chain_motions, motions_between, similarity_between

__all__ = [
    "Ground",
    "Projected",
    "chain_motions",
    "confidence_mask",
    "depth_bins",
    "depth_to_disparity",
    "disparity_to_depth",
    "fit_ground",
    "intrinsics_from_fov",
    "lowest_cost_disparity",
    "motions_between",
    "pixel_coordinates",
    "plane_sweep_cost_volume",
    "pose_matrix",
    "project",
    "refine_pose",
    "resized_intrinsics",
    "sample",
    "similarity_between",
    "transform",
    "unproject",
    "warp",
]
