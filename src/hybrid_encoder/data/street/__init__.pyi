from .captions import (
    DEPTH_LIMITS,
    KINDS,
    VOCABULARY,
    distance_word,
    frame_captions,
    patch_caption,
    region_captions,
)
from .drive import StreetDrive, render_streets
from .frame import StreetFrame, StreetObject

__all__ = [
    "DEPTH_LIMITS",
    "KINDS",
    "VOCABULARY",
    "StreetDrive",
    "StreetFrame",
    "StreetObject",
    "distance_word",
    "frame_captions",
    "patch_caption",
    "region_captions",
    "render_streets",
]
