"""Depth as a distribution over bins: how likely each depth is in every cell of a feature map.

Depth is z, along the camera's axis, as everywhere in this library. A distribution is (B, D, h, w), near before far; its
values are from 0 up and add up to 1, or to less where a part of a cell's depth is unknown or outside of the bins: what
is there cannot be placed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.language.depth_words import bin_centers

Size = tuple[int, int]
Spacing = Literal["uniform", "log"]


@dataclass(frozen=True)
class DepthBins:
    """Depths at which the feature of a cell can be placed.

    Args:
        near, far: the first and the last of them, in metres.
        count: how many.
        spacing: even steps of depth (``"uniform"``) or of its logarithm (``"log"``).

    Raises:
        ConfigError: fewer than 2, not 0 < near < far, or another spacing.
    """

    near: float = 1.0
    far: float = 60.0
    count: int = 60
    spacing: Spacing = "uniform"

    def __post_init__(self) -> None:
        if self.count < 2 or not 0 < self.near < self.far < math.inf:
            raise ConfigError(
                f"{self.count} depths from {self.near} to {self.far} m; at least 2 and 0 < near < far are needed."
            )
        if self.spacing not in ("uniform", "log"):
            raise ConfigError(f"spacing is {self.spacing!r}; it must be 'uniform' or 'log'.")

    def centres(self) -> Tensor:
        """Return the depths in metres, near to far, float32, (D,)."""
        if self.spacing == "log":
            return bin_centers(self.count, self.near, self.far)
        return torch.linspace(self.near, self.far, self.count, dtype=torch.float64).float()

    def position(self, depth: Tensor) -> Tensor:
        """Return where depths are among the bins: 0 at the first centre, D - 1 at the last one; any shape."""
        if self.spacing == "log":
            return (depth.log() - math.log(self.near)) * ((self.count - 1) / math.log(self.far / self.near))
        return (depth - self.near) * ((self.count - 1) / (self.far - self.near))

    def from_depth(self, depth: Tensor, size: Size) -> Tensor:
        """Return how the depths of a map are spread in every cell of a coarser one.

        A depth is split between the two bins beside it, linearly, so that the mean stays; a cell has the mean of its
        pixels. Gradients reach the depth.

        Args:
            depth: in metres, (B, 1, H, W). NaN, what is not above 0, and what is more than half a bin beyond the first
                or the last one, counts as unknown.
            size: (h, w) of the cells; not above (H, W).

        Returns:
            (B, D, h, w), float32. Sums are the share of a cell's pixels whose depth is known.

        Raises:
            InputError: another shape, or more cells than pixels.

        Example:
            >>> bins = DepthBins(1.0, 3.0, 3)
            >>> bins.from_depth(torch.tensor([[[[1.0, 1.25], [2.0, 9.0]]]]), (1, 1)).flatten()
            tensor([0.4375, 0.3125, 0.0000])
        """
        (h, w), shape = size, tuple(depth.shape)
        if len(shape) != 4 or shape[1] != 1 or shape[2] < h or shape[3] < w:
            raise InputError(f"depth is {shape}; (B, 1, H, W) with at least {h} x {w} pixels is needed.")
        batch, _, height, width = shape
        depth = depth.float()
        known = depth.detach() > 0
        position = self.position(torch.where(known, depth, self.near))
        within = known & (position.detach() >= -0.5) & (position.detach() <= self.count - 0.5)
        position = position.clamp(0, self.count - 1)
        lower = position.detach().floor().clamp(max=self.count - 2)
        upper_share = position - lower
        rows = torch.arange(height, device=depth.device) * h // height
        columns = torch.arange(width, device=depth.device) * w // width
        cell = rows[:, None] * w + columns
        pixels = torch.zeros(h * w, device=depth.device).index_add(0, cell.flatten(), depth.new_ones(height * width))
        index = (lower.long() * (h * w) + cell).flatten(1)
        shares = torch.stack([1 - upper_share, upper_share]) * within
        zeros = depth.new_zeros(batch, self.count * h * w)
        spread = zeros.scatter_add(1, index, shares[0].flatten(1)).scatter_add(1, index + h * w, shares[1].flatten(1))
        shares_of_cells: Tensor = spread.unflatten(1, (self.count, h * w)) / pixels
        return shares_of_cells.view(batch, self.count, h, w)

    def from_language(self, logits: Tensor, depths: Tensor, size: Size) -> Tensor:
        """Return the distribution that pixel-language logits say.

        The softmax over the prompts is read off at the cells, bilinearly; what a prompt has goes to the two bins beside
        the depth that it stands for.

        Args:
            logits: (B, n, h', w'), near before far.
            depths: in metres, that the prompts stand for (:func:`hybrid_encoder.language.bin_centers`), (n,), or (B, n)
                where they are others in other images.
            size: (h, w) of the cells.

        Returns:
            (B, D, h, w), float32; what prompts say of depths outside of the bins is left out.

        Raises:
            InputError: another number of depths than of prompts.
        """
        if logits.ndim != 4 or depths.shape not in (logits.shape[1:2], logits.shape[:2]):
            raise InputError(
                f"logits are {tuple(logits.shape)} and depths {tuple(depths.shape)}; (B, n, h, w) and (n,) are needed."
            )
        said = F.interpolate(logits.float().softmax(1), size, mode="bilinear", align_corners=False)
        position = self.position(depths.float().expand(logits.shape[:2]))[:, None]  # (B, 1, n)
        bins = torch.arange(self.count, device=logits.device)[:, None]
        within = (position >= -0.5) & (position <= self.count - 0.5)
        shares = (1 - (position.clamp(0, self.count - 1) - bins).abs()).clamp(min=0) * within  # (B, D, n)
        return torch.einsum("bdn,bnhw->bdhw", shares, said)

    def uniform(self, batch: int, size: Size, device: torch.device | None = None) -> Tensor:
        """Return the distribution of somebody who knows nothing: 1 / D everywhere, (batch, D, h, w)."""
        return torch.full((batch, self.count, *size), 1 / self.count, device=device)


class LearnedDepth(nn.Module):
    """A distribution made of features by a 1 x 1 convolution and a softmax, as Lift-Splat-Shoot has it.

    Args:
        channels: of the features.
        count: number of bins D.
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.logits = nn.Conv2d(channels, count, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Take features (B, C, h, w) to a distribution (B, D, h, w), float32."""
        logits: Tensor = self.logits(features)
        return logits.float().softmax(1)


class DepthUncertainty(nn.Module):
    """What predicted depth needs before it is a distribution: its scale, and how far it may be off; both are learned.

    Args:
        scale: metres in one unit of depth, to begin with.
        width: standard deviation in bins, to begin with.

    Attributes:
        log_scale, log_width: logarithms of the two.
    """

    def __init__(self, scale: float = 1.0, width: float = 1.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.log_width = nn.Parameter(torch.tensor(math.log(width)))

    def metres(self, depth: Tensor) -> Tensor:
        """Return depth in metres, float32."""
        return depth.float() * self.log_scale.exp()

    def spread(self, distribution: Tensor) -> Tensor:
        """Return a distribution (B, D, h, w) blurred along D by a Gaussian; nothing is lost at the ends."""
        bins = torch.arange(distribution.shape[1], device=distribution.device, dtype=torch.float32)
        distance = (bins[:, None] - bins) * (-self.log_width).exp()
        kernel = torch.softmax(-0.5 * distance.square(), dim=0)  # a column says where one bin's share goes
        return torch.einsum("ed,bdhw->behw", kernel, distribution.float())
