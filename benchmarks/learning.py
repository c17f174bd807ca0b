"""``python -m benchmarks.learning``: what each part adds to depth that is learned without a label.

Every model starts from random weights and trains on the same synthetic drives, by the fine stage's ``small`` recipe,
for the same number of steps; the first model goes through the coarse stage before that. The seed of a run sets the
weights and the data order; all runs have the same drives and held-out drives. The recipe was tuned on the hybrid
encoder. "Words in order" is measured after the fine stage: how often the depth that the words say is less at the nearer
of two points of a lane, one half by chance.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.data import DataLoader

from benchmarks.unet import UNet
from hybrid_encoder import HybridDepthConfig, HybridDepthModel
from hybrid_encoder.data import SyntheticDrive, SyntheticLanes, SyntheticSequences, render_drives, synthetic_batch
from hybrid_encoder.data.ordered import PatchBatch, collate
from hybrid_encoder.evaluation import depth_metrics
from hybrid_encoder.training.coarse import coarse_encoder, train_coarse
from hybrid_encoder.training.fine import fine_model, fine_stage
from hybrid_encoder.training.recipes import COARSE, FINE, FineRecipe
from hybrid_encoder.training.running import train_stage

COARSE_HYBRID = "hybrid, with the coarse stage"
WAYS = (
    COARSE_HYBRID,
    "hybrid, without the coarse stage",
    "hybrid, without language",
    "DINO-like tower alone",
    "CLIP-like tower alone",
    "ResNet-18 U-Net",
)
LANGUAGE_LOSS = 0.003
NUM_FRAMES = 5  # of a drive
HELD_OUT = range(1_000_000, 1_000_012)


class Measured:
    """Rendered drives to train on, and what is measured on held-out ones."""

    def __init__(self, drives: int, size: tuple[int, int], console: Console) -> None:
        show = partial(track, description="rendering drives", console=console)
        self.training = render_drives(range(drives), NUM_FRAMES, size, show)
        held_out = [SyntheticDrive(seed=s, num_frames=NUM_FRAMES, height=size[0], width=size[1]) for s in HELD_OUT]
        self.frames = synthetic_batch(held_out, (0, NUM_FRAMES - 1))
        self.lanes = list(DataLoader(SyntheticLanes([list(d) for d in held_out]), 6, collate_fn=collate))

    @torch.no_grad()
    def __call__(self, model: Any) -> dict[str, float]:
        model.eval()
        device = next(model.parameters()).device
        depth = torch.cat([model.to_depth(model(i[None].to(device))).float().cpu() for i in self.frames.images])
        found = depth_metrics(depth, self.frames.depth, self.frames.valid, median_scaling=True, max_depth=80.0)
        numbers = {"abs_rel": found.abs_rel, "a1": found.a1}
        if model.encoder.prompts is not None:
            numbers["order"] = mean(_order_in_words(model, batch) for batch in self.lanes)
        return numbers


def _order_in_words(model: HybridDepthModel, batch: PatchBatch) -> float:
    """Return how often the depth that the words say is less at the nearer of two points of a lane."""
    device = next(model.parameters()).device
    logits = model.encoder.forward_features(batch.images.to(device)).logits
    assert logits is not None  # an encoder with prompts
    said = model.language_depth(logits).cpu()[batch.index]
    size = torch.tensor([batch.images.shape[-1], batch.images.shape[-2]])
    places = 2 * (batch.points + 0.5) / size - 1
    found = F.grid_sample(said, places[:, None], padding_mode="border", align_corners=False)[:, 0, 0]
    near, far = torch.triu_indices(found.shape[1], found.shape[1], 1)
    return float((found[:, near] < found[:, far]).double().mean())


def build(way: str, preset: str, recipe: FineRecipe, source: Path | None) -> Any:
    """Return a depth model with random weights or those of the coarse stage, or the U-Net that stands in for one."""
    if way == "ResNet-18 U-Net":
        config = HybridDepthConfig.preset(preset)
        return UNet(
            config.replace(decoder=dataclasses.replace(config.decoder, scales=recipe.scales or config.decoder.scales)),
            0.6,
        )
    if source is not None:
        return fine_model(source, recipe)
    encoder = coarse_encoder(preset, COARSE["small"], pretrained=False)
    if way != "hybrid, without the coarse stage":
        towers = {"DINO-like tower alone": "spatial", "CLIP-like tower alone": "semantic"}.get(way, "both")
        encoder = type(encoder)(encoder.config.replace(towers=towers, prompts=None), pretrained=False)
    return fine_model(encoder, recipe)


def train(way: str, seed: int, given: argparse.Namespace, measured: Measured) -> dict[str, float]:
    """Train one model and return its numbers on held-out drives, its seconds of training and its number of weights."""
    coarse = dataclasses.replace(COARSE["small"], steps=given.coarse_steps)
    fine = dataclasses.replace(FINE["small"], steps=given.steps)
    options = {"seed": seed, "cpu": given.device == "cpu", "save_every": 10**9, "console": Console(quiet=True)}
    set_seed(seed)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        source = None
        if way == COARSE_HYBRID:
            encoder = coarse_encoder(given.preset, coarse, pretrained=False)
            lanes = SyntheticLanes(measured.training, flip=True)
            source = train_coarse(encoder, lanes, Path(folder) / "coarse", coarse, **options)
            if source is None:
                raise SystemExit("stopped")
        model = build(way, given.preset, fine, source)
        stage = fine_stage(model, fine, LANGUAGE_LOSS if model.encoder.prompts is not None else 0.0)
        groups = stage.parameter_groups(fine.lr, fine.pose_lr)
        items = SyntheticSequences(measured.training, fine.offsets, augment="flip")
        if train_stage(stage, items, groups, fine, Path(folder) / "fine", **options) is None:
            raise SystemExit("stopped")
    numbers = measured(model)
    numbers["seconds"] = time.perf_counter() - start
    numbers["parameters"] = sum(p.numel() for p in model.parameters())
    return numbers


def table(found: dict[str, list[dict[str, float]]]) -> Table:
    """Return a table of means and standard deviations over the runs."""

    def cell(runs: list[dict[str, float]], name: str) -> str:
        values = [numbers[name] for numbers in runs if name in numbers]
        if not values:
            return "-"
        return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"

    drawn = Table(title="held-out drives, median-scaled; mean ± standard deviation over runs")
    for name in ("from random weights", "weights", "abs_rel", "d < 1.25", "words in order", "time"):
        drawn.add_column(name, justify="left" if name.startswith("from") else "right")
    first = mean(numbers["seconds"] for numbers in next(iter(found.values())))
    for way, runs in found.items():
        seconds = mean(numbers["seconds"] for numbers in runs)
        millions = f"{runs[0]['parameters'] / 1e6:.1f} M"
        values = [cell(runs, name) for name in ("abs_rel", "a1", "order")]
        drawn.add_row(way, millions, *values, f"{seconds / first:.2f} x")
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    parser.add_argument("--steps", type=int, default=FINE["small"].steps, help="optimizer steps of the fine stage")
    parser.add_argument(
        "--coarse-steps", type=int, default=COARSE["small"].steps, help="optimizer steps of the coarse stage"
    )
    parser.add_argument("--drives", type=int, default=140, help="synthetic drives to train on")
    parser.add_argument("--runs", type=int, default=3, help="runs of every model, with seeds 0, 1, ...")
    parser.add_argument("--preset", default="tiny", help="towers: tiny, or paper on a GPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    console = Console(width=120, highlight=False)
    measured = Measured(given.drives, FINE["small"].size, console)
    found: dict[str, list[dict[str, float]]] = {}
    for way in WAYS:
        for seed in range(given.runs):
            numbers = train(way, seed, given, measured)
            found.setdefault(way, []).append(numbers)
            shown = ", ".join(f"{name} {value:.3f}" for name, value in numbers.items() if name != "parameters")
            console.print(f"{way}, seed {seed}: {shown}")
    console.print(
        f"{given.steps} steps ({given.coarse_steps} coarse), {given.drives} drives, torch {torch.__version__}"
    )
    console.print(table(found))


if __name__ == "__main__":
    main()
