"""Networks of timm in stages (ConvNeXt, FastViT, ResNet): the four that end at strides 4, 8, 16 and 32.

Some have a level at stride 2 before these, some a fifth stage after them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hybrid_encoder.errors import ConfigError

STRIDES = (4, 8, 16, 32)


def is_staged(model: nn.Module) -> bool:
    """Return whether this is a network whose stages are known here."""
    from timm.models.convnext import ConvNeXt
    from timm.models.fastvit import FastVit
    from timm.models.resnet import ResNet

    return isinstance(model, ConvNeXt | FastVit | ResNet)


def prepare_stages(model: Any, what: str, fix: str) -> tuple[int, ...]:
    """Keep the four stages and what leads to them, drop what follows, and return their channels.

    Args:
        model: for which :func:`is_staged` holds; it is changed.
        what: begins the sentence of an error: ``"semantic.name is 'x'"``.
        fix: ends it.

    Raises:
        ConfigError: no stage ends at one of the strides.
    """
    names = _stage_names(model)
    levels = {row["reduction"]: (row["module"], row["num_chs"]) for row in model.feature_info if row["module"] in names}
    found = [levels[stride] for stride in STRIDES if stride in levels]
    if [name for name, _ in found] != names[: len(STRIDES)]:
        raise ConfigError(
            f"{what}, a {type(model).__name__} whose stages end at strides {', '.join(map(str, sorted(levels)))}; "
            f"{', '.join(map(str, STRIDES))} are needed: {fix}."
        )
    if hasattr(model, "stages"):
        model.stages = nn.Sequential(*list(model.stages)[: len(STRIDES)])
    for unread in ("norm_pre", "final_conv", "global_pool", "fc", "head"):
        if hasattr(model, unread):
            setattr(model, unread, nn.Identity())
    return tuple(int(channels) for _, channels in found)


def stages(model: Any) -> list[nn.Module]:
    """Return the stages, fine to coarse."""
    return [model.get_submodule(name) for name in _stage_names(model)]


def run_stem(model: Any, images: Tensor) -> Tensor:
    """Return what the first stage reads."""
    if hasattr(model, "stem"):
        x: Tensor = model.stem(images)
        return x
    x = model.maxpool(model.act1(model.bn1(model.conv1(images))))
    return x


def _stage_names(model: Any) -> list[str]:
    if hasattr(model, "stages"):
        return [f"stages.{index}" for index in range(len(model.stages))]
    return [f"layer{index}" for index in (1, 2, 3, 4)]
