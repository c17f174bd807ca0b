from .bev import BEV, BevRecipe, BevStage, bev_model, start_scale, train_bev
from .bev_items import BevItem, SurroundMaps
from .bev_results import constant_map, evaluate_bev, refuse_seen_seeds
from .coarse import CoarseStage, coarse_encoder, order_accuracy, train_coarse
from .fine import fine_model, fine_stage, train_fine
from .fine_motion import shrink
from .fine_networks import FineNetworks
from .loop import Trained, train
from .loop_config import LoopConfig
from .pictures import FinePictures
from .recipes import COARSE, FINE, CoarseRecipe, FineRecipe
from .running import train_stage
from .stage import Stage
from .stage_recipe import StageRecipe
from .stepping import NonFiniteLossError
from .validation import FineValidation
from .view_synthesis import FineStage

__all__ = [
    "BEV",
    "COARSE",
    "FINE",
    "BevItem",
    "BevRecipe",
    "BevStage",
    "CoarseRecipe",
    "CoarseStage",
    "FineNetworks",
    "FinePictures",
    "FineRecipe",
    "FineStage",
    "FineValidation",
    "LoopConfig",
    "NonFiniteLossError",
    "Stage",
    "StageRecipe",
    "SurroundMaps",
    "Trained",
    "bev_model",
    "coarse_encoder",
    "constant_map",
    "evaluate_bev",
    "fine_model",
    "fine_stage",
    "order_accuracy",
    "refuse_seen_seeds",
    "shrink",
    "start_scale",
    "train",
    "train_bev",
    "train_coarse",
    "train_fine",
    "train_stage",
]
