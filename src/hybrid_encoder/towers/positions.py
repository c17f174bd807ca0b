"""Learned positions of a vision transformer, resampled for another grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from hybrid_encoder.compiling import same_size
from hybrid_encoder.towers.base import Grid


def resample_positions(table: Tensor, old: Sequence[int], new: Grid, prefix: int, rule: str) -> Tensor:
    """Resample learned positions (1, prefix + h0 * w0, C) for another grid, (1, prefix + h * w, C).

    Args:
        table: the learned positions; the first ``prefix`` belong to tokens without a place.
        old, new: rows and columns.
        rule: ``"dinov2"`` (bicubic with the scale factor (n + 0.1) / n0, no antialias) or ``"size"`` (bicubic to the
            exact size, with antialias).
    """
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


def bicubic_matrices(old: Grid, new: Grid, rule: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what ``resample_positions`` does to rows and columns, as matrices (h, h0) and (w, w0)."""
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
    """Return torch's bicubic weights (n, old): four taps, those beyond an edge read the edge."""
    place = (index + 0.5) * step - 0.5
    taps = place.floor()[:, None] + torch.arange(-1, 3, device=index.device)
    weights = _cubic(place[:, None] - taps, -0.75)
    columns = torch.arange(old, dtype=torch.float32, device=index.device)
    hits = taps.clamp(0, old - 1)[..., None] == columns
    return (hits.to(weights.dtype) * weights[..., None]).sum(1)


def _bicubic_antialiased(index: Tensor, step: Tensor, old: int) -> Tensor:
    """Return torch's antialiased bicubic weights (n, old): the kernel widens as the grid shrinks, and no tap lies
    beyond an edge."""
    columns = torch.arange(old, dtype=torch.float32, device=index.device)
    weights = _cubic((columns + 0.5 - ((index + 0.5) * step)[:, None]) / step.clamp(min=1), -0.5)
    return weights / weights.sum(1, keepdim=True)


def _cubic(x: Tensor, a: float) -> Tensor:
    """Evaluate the cubic convolution kernel of Keys, "Cubic convolution interpolation for digital image processing",
    1981."""
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))
