"""What predicts the camera's motion between two frames, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from hybrid_encoder.config.architectures import TIMM, ModelName
from hybrid_encoder.config.checking import Count, Within, check_fields, check_table
from hybrid_encoder.config.serialization import Serializable

Side = Annotated[int, Within(32, 8192)]


@dataclass(frozen=True)
class PoseConfig(Serializable):
    """A network on two images or a layer on two class tokens, and how it was trained.

    Args:
        kind: ``"network"`` or ``"class_token"``.
        backbone: of a network, the name of a timm model.
        channels: of a network's convolutions, or of one class token.
        options: of a network's ``timm.create_model``, those of the architecture.
        size: (H, W) of the images that it was trained on; None where that is not known.
        resample: how these were resized.
        unit: of translations: that of the depth that it was trained with (``"depth"``), or that depth's harmonic mean
            over the first image (``"mean depth"``), as training with direct alignment has it.
        metric: the unit of depth is the metre.
    """

    kind: Literal["network", "class_token"] = "network"
    backbone: ModelName = "resnet18"
    channels: Count = 256
    options: dict[str, Any] = field(default_factory=dict)
    size: tuple[Side, Side] | None = None
    resample: Literal["bilinear", "lanczos"] = "bilinear"
    unit: Literal["depth", "mean depth"] = "depth"
    metric: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "pose.")
        check_table(TIMM, self.options, "pose.options")
