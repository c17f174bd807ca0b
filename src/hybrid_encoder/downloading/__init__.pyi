from .cache import find_cached
from .names import explain_backbone
from .network import ask, reason_of
from .weights import downloads, hub_folder, timm_weights, uploads

__all__ = ["ask", "downloads", "explain_backbone", "find_cached", "hub_folder", "reason_of", "timm_weights", "uploads"]
