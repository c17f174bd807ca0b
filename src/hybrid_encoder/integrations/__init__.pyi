from . import segmentation_models_pytorch, timm, transformers

__all__ = [
    "segmentation_models_pytorch",
    "timm",
    "transformers",
]
