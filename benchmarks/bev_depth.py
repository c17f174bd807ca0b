"""``python -m benchmarks.bev_depth``: what a bird's-eye view gains from the depth by which its features are lifted.

Every model is trained on the same rendered drives with six cameras, for the same number of steps of the same recipe,
and measured on held-out drives. The seed of a run sets the weights that are random, and the data order. "Hybrid",
"uniform" and "exact" start from the same weights of a depth model, "learned" from random ones, as a model without any
pretraining does, at the full learning rate. Beside them is a map that says the same of every scene.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import torch
from accelerate.utils import set_seed
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hybrid_encoder.bev.grid import BevGrid
from hybrid_encoder.config import BevConfig
from hybrid_encoder.config.bev import DepthKind
from hybrid_encoder.data import SyntheticSurround
from hybrid_encoder.training.bev import BEV, bev_model, start_scale, train_bev
from hybrid_encoder.training.bev_items import SurroundMaps
from hybrid_encoder.training.bev_results import constant_map, evaluate_bev
from hybrid_encoder.writing import write_whole

WAYS: dict[str, DepthKind] = {
    "hybrid": "hybrid-disparity",
    "hybrid, from language": "hybrid-language",
    "uniform": "uniform",
    "learned, no pretraining": "learned",
    "exact": "exact",
}
CONSTANT = "constant map"
TRAINING, HELD_OUT = 2_000_000, 3_000_000  # first seeds
HELD_OUT_DRIVES = 60
GRID = {"cell": 1.0, "far": 36.0, "num_depths": 36}
COLUMNS = {"iou_vehicle": "vehicle IoU", "iou_road": "road IoU", "miou": "mean IoU", "ap": "AP of centres"}


def measure(
    way: str, seed: int, steps: int, weights: str, training: SurroundMaps, held_out: SurroundMaps
) -> dict[str, float]:
    """Train one model and return its numbers."""
    set_seed(seed)
    pretrained = WAYS[way] != "learned"
    model = bev_model(weights if pretrained else None, BevConfig.preset("tiny").replace(**GRID), WAYS[way])
    if model.uncertainty is not None:
        start_scale(model, [training[index] for index in range(8)])
    recipe = dataclasses.replace(BEV["small"], steps=steps)
    if not pretrained:
        recipe = dataclasses.replace(recipe, encoder_lr=1.0)
    with tempfile.TemporaryDirectory() as folder:
        train_bev(model, training, Path(folder), recipe, seed=seed, save_every=10**9, cpu=True)
    return evaluate_bev(model, held_out)


def show(found: dict[str, list[dict[str, float]]], console: Console) -> None:
    table = Table("depth", *COLUMNS.values())
    for way, runs in found.items():
        cells = []
        for name in COLUMNS:
            values = [run[name] for run in runs]
            cells.append(f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else ""))
        table.add_row(way, *cells)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=BEV["small"].steps)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--drives", type=int, default=200, help="rendered for training, two frames of each")
    parser.add_argument("--weights", default="tiny", help="of the depth model that three of the ways start from")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    arguments = parser.parse_args()
    console = Console()
    config, (height, width) = BevConfig.preset("tiny").replace(**GRID), BEV["small"].size
    grid = BevGrid(config.x_range, config.y_range, config.z_range, config.cell)

    def render(first: int, count: int) -> SurroundMaps:
        drives = [SyntheticSurround(first + k, 2, height, width) for k in range(count)]
        return SurroundMaps(drives, grid, partial(track, description="rendering drives", console=console))

    training, held_out = render(TRAINING, arguments.drives), render(HELD_OUT, HELD_OUT_DRIVES)
    found = {CONSTANT: [evaluate_bev(constant_map(training), held_out)]}
    for seed in range(arguments.seeds):
        for way in arguments.ways:
            start = time.monotonic()
            numbers = measure(way, seed, arguments.steps, arguments.weights, training, held_out)
            found.setdefault(way, []).append(numbers)
            said = ", ".join(f"{name} {value:.3f}" for name, value in numbers.items())
            console.print(f"seed {seed}, {way}: {said} ({time.monotonic() - start:.0f} s)", highlight=False)
            if arguments.json is not None:
                write_whole(arguments.json, (json.dumps(found, indent=1) + "\n").encode())
    show(found, console)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
