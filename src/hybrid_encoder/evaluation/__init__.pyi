from .kitti_scale import fit_kitti_scale
from .metrics import CROPS, DepthMetrics, depth_metrics
from .protocols import evaluate_kitti, frames_with_lidar, kitti_frames
from .scale import ScaleFit, fit_scale, scale_from_camera_height
from .stereo_scale import MONODEPTH2_STEREO_SCALE, scale_from_stereo

__all__ = [
    "CROPS",
    "MONODEPTH2_STEREO_SCALE",
    "DepthMetrics",
    "ScaleFit",
    "depth_metrics",
    "evaluate_kitti",
    "fit_kitti_scale",
    "fit_scale",
    "frames_with_lidar",
    "kitti_frames",
    "scale_from_camera_height",
    "scale_from_stereo",
]
