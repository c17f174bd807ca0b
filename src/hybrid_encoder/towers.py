"""What both image towers share: one small contract, normalisation, positions.

Every tower declares ``channels`` and ``strides`` (pixels per cell, for each of its four maps) as data, takes
RGB in [0, 1] of shape (B, 3, H, W) and normalises it itself. The semantic tower gives four maps; the spatial
tower gives four maps on one grid and the class token of its last block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import Self

from hybrid_encoder.config import Triple
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.remember import Remembered

Grid = tuple[int, int]


class Tower(nn.Module):
    """What both towers share: normalisation, and recomputing activations in the backward pass."""

    mean: Tensor
    std: Tensor
    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(self, mean: Triple, std: Triple) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.identity_norm = not any(mean) and all(value == 1 for value in std)
        self.grad_checkpointing = False
        self._positions = Remembered()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._positions.clear()  # a move to another dtype or device and back changes values, not versions
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> Self:
        """Training mode for what trains; wholly frozen parts stay in evaluation mode, batch norm included."""
        super().train(mode)
        if mode:
            keep_frozen_still(self)
        return self

    def freeze_positions(self) -> None:
        """Keep the positions of the sizes seen so far as they are, for an export."""
        self._positions.freeze()

    def normalise(self, images: Tensor) -> Tensor:
        images = images.to(self.mean.dtype)
        return images if self.identity_norm else (images - self.mean) / self.std

    def run(self, block: Callable[..., Tensor], *args: Any) -> Tensor:
        """One block, recomputed in the backward pass when gradient checkpointing is on."""
        if not (self.grad_checkpointing and self.training and torch.is_grad_enabled()):
            return block(*args)
        modules = block.modules() if isinstance(block, nn.Module) else iter(())
        norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
        result: Tensor = checkpoint(
            block, *args, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _still(norms))
        )
        return result


def keep_frozen_still(module: nn.Module) -> None:
    """Put wholly frozen parts into evaluation mode (batch norm would go on moving its statistics)."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
        return
    for child in module.children():
        keep_frozen_still(child)


@contextlib.contextmanager
def _still(norms: list[nn.BatchNorm2d]) -> Iterator[None]:
    """The recomputation must not move batch-norm statistics a second time."""
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


def cells(length: int, patch: int) -> int:
    """How many patches lie nearest to a length, at least 1: ``round(length / patch)``, in whole numbers alone, which
    compilers and ONNX follow."""
    return max(1, (2 * length + patch - 1 + length // patch % 2) // (2 * patch))


def fit_to_patches(images: Tensor, patch: int) -> tuple[Tensor, Grid]:
    """Images resized (bilinear) to the nearest whole number of patches, and that grid."""
    height, width = images.shape[-2:]
    grid = (cells(height, patch), cells(width, patch))
    size = (grid[0] * patch, grid[1] * patch)
    if not same_size(size, (height, width)):
        images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    return images, grid


def known(fact: bool) -> bool:
    """Whether something about sizes is known to be true; where a compiler leaves the sizes open it is not, and asking
    outright would tie the compiled graph to the answer."""
    if not torch.compiler.is_compiling():
        return fact
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(fact)


def same_size(a: Grid, b: Grid) -> bool:
    """Whether two sizes are equal, as far as that is known."""
    return known(a[0] == b[0]) and known(a[1] == b[1])


def bicubic_matrices(old: Grid, new: Grid, rule: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """What ``resample_positions`` does to rows and columns, as matrices (h, h0) and (w, w0)."""
    counts = [torch.scalar_tensor(n, dtype=torch.float32, device=device) for n in new]
    if rule == "dinov2":
        same = (counts[0] == old[0]) & (counts[1] == old[1])
        counts = [torch.where(same, n, n + 0.1) for n in counts]
    make = _bicubic if rule == "dinov2" else _bicubic_antialiased
    rows, columns = (
        make(torch.arange(n, dtype=torch.float32, device=device), before / count, before)
        for n, count, before in zip(new, counts, old, strict=True)
    )
    return rows, columns


def _bicubic(index: Tensor, step: Tensor, old: int) -> Tensor:
    """torch's bicubic weights (n, old): four taps, those beyond an edge read the edge."""
    place = (index + 0.5) * step - 0.5
    taps = place.floor()[:, None] + torch.arange(-1, 3, device=index.device)
    weights = _cubic(place[:, None] - taps, -0.75)
    columns = torch.arange(old, dtype=torch.float32, device=index.device)
    hits = taps.clamp(0, old - 1)[..., None] == columns
    return (hits.to(weights.dtype) * weights[..., None]).sum(1)


def _bicubic_antialiased(index: Tensor, step: Tensor, old: int) -> Tensor:
    """torch's antialiased bicubic weights (n, old): the kernel widens as the grid shrinks; no tap beyond an edge."""
    columns = torch.arange(old, dtype=torch.float32, device=index.device)
    weights = _cubic((columns + 0.5 - ((index + 0.5) * step)[:, None]) / step.clamp(min=1), -0.5)
    return weights / weights.sum(1, keepdim=True)


def _cubic(x: Tensor, a: float) -> Tensor:
    """Keys' cubic convolution kernel ("Cubic convolution interpolation for digital image processing", 1981)."""
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


def resample_positions(table: Tensor, old: Sequence[int], new: Grid, prefix: int, rule: str) -> Tensor:
    """Learned positions (1, prefix + h0 * w0, C) for another grid, (1, prefix + h * w, C)."""
    if same_size((old[0], old[1]), new):
        return table
    kept, grid = table[:, :prefix], table[:, prefix:]
    grid = rearrange(grid, "b (h w) c -> b c h w", h=old[0], w=old[1]).float()
    if torch.compiler.is_compiling():
        # Bicubic resampling ties a graph to one size; as matrices it leaves the size open, and ONNX has them too.
        rows, columns = bicubic_matrices((old[0], old[1]), new, rule, table.device)
        grid = F.linear(F.linear(grid, columns).transpose(2, 3), rows).transpose(2, 3)
    elif rule == "dinov2":
        # The published weights were trained with this scale factor, and it moves the sampling points a little.
        scale = ((new[0] + 0.1) / old[0], (new[1] + 0.1) / old[1])
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
    else:
        grid = F.interpolate(grid, size=new, mode="bicubic", align_corners=False, antialias=True)
    grid = rearrange(grid, "b c h w -> b (h w) c").to(table.dtype)
    return torch.cat([kept, grid], dim=1)


def to_map(tokens: Tensor, grid: Grid) -> Tensor:
    """(B, h * w, C) to (B, C, h, w)."""
    return rearrange(tokens, "b (h w) c -> b c h w", h=grid[0], w=grid[1])


def even_taps(depth: int) -> tuple[int, ...]:
    if depth < 4:
        raise ConfigError(f"the transformer has {depth} blocks; at least 4 are needed for four maps.")
    return tuple((i + 1) * depth // 4 - 1 for i in range(4))
