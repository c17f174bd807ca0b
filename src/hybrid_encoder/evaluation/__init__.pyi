from .baselines import evaluate_baselines
from .cityscapes import cityscapes_samples
from .depth_archives import read_depth_archive, write_depth_archive
from .eigen import eigen_depth
from .evaluating import Compared, compare, evaluate
from .frame_lists import Frame, read_frame_list
from .ground_truth import annotated_depth, archive_samples, export_depths, kitti_samples, with_archive
from .kitti import evaluate_kitti
from .kitti_listing import frames_with_lidar, kitti_frames
from .kitti_scale import fit_kitti_scale
from .leaks import Leak, find_leak, refuse_leak
from .make3d import make3d_samples
from .metrics import CROPS, DepthMetrics, depth_metrics
from .model_predictors import MatchingPredictor, ModelPredictor, blend_flipped
from .nyu import nyu_samples
from .ordering import WordOrder, measure_word_order, random_pairs, word_order
from .parts import DISTANCES, PartMean, label_regions, mean_parts, parts_of
from .pictures import Example, error_map, worst_and_best
from .pose import PoseResults, evaluate_trajectory, mean_results
from .pose_pictures import draw_paths
from .predictors import FunctionPredictor, Prediction, Predictor, SavedPredictions
from .protocols import PROTOCOLS, Protocol
from .report import write_report
from .results import Evaluation, ImageResult
from .samples import Sample
from .scale import ScaleFit, fit_scale, scale_from_camera_height
from .stereo_scale import MONODEPTH2_STEREO_SCALE, scale_from_stereo
from .tracking import Tracker, control_paths, true_path

__all__ = [
    "CROPS",
    "DISTANCES",
    "MONODEPTH2_STEREO_SCALE",
    "PROTOCOLS",
    "Compared",
    "DepthMetrics",
    "Evaluation",
    "Example",
    "Frame",
    "FunctionPredictor",
    "ImageResult",
    "Leak",
    "MatchingPredictor",
    "ModelPredictor",
    "PartMean",
    "PoseResults",
    "Prediction",
    "Predictor",
    "Protocol",
    "Sample",
    "SavedPredictions",
    "ScaleFit",
    "Tracker",
    "WordOrder",
    "annotated_depth",
    "archive_samples",
    "blend_flipped",
    "cityscapes_samples",
    "compare",
    "control_paths",
    "depth_metrics",
    "draw_paths",
    "eigen_depth",
    "error_map",
    "evaluate",
    "evaluate_baselines",
    "evaluate_kitti",
    "evaluate_trajectory",
    "export_depths",
    "find_leak",
    "fit_kitti_scale",
    "fit_scale",
    "frames_with_lidar",
    "kitti_frames",
    "kitti_samples",
    "label_regions",
    "make3d_samples",
    "mean_parts",
    "mean_results",
    "measure_word_order",
    "nyu_samples",
    "parts_of",
    "random_pairs",
    "read_depth_archive",
    "read_frame_list",
    "refuse_leak",
    "scale_from_camera_height",
    "scale_from_stereo",
    "true_path",
    "with_archive",
    "word_order",
    "worst_and_best",
    "write_depth_archive",
    "write_report",
]
