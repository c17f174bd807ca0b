from . import segmentation_models_pytorch

__all__ = [
    "segmentation_models_pytorch",
]
