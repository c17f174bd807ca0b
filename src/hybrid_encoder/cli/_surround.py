"""What ``train-bev`` and ``evaluate-bev`` have in common: the drives that they render, and names of kinds of depth."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from hybrid_encoder.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from hybrid_encoder.bev.grid import BevGrid
    from hybrid_encoder.config.bev import DepthKind
    from hybrid_encoder.training.bev_items import SurroundMaps

NUM_FRAMES = 2  # of a drive; more of one street teach little
MAX_DRIVES = 10_000
NUM_SEEDS = 10_000
# Seeds of the drives: far from those of drives with one camera, which the depth model may have been trained on.
TRAINING, HELD_OUT = 1_000_000_000, 2_000_000_000

DepthName = Literal["hybrid", "language", "learned", "uniform", "exact"]
KINDS: dict[str, DepthKind] = {
    "hybrid": "hybrid-disparity",
    "language": "hybrid-language",
    "learned": "learned",
    "uniform": "uniform",
    "exact": "exact",
}


def check_seed(seed: int) -> None:
    """Raise ConfigError unless there are drives for this seed."""
    if not 0 <= seed < NUM_SEEDS:
        raise ConfigError(f"--seed is {seed}; it must be from 0 to {NUM_SEEDS - 1}.")


def drive_seeds(first: int, seed: int, count: int) -> range:
    """Return the seeds of the drives of a command; another seed of its own gives others."""
    return range(first + MAX_DRIVES * seed, first + MAX_DRIVES * seed + count)


def render(seeds: range, size: tuple[int, int], grid: BevGrid, console: Console) -> SurroundMaps:
    """Render drives with six cameras, and make the maps of their ground."""
    from rich.progress import track

    from hybrid_encoder.data.synthetic.surround import SyntheticSurround
    from hybrid_encoder.training.bev_items import SurroundMaps

    drives = [SyntheticSurround(seed, NUM_FRAMES, *size) for seed in seeds]
    return SurroundMaps(drives, grid, partial(track, description="rendering drives", console=console))
