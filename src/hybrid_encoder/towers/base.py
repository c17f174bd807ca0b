"""What both image towers share: a small contract, normalisation, and the patch grid.

Every tower declares ``channels`` and ``strides`` (pixels per cell, for each of its four maps) as data, takes
RGB in [0, 1] of shape (B, 3, H, W) and normalises it itself. The semantic tower returns four maps; the spatial
tower returns four maps on one grid and the class token of its last block. Asked for fewer ``levels``, they return the
first maps alone, and run no further than these need.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import Self

from hybrid_encoder.caching import TensorCache
from hybrid_encoder.compiling import same_size
from hybrid_encoder.config import Triple
from hybrid_encoder.errors import ConfigError

Grid = tuple[int, int]


class Tower(nn.Module):
    """Normalisation, gradient checkpointing and kept positions, for both towers.

    Args:
        mean, std: of RGB in [0, 1], by channel; subtracted and divided by inside.

    Attributes:
        channels: of each of the four maps.
        strides: pixels per cell of each map.
        taps: of a transformer, the blocks whose outputs are the maps.
        kept_positions: positions resampled for the sizes seen last.
        grad_checkpointing: recompute activations in the backward pass.
    """

    mean: Tensor
    std: Tensor
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    taps: tuple[int, ...]

    def __init__(self, mean: Triple, std: Triple) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.identity_norm = not any(mean) and all(value == 1 for value in std)
        self.grad_checkpointing = False
        self.kept_positions = TensorCache(size=8)  # EVA has two for each size

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.kept_positions.clear()  # a move to another dtype or device and back changes values, not versions
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; wholly frozen parts stay in evaluation mode, batch norm included."""
        super().train(mode)
        if mode:
            set_frozen_to_eval(self)
        return self

    def freeze_positions(self) -> None:
        """Keep the positions of the sizes seen so far as constants, for an export."""
        self.kept_positions.freeze()

    def normalise(self, images: Tensor) -> Tensor:
        """Return RGB in [0, 1] in the module's dtype, minus mean, divided by std."""
        images = images.to(self.mean.dtype)
        return images if self.identity_norm else (images - self.mean) / self.std

    def run_block(self, block: Callable[..., Tensor], *args: Any) -> Tensor:
        """Call a block; with gradient checkpointing its activations are recomputed in the backward pass."""
        if not (self.grad_checkpointing and self.training and torch.is_grad_enabled()):
            return block(*args)
        modules = block.modules() if isinstance(block, nn.Module) else iter(())
        norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
        result: Tensor = checkpoint(
            block, *args, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _statistics_kept(norms))
        )
        return result


def set_frozen_to_eval(module: nn.Module) -> None:
    """Put wholly frozen parts into evaluation mode, as batch norm would go on updating its statistics."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
        return
    for child in module.children():
        set_frozen_to_eval(child)


@contextlib.contextmanager
def _statistics_kept(norms: list[nn.BatchNorm2d]) -> Iterator[None]:
    """Keep batch-norm statistics as they are: recomputing a block must not update them a second time."""
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = count


def patch_grid(height: int, width: int, patch: int) -> Grid:
    """Return how many patches lie nearest to an image size, rows and columns, at least 1 each."""
    return _nearest_count(height, patch), _nearest_count(width, patch)


def _nearest_count(length: int, patch: int) -> int:
    # round(length / patch) in integers alone, which compilers and ONNX can follow
    return max(1, (2 * length + patch - 1 + length // patch % 2) // (2 * patch))


def fit_to_patches(images: Tensor, patch: int) -> tuple[Tensor, Grid]:
    """Resize images (bilinear) to the nearest whole number of patches, and return that grid with them."""
    height, width = images.shape[-2:]
    grid = patch_grid(height, width, patch)
    size = (grid[0] * patch, grid[1] * patch)
    if not same_size(size, (height, width)):
        images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    return images, grid


def to_map(tokens: Tensor, grid: Grid) -> Tensor:
    """Turn tokens (B, h * w, C) into a map (B, C, h, w)."""
    return rearrange(tokens, "b (h w) c -> b c h w", h=grid[0], w=grid[1])


def evenly_spread_blocks(depth: int) -> tuple[int, ...]:
    """Return the four blocks, 0-based and ending with the last, whose outputs are the maps of a transformer.

    Raises:
        ConfigError: fewer than 4 blocks.
    """
    if depth < 4:
        raise ConfigError(f"the transformer has {depth} blocks; at least 4 are needed for four maps.")
    return tuple((i + 1) * depth // 4 - 1 for i in range(4))
