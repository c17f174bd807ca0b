from .base import EncoderHolder, HybridModel
from .decoder import DPTDecoder
from .depth import HybridDepthModel
from .depth_model import DepthModel
from .encoder import HybridDepthEncoder, HybridFeatures
from .fusion import Fusion
from .intrinsics import LearnedIntrinsics
from .matching import HybridMatchingEncoder, HybridMatchingModel, MatchingFeatures
from .neck import PyramidNeck
from .pose_network import ClassTokenPoseHead, MotionNetwork, PoseNetwork, load_motion
from .prediction import DepthPrediction
from .sizes import right_size
from .word_pictures import draw_words
from .words import DepthWords

__all__ = [
    "ClassTokenPoseHead",
    "DPTDecoder",
    "DepthModel",
    "DepthPrediction",
    "DepthWords",
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
    "draw_words",
    "load_motion",
    "right_size",
]
