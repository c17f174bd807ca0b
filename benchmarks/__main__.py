"""``python -m benchmarks``: the small measurements as tables; ``data``, ``export`` and ``gpu`` take long."""

from __future__ import annotations

import argparse
import sys

import torch
from rich.console import Console

from benchmarks import bev, cost_volume, data_waiting, export, gpu, kept_values, rendering

LONG = {"data": data_waiting.main, "export": export.main, "gpu": gpu.main}


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] in LONG:
        LONG[sys.argv[1]](sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure on this machine's CPU.",
        epilog="`data` as the first word measures how long a training waits for data, `export` exported files in other "
        "runtimes, `gpu` everything on a GPU.",
    )
    parser.add_argument("--rounds", type=int, default=7, help="how often each way is timed, in turn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for module in (cost_volume, kept_values, bev, rendering):
        Console(width=130).print(module.table(given.rounds))


if __name__ == "__main__":
    main()
