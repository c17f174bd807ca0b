from .base import Tower, fit_to_patches, patch_grid
from .semantic import SemanticTower, build_clip
from .spatial import SpatialTower, TimmTower, TransformersTower, build_spatial

__all__ = [
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
