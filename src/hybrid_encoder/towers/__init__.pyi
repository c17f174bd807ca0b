from .base import Tower, fit_to_patches, patch_grid
from .dino import SpatialTower
from .dino_convnext import ConvNextTower
from .dino_transformers import TransformersTower
from .semantic import SemanticTower, build_clip
from .spatial import TimmTower, build_spatial

__all__ = [
    "ConvNextTower",
    "SemanticTower",
    "SpatialTower",
    "TimmTower",
    "Tower",
    "TransformersTower",
    "build_clip",
    "build_spatial",
    "fit_to_patches",
    "patch_grid",
]
