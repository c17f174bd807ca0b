"""What it costs to look at the weights behind kept values: the share of a forward pass spent in ``TensorCache.get``.

Kept are the prompts' matrix and the resampled positions of DINO. The time is taken inside of the forward pass itself.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from rich.table import Table

from hybrid_encoder.caching import TensorCache
from hybrid_encoder.models.depth import HybridDepthModel

CASES = (("tiny", (96, 320)), ("tiny", (192, 640)), ("paper", (192, 640)))


def shares(preset: str, size: tuple[int, int], rounds: int) -> list[tuple[float, float]]:
    """Return, for each of some forward passes, the seconds spent on kept values, and those of the whole pass."""
    model = HybridDepthModel(preset, pretrained=False).eval()
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    spent = 0.0
    get = TensorCache.get

    def timed(self: TensorCache, *args: Any) -> Any:
        nonlocal spent
        begin = time.perf_counter()
        value = get(self, *args)
        spent += time.perf_counter() - begin
        return value

    found = []
    TensorCache.get = timed  # type: ignore[method-assign, assignment]
    try:
        with torch.inference_mode():
            for turn in range(rounds + 2):
                spent, begin = 0.0, time.perf_counter()
                model(images)
                if turn > 1:  # the first one computes what is kept
                    found.append((spent, time.perf_counter() - begin))
    finally:
        TensorCache.get = get  # type: ignore[method-assign]
    return found


def table(rounds: int) -> Table:
    """Make a table of times (medians) and of their ratio (median, least to greatest)."""
    result = Table(
        "preset", "size", "kept values, ms", "forward, ms", "share, %",
        title=f"Looking at the weights behind kept values, CPU, {torch.get_num_threads()} threads",
    )  # fmt: skip
    for preset, size in CASES:
        found = shares(preset, size, rounds)
        ratios = [100 * part / whole for part, whole in found]
        times = [f"{1000 * median(column):.2f}" for column in zip(*found, strict=True)]
        share = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        result.add_row(preset, f"{size[0]} x {size[1]}", *times, share)
    return result
