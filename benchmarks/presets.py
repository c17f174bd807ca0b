"""``python -m benchmarks.presets``: what the presets cost, each timed in turn with ``paper`` in one run.

Weights are random: they take the same time as trained ones. With one thread the time is the process's own on the
processor, which other programs lengthen less than they do the clock's. A training step is one of the fine stage by its
published recipe, batch 1: three frames, the pose network, losses, AdamW.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import time
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import default_collate

from benchmarks.measure import operations
from hybrid_encoder import HybridDepthModel
from hybrid_encoder.data import SyntheticDrive, SyntheticSequences
from hybrid_encoder.training.fine import fine_model, fine_stage
from hybrid_encoder.training.recipes import FINE

BASE = "paper"
SIZES = ((224, 672), (192, 640))
PRESETS = ("tiny", "small", "large")
Size = tuple[int, int]


def prediction(preset: str, size: Size) -> tuple[HybridDepthModel, Callable[[], object]]:
    """Return a model, and a call that predicts the disparity of one image."""
    model = HybridDepthModel(preset, pretrained=False).eval()
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))

    def call() -> object:
        with torch.inference_mode():
            return model(images)

    return model, call


def training(preset: str, size: Size) -> Callable[[], object]:
    """Return a call that takes one training step; a rate of 0 keeps all steps alike."""
    recipe = dataclasses.replace(FINE["published"], size=size, pose="resnet18", pose_pretrained=False)
    stage = fine_stage(fine_model(preset, recipe, pretrained=False), recipe).train()
    batch = default_collate([SyntheticSequences([SyntheticDrive(0, 3, *size)])[0]])
    optimizer = torch.optim.AdamW([p for p in stage.parameters() if p.requires_grad], lr=0.0)

    def call() -> object:
        stage(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return None

    return call


def seconds(call: Callable[[], object]) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    call()
    return clock() - begin


def in_turn(one: Callable[[], object], other: Callable[[], object], rounds: int) -> list[tuple[float, float]]:
    """Return the seconds of both in every round, after one call of each that is not counted."""
    one(), other()
    return [(seconds(one), seconds(other)) for _ in range(rounds)]


def shown(times: list[tuple[float, float]]) -> list[str]:
    """Return the median seconds, and the ratio to those of ``paper``: median, least to greatest."""
    ratios = [own / base for own, base in times]
    return [
        f"{median(own for own, _ in times):.2f}",
        f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
    ]


def table(rounds: int, steps: int, presets: tuple[str, ...] = PRESETS, sizes: tuple[Size, ...] = SIZES) -> Table:
    """Make a table of parameters, GFLOPs and time, each preset beside ``paper``.

    Args:
        rounds: how often a prediction of both is timed.
        steps: how often a training step is; 0 for none.
        presets, sizes: which, besides ``paper``, and (H, W) of the image.
    """
    result = Table(
        "preset", "size", "M parameters", "GFLOPs", "predict, s", "to paper's", "step, s", "to paper's",
        title=f"Presets, one image, CPU, {torch.get_num_threads()} threads",
    )  # fmt: skip
    for size in sizes:
        for preset in (BASE, *presets):
            model, call = prediction(preset, size)
            row = [preset, f"{size[0]} x {size[1]}", f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}"]
            call()  # the first one computes the prompts' matrix, which is kept
            row.append(f"{operations(call) / 1e9:.0f}")
            if preset != BASE:
                row += shown(in_turn(call, prediction(BASE, size)[1], rounds))
                del model, call
                gc.collect()
                if steps:
                    row += shown(in_turn(training(preset, size), training(BASE, size), steps))
                    gc.collect()
            result.add_row(*row)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.presets", description=__doc__)
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--sizes", nargs="+", default=[f"{h}x{w}" for h, w in SIZES])
    parser.add_argument("--rounds", type=int, default=5, help="predictions that are timed")
    parser.add_argument("--steps", type=int, default=2, help="training steps that are timed; 0 for none")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    sizes = tuple((int(h), int(w)) for h, w in (size.split("x") for size in given.sizes))
    Console(width=140).print(table(given.rounds, given.steps, tuple(given.presets), sizes))


if __name__ == "__main__":
    main()
