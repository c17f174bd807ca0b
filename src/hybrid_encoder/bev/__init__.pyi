from .depth_bins import DepthBins, DepthUncertainty, LearnedDepth
from .grid import BevGrid
from .head import BevHead
from .lift import frustum_points
from .losses import bev_loss, centre_focal, weighted_bce
from .metrics import Detections, IntersectionOverUnion, average_precision, find_centres
from .mmdet import HybridBackbone, with_prior
from .model import BevModel
from .pool import PoolPlan, plan_pool, scatter_pool, sorted_pool
from .targets import centre_map, vehicle_mask

__all__ = [
    "BevGrid",
    "BevHead",
    "BevModel",
    "DepthBins",
    "DepthUncertainty",
    "Detections",
    "HybridBackbone",
    "IntersectionOverUnion",
    "LearnedDepth",
    "PoolPlan",
    "average_precision",
    "bev_loss",
    "centre_focal",
    "centre_map",
    "find_centres",
    "frustum_points",
    "plan_pool",
    "scatter_pool",
    "sorted_pool",
    "vehicle_mask",
    "weighted_bce",
    "with_prior",
]
