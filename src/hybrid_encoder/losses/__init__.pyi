from .captions import caption_contrastive_loss
from .coarse import (
    CoarseLoss,
    CoarsePatchLoss,
    Sampling,
    patch_contrastive_loss,
    patch_features,
    patch_order_accuracy,
    patch_ranking_loss,
)
from .distillation import distillation_loss
from .photometric import Reprojection, photometric_error, reprojection_loss, smoothness_loss
from .pixel_language import PixelLanguageLoss, pixel_language_loss
from .self_distillation import multi_crop_loss, self_distillation_loss, sinkhorn

__all__ = [
    "CoarseLoss",
    "CoarsePatchLoss",
    "PixelLanguageLoss",
    "Reprojection",
    "Sampling",
    "caption_contrastive_loss",
    "distillation_loss",
    "multi_crop_loss",
    "patch_contrastive_loss",
    "patch_features",
    "patch_order_accuracy",
    "patch_ranking_loss",
    "photometric_error",
    "pixel_language_loss",
    "reprojection_loss",
    "self_distillation_loss",
    "sinkhorn",
    "smoothness_loss",
]
