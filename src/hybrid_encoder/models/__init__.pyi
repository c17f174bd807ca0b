from .base import EncoderHolder, HybridModel
from .decoder import DPTDecoder
from .depth import DepthModel, HybridDepthModel
from .encoder import HybridDepthEncoder, HybridFeatures
from .fusion import Fusion
from .intrinsics import LearnedIntrinsics
from .matching import HybridMatchingEncoder, HybridMatchingModel, MatchingFeatures
from .neck import PyramidNeck
from .pose_network import ClassTokenPoseHead, MotionNetwork, PoseNetwork, load_motion
from .prediction import DepthPrediction
from .sizes import right_size

__all__ = [
    "ClassTokenPoseHead",
    "DPTDecoder",
    "DepthModel",
    "DepthPrediction",
    "EncoderHolder",
    "Fusion",
    "HybridDepthEncoder",
    "HybridDepthModel",
    "HybridFeatures",
    "HybridMatchingEncoder",
    "HybridMatchingModel",
    "HybridModel",
    "LearnedIntrinsics",
    "MatchingFeatures",
    "MotionNetwork",
    "PoseNetwork",
    "PyramidNeck",
    "load_motion",
    "right_size",
]
