"""``python -m benchmarks.rendering``: how long a frame takes to render, of a street and of a plain synthetic drive.

The times are processor time of one core, laying out the world included; the drives are rendered in turn, and each ratio
is of two drives that were rendered one right after the other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import mean, median

from rich.console import Console
from rich.table import Table

from hybrid_encoder.data.street.drive import StreetDrive
from hybrid_encoder.data.synthetic.drive import RenderedDrive, SyntheticDrive

NUM_FRAMES = 5
SIZE = (96, 320)
SEEDS = 12  # drives of each kind in a round
WAYS: dict[str, Callable[[int], RenderedDrive]] = {
    "plain street": lambda seed: SyntheticDrive(seed, NUM_FRAMES, *SIZE),
    "varied street, KITTI's camera": lambda seed: StreetDrive(seed, NUM_FRAMES, *SIZE, camera="kitti"),
    "varied street, any camera": lambda seed: StreetDrive(seed, NUM_FRAMES, *SIZE),
}


def seconds(drive: RenderedDrive) -> float:
    """Return the processor seconds that a frame takes, on average over a drive."""
    begin = time.process_time()
    for index in range(len(drive)):
        drive[index]
    return (time.process_time() - begin) / len(drive)


def table(rounds: int) -> Table:
    """Make a table of times (mean over drives of the median over rounds) and of ratios (median, least to greatest)."""
    result = Table(
        "drive", "a frame, ms", "slowest drive, ms", "of a plain one",
        title=f"Rendering {SIZE[0]} x {SIZE[1]} on one core, {SEEDS} drives of {NUM_FRAMES} frames",
    )  # fmt: skip
    for make in WAYS.values():
        seconds(make(SEEDS))  # imports and first calls
    times: dict[str, list[list[float]]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        rows = [[seconds(make(seed)) for make in WAYS.values()] for seed in range(SEEDS)]
        for name, column in zip(WAYS, zip(*rows, strict=True), strict=True):
            times[name].append(list(column))
    plain = next(iter(times.values()))
    for name, found in times.items():
        drives = [1000 * median(column) for column in zip(*found, strict=True)]
        ratios = [sum(here) / sum(there) for here, there in zip(found, plain, strict=True)]
        ratio = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        result.add_row(name, f"{mean(drives):.1f}", f"{max(drives):.1f}", ratio)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rendering", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="how often each drive is rendered")
    Console(width=130).print(table(parser.parse_args().rounds))
