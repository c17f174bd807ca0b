"""The cost volume against two loops around ``grid_sample``: one depth at a time, and all depths of a frame at once.

The second one is what ManyDepth's own code does. Sizes are the published model's: 96 bins, 56 x 168, two frames.
Peak memory is what the operating system counts (``ru_maxrss``) beyond the inputs, in a separate process.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from hybrid_encoder.geometry.plane_sweep import BORDER, depth_bins, plane_sweep_cost_volume

Sweep = Callable[..., tuple[Tensor, Tensor]]

BINS, HEIGHT, WIDTH, FRAMES = 96, 56, 168, 2
CHANNELS = (64, 256)


def inputs(channels: int, bins: int = BINS, height: int = HEIGHT, width: int = WIDTH) -> tuple[Tensor, ...]:
    """Make random features of one item and two lookup frames with a small motion."""
    generator = torch.Generator().manual_seed(0)
    K = torch.eye(4)[None].clone()
    K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2] = 0.58 * width, 1.92 * height, width / 2, height / 2
    poses = torch.eye(4).repeat(1, FRAMES, 1, 1)
    poses[0, :, :3, 3] = torch.tensor([[0.02, 0.005, 0.06], [0.04, 0.005, 0.12]])
    current = torch.randn(1, channels, height, width, generator=generator)
    lookup = torch.randn(1, FRAMES, channels, height, width, generator=generator)
    return current, lookup, poses, K, torch.linalg.inv(K), depth_bins(1, 15, bins)


def one_bin_at_a_time(
    current: Tensor, lookup: Tensor, poses: Tensor, K: Tensor, inv_K: Tensor, bins: Tensor
) -> tuple[Tensor, Tensor]:
    """The sweep as a loop over items, lookup frames and bins."""
    return _loop(current, lookup, poses, K, inv_K, bins, 1)


def all_bins_at_once(
    current: Tensor, lookup: Tensor, poses: Tensor, K: Tensor, inv_K: Tensor, bins: Tensor
) -> tuple[Tensor, Tensor]:
    """The sweep as a loop over items and lookup frames."""
    return _loop(current, lookup, poses, K, inv_K, bins, len(bins))


def _loop(
    current: Tensor, lookup: Tensor, poses: Tensor, K: Tensor, inv_K: Tensor, bins: Tensor, step: int
) -> tuple[Tensor, Tensor]:
    batch, frames, _, height, width = lookup.shape
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)]).float().flatten(1)
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[BORDER:-BORDER, BORDER:-BORDER] = True
    total = torch.zeros(batch, len(bins), height, width)
    count = torch.zeros_like(total)
    for b in range(batch):
        rays = inv_K[b, :3, :3] @ pixels
        for n in range(frames):
            P = K[b, :3, :3] @ poses[b, n, :3]
            for first in range(0, len(bins), step):
                depths = bins[first : first + step, None, None]
                x, y, z = (P[:, :3] @ (depths * rays) + P[:, 3:]).unflatten(-1, (height, width)).unbind(1)
                x, y = x / z, y / z
                grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
                warped = F.grid_sample(lookup[b, n].expand(len(depths), -1, -1, -1), grid, align_corners=True)
                seen = (x >= BORDER) & (x <= width - BORDER) & (y >= BORDER) & (y <= height - BORDER) & inside
                total[b, first : first + step] += (warped - current[b]).abs().mean(1) * seen
                count[b, first : first + step] += seen
    missing = count == 0
    cost = total / count.clamp(min=1)
    return torch.where(missing, cost.amax(1, keepdim=True), cost), missing


WAYS: dict[str, Sweep] = {
    "hybrid_encoder": plane_sweep_cost_volume,
    "bin by bin": one_bin_at_a_time,
    "all bins at once": all_bins_at_once,
}


@torch.no_grad()
def seconds(channels: int, rounds: int) -> dict[str, list[float]]:
    """Time the ways in turn, after a check that all give the same."""
    given = inputs(channels)
    expected, expected_missing = plane_sweep_cost_volume(*given)
    for way in WAYS.values():  # and warms each up
        cost, missing = way(*given)
        # Rounding moves a few pixels across the border that is masked.
        same = missing == expected_missing
        assert same.float().mean() > 0.9999
        torch.testing.assert_close(cost[same], expected[same], rtol=1e-4, atol=1e-4)
        del cost, missing, same
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            start = time.perf_counter()
            way(*given)
            times[name].append(time.perf_counter() - start)
    return times


@torch.no_grad()
def extra_megabytes(name: str, channels: int) -> float:
    """Return by how many MiB one call raises this process's peak memory."""
    WAYS[name](*inputs(4, bins=4))  # imports and allocates what only a first call does
    given = inputs(channels)
    ballast = torch.ones(2**28)  # a GiB, so that an earlier peak does not hide that of the call
    before = _peak()
    WAYS[name](*given)
    after = _peak()
    del ballast
    return after - before


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _measured_apart(name: str, channels: int) -> float:
    command = [sys.executable, "-m", "benchmarks.cost_volume", name, str(channels)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def table(rounds: int) -> Table:
    """Make a table of time (median, least to greatest), extra peak memory, and ratios to the first way."""
    threads = torch.get_num_threads()
    result = Table(
        "channels", "way", "time, s", "ratio", "extra MiB", "ratio",
        title=f"Cost volume: {BINS} bins, {HEIGHT} x {WIDTH}, {FRAMES} lookup frames, CPU, {threads} threads",
    )  # fmt: skip
    # Before anything is timed: on Linux, the peak of a new process starts at that of its parent.
    memory = {(channels, name): _measured_apart(name, channels) for channels in CHANNELS for name in WAYS}
    for channels in CHANNELS:
        times = seconds(channels, rounds)
        ours = next(iter(WAYS))
        for name, own in times.items():
            ratios = [a / b for a, b in zip(own, times[ours], strict=True)]
            space, share = memory[channels, name], memory[channels, name] / memory[channels, ours]
            result.add_row(str(channels), name, _spread(own), _spread(ratios), f"{space:.0f}", f"{share:.1f}")
    return result


def _spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    print(extra_megabytes(sys.argv[1], int(sys.argv[2])))
