"""A bird's-eye view as frozen data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from hybrid_encoder.config.checking import Count, Within, check_fields
from hybrid_encoder.config.models import HybridDepthConfig
from hybrid_encoder.config.serialization import Serializable
from hybrid_encoder.errors import ConfigError

Metres = Annotated[float, Within(-1000, 1000)]
Depth = Annotated[float, Within(1e-3, 1000)]
DepthKind = Literal["hybrid-disparity", "hybrid-language", "learned", "uniform", "exact"]
MAX_CELLS = 2**20  # of a grid: a file that states one decides how much memory a prediction takes


@dataclass(frozen=True)
class BevConfig(Serializable):
    """A bird's-eye view: encoder, how depth is known, and the grid.

    Args:
        encoder: the depth model, whose encoder gives the features.
        depth: where the depth distribution is from: the decoder's disparity (``"hybrid-disparity"``), the
            pixel-language logits (``"hybrid-language"``), a layer of its own (``"learned"``), nowhere (``"uniform"``),
            or depth that is given with the images (``"exact"``).
        detach_depth: keep the gradient of a hybrid depth from the depth model.
        near, far, num_depths, spacing: the depths of the lift in metres (:class:`hybrid_encoder.bev.DepthBins`).
        metres_per_unit: what the scale of a hybrid depth begins with, in images whose focal length is 0.58 of their
            width, as KITTI's; a longer one sees as many times as far.
        depth_width: standard deviation of a hybrid depth in bins, to begin with.
        stride: pixels per cell of the feature maps.
        channels: of the features that are lifted.
        head_channels: inside the head.
        x_range, y_range, z_range, cell: the grid in metres (:class:`hybrid_encoder.bev.BevGrid`).
    """

    encoder: HybridDepthConfig = field(default_factory=HybridDepthConfig)
    depth: DepthKind = "hybrid-disparity"
    detach_depth: bool = False
    near: Depth = 1.0
    far: Depth = 60.0
    num_depths: Annotated[int, Within(2, 1024)] = 60
    spacing: Literal["uniform", "log"] = "uniform"
    metres_per_unit: Annotated[float, Within(1e-6, 1e6)] = 1.0
    depth_width: Annotated[float, Within(1e-2, 100)] = 1.0
    stride: Literal[4, 8, 16, 32] = 16
    channels: Count = 64
    head_channels: Count = 64
    x_range: tuple[Metres, Metres] = (-24.0, 24.0)
    y_range: tuple[Metres, Metres] = (-24.0, 24.0)
    z_range: tuple[Metres, Metres] = (-2.0, 6.0)
    cell: Annotated[float, Within(1e-2, 100)] = 0.5

    def __post_init__(self) -> None:
        check_fields(self, "")
        sides = [max(0.0, high - low) / self.cell for low, high in (self.x_range, self.y_range)]
        if sides[0] * sides[1] > MAX_CELLS:
            raise ConfigError(f"the grid has {sides[0]:.0f} x {sides[1]:.0f} cells; it may have {MAX_CELLS} at most.")
        if self.depth == "hybrid-language" and self.encoder.encoder.prompts is None:
            raise ConfigError("depth is 'hybrid-language', and the encoder has no prompts; choose another.")

    @classmethod
    def preset(cls, name: str) -> BevConfig:
        """Return a bird's-eye view on the depth model of a preset; on ``"tiny"`` it is small too."""
        encoder = HybridDepthConfig.preset(name)
        return cls(encoder, stride=8, channels=32, head_channels=32) if name == "tiny" else cls(encoder)
