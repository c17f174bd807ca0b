from .clip import ClipStage
from .clip_measures import measure_clip, measure_objects
from .dino import DinoHead, DinoStage, MultiCrop, Views, collate_views
from .dino_measures import measure_dino
from .recipes import CLIP, DINO, ClipRecipe, DinoRecipe
from .regions import CaptionBatch, CaptionedFrame, CaptionedRegions, collate_captions, shuffled_captions
from .running import pretrain_clip, pretrain_dino
from .saving import save_clip, save_dino, vocabulary_tokens

__all__ = [
    "CLIP",
    "DINO",
    "CaptionBatch",
    "CaptionedFrame",
    "CaptionedRegions",
    "ClipRecipe",
    "ClipStage",
    "DinoHead",
    "DinoRecipe",
    "DinoStage",
    "MultiCrop",
    "Views",
    "collate_captions",
    "collate_views",
    "measure_clip",
    "measure_dino",
    "measure_objects",
    "pretrain_clip",
    "pretrain_dino",
    "save_clip",
    "save_dino",
    "shuffled_captions",
    "vocabulary_tokens",
]
