from .depth_words import bin_centers, language_depth
from .logits import joint_logits, pixel_prompt_logits
from .prompts import DepthPrompts

__all__ = ["DepthPrompts", "bin_centers", "joint_logits", "language_depth", "pixel_prompt_logits"]
