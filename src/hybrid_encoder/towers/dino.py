"""What every spatial tower gives: DINO's four maps on one grid, and its class token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from hybrid_encoder.config import SpatialConfig
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.towers.base import Grid, Tower, evenly_spread_blocks, fit_to_patches, to_map

CHOOSE_DINO = "choose a DINO one (vit_base_patch14_dinov2, vit_base_patch16_dinov3, convnext_base.dinov3_lvd1689m, ...)"


class SpatialTower(Tower):
    """A DINO network: four maps (B, C, h, w) on one grid, and the class token (B, C), or None without one.

    Args:
        config: names the model, and says which blocks' outputs are the maps.

    Attributes:
        config: what the tower was built from; with transformers, the architecture is stored in it.
        blocks: the network's blocks, first to last.
        taps: which blocks' outputs are the maps, each through the final norm.
        patch: side of a patch, and of a cell of the maps, in pixels.
        has_class_token: whether the first token is one that stands for the whole image.
        position_rule: how learned positions are resampled: ``"dinov2"``, ``"size"``, ``"library"`` (the model
            library's own way) or ``"rope"`` (rotary, nothing to resample).
    """

    model: Any  # of timm or transformers
    taps: tuple[int, ...]
    patch: int
    has_class_token: bool = True
    position_rule: str

    def __init__(self, config: SpatialConfig) -> None:
        super().__init__(config.mean, config.std)
        self.config = config

    @property
    def blocks(self) -> nn.ModuleList:
        """The network's blocks, first to last."""
        raise NotImplementedError

    def _declare_maps(self, depth: int, width: int, patch: int, rule: str) -> None:
        self.taps = self.config.blocks or evenly_spread_blocks(depth)
        if max(self.taps) >= depth or min(self.taps) < 0 or list(self.taps) != sorted(set(self.taps)):
            raise ConfigError(
                f"spatial.blocks is {self.taps}; {self.config.name} has {depth} blocks: "
                f"give four rising numbers from 0 to {depth - 1}."
            )
        self.patch = patch
        self.position_rule = rule
        self.channels = (width,) * 4
        self.strides = (patch,) * 4

    def forward(self, images: Tensor, levels: int = 4) -> tuple[list[Tensor], Tensor | None]:
        images, grid = fit_to_patches(self.normalise(images), self.patch)
        outputs, prefix = self.tokens(images, grid, levels)
        class_token = outputs[-1][:, 0] if self.has_class_token and levels == 4 else None
        return [to_map(tokens[:, prefix:], grid) for tokens in outputs], class_token

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    def class_token(self, images: Tensor) -> Tensor:
        """Return the class token of RGB in [0, 1], (B, C).

        Raises:
            ConfigError: a model without one.
        """
        self.check_class_token()
        _, token = self(images)
        assert token is not None  # as just checked
        return token

    def check_class_token(self) -> None:
        """Raise ConfigError unless the model has a class token."""
        if not self.has_class_token:
            raise ConfigError(
                f"spatial.name is {self.config.name!r}, which has no class token, and the pose is to be read off it; "
                "choose a DINO model, which has one, or a pose network."
            )

    def tokens(self, images: Tensor, grid: Grid, levels: int = 4) -> tuple[list[Tensor], int]:
        """Return the tokens (B, prefix + h * w, C) after the first ``levels`` tapped blocks and the final norm, and
        how many of them, at the front, are prefix tokens (class and registers)."""
        raise NotImplementedError
