from .depth_words import bin_centers, language_depth
from .logits import pixel_prompt_logits
from .prompts import DepthPrompts

__all__ = ["DepthPrompts", "bin_centers", "language_depth", "pixel_prompt_logits"]
