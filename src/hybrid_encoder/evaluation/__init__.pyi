from .metrics import CROPS, DepthMetrics, depth_metrics
from .protocols import evaluate_kitti, frames_with_lidar

__all__ = ["CROPS", "DepthMetrics", "depth_metrics", "evaluate_kitti", "frames_with_lidar"]
