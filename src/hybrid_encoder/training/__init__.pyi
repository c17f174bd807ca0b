from .coarse import CoarseStage, coarse_encoder, order_accuracy, train_coarse
from .fine import FineStage, fine_model, fine_stage, shrink, train_fine
from .loop import LoopConfig, NonFiniteLossError, Stage, train
from .recipes import COARSE, FINE, CoarseRecipe, FineRecipe, StageRecipe, train_stage

__all__ = [
    "COARSE",
    "FINE",
    "CoarseRecipe",
    "CoarseStage",
    "FineRecipe",
    "FineStage",
    "LoopConfig",
    "NonFiniteLossError",
    "Stage",
    "StageRecipe",
    "coarse_encoder",
    "fine_model",
    "fine_stage",
    "order_accuracy",
    "shrink",
    "train",
    "train_coarse",
    "train_fine",
    "train_stage",
]
