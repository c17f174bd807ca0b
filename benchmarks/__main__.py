"""``python -m benchmarks``: every measurement as a table."""

from __future__ import annotations

import argparse

import torch
from rich.console import Console

from benchmarks import bev, cost_volume, kept_values


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure on this machine's CPU.")
    parser.add_argument("--rounds", type=int, default=7, help="how often each way is timed, in turn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for module in (cost_volume, kept_values, bev):
        Console(width=130).print(module.table(given.rounds))


if __name__ == "__main__":
    main()
