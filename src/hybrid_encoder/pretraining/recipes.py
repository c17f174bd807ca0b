"""How the small foundation models are trained."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid_encoder.config.checking import check_value, field_hints
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.pretraining.dino import Targets
from hybrid_encoder.training.ranges import check_number
from hybrid_encoder.training.stage_recipe import StageRecipe, check_size


@dataclass(frozen=True)
class ClipRecipe(StageRecipe):
    """The settings of ``pretrain_clip``.

    Args:
        regions, crops: of a frame, as :class:`hybrid_encoder.pretraining.regions.CaptionedRegions` takes them.
        size: (H, W) of the frames.
        shuffle_captions: train the control, which learns how frequent captions are, and nothing of what is where.
    """

    regions: int = 12
    crops: int = 3
    size: tuple[int, int] = (64, 208)
    shuffle_captions: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_no_parts(self)
        check_number("regions", self.regions, 1, whole=True)
        check_number("crops", self.crops, 1, whole=True)
        check_size(self.size)


@dataclass(frozen=True)
class DinoRecipe(StageRecipe):
    """The settings of ``pretrain_dino``.

    Args:
        large, small: (H, W) of the views in pixels, see :class:`hybrid_encoder.pretraining.dino.MultiCrop`.
        num_small: how many small views of an image; of large ones there are two.
        prototypes, momentum, patch_weight, hidden_share, targets: of
            :class:`hybrid_encoder.pretraining.dino.DinoStage`.
        size: (H, W) of the rendered frames.
    """

    large: tuple[int, int] = (70, 210)
    small: tuple[int, int] = (42, 126)
    num_small: int = 0
    prototypes: int = 256
    momentum: float = 0.99
    patch_weight: float = 1.0
    hidden_share: float = 0.4
    targets: Targets = "sinkhorn"
    size: tuple[int, int] = (96, 320)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_no_parts(self)
        if self.ema is not None:
            raise ConfigError(
                f"ema is {self.ema}; the teacher, which is what is saved, is an average already: set momentum instead."
            )
        for name in ("large", "small", "targets"):
            check_value(field_hints(DinoRecipe)[name], getattr(self, name), name)
        for name in ("large", "small"):
            check_number(f"the shorter side of {name}", min(getattr(self, name)), 14, whole=True)
        check_number("num_small", self.num_small, 0, whole=True)
        check_number("prototypes", self.prototypes, 2, whole=True)
        check_number("momentum", self.momentum, 0, 1)
        check_number("patch_weight", self.patch_weight, 0)
        check_number("hidden_share", self.hidden_share, 0, 1)
        check_size(self.size)


def _check_no_parts(recipe: StageRecipe) -> None:
    if recipe.lr_scale:
        raise ConfigError(
            f"lr_scale names {min(recipe.lr_scale)!r}; all of the model trains at one rate: leave it out."
        )


CLIP = ClipRecipe(2e-3, 0.1, 8, steps=2500, warm_up=0.1, clip=1.0)
DINO = DinoRecipe(1e-3, 0.04, 24, steps=6000, warm_up=0.1, clip=3.0)
