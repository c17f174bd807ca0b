"""``python -m benchmarks.supervision``: what the right view and a teacher add to depth learned from video.

Every model is the tiny preset from random weights, trained on the same synthetic drives by the fine stage's ``small``
recipe; the seed of a run sets the weights and the data order. Held-out drives are measured with median scaling, and
without it: only depth in metres can be right then. The teacher is trained on video alone, ``--teacher-steps`` long,
with a seed of its own; its students have ``--steps``.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from rich.console import Console

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.data import SyntheticDrive, SyntheticSequences, render_drives, synthetic_batch
from hybrid_encoder.data.synthetic.drive import SyntheticFrame
from hybrid_encoder.evaluation import depth_metrics
from hybrid_encoder.training.fine import fine_model, train_fine
from hybrid_encoder.training.recipes import FINE, FineRecipe
from hybrid_encoder.training.teaching import Teacher

NUM_FRAMES = 5  # of a drive
BASELINE = 0.5  # metres
HELD_OUT = range(1_000_000, 1_000_012)
TEACHER_SEED = 100
STEREO = ("right view alone", "video and right view", "video alone")
TAUGHT = ("no teacher", "teacher, weight 0.1", "teacher, weight 1")


class Measured:
    """What is measured on drives that nothing was trained on."""

    def __init__(self, size: tuple[int, int], training: Sequence[Sequence[SyntheticFrame]]) -> None:
        drives = [SyntheticDrive(seed, NUM_FRAMES, *size) for seed in HELD_OUT]
        self.frames = synthetic_batch(drives, (0, NUM_FRAMES - 1))
        depths = [torch.from_numpy(f.depth[f.valid]) for drive in training for f in drive]
        self.usual = float(torch.cat(depths).median())

    @torch.no_grad()
    def __call__(self, model: HybridDepthModel) -> dict[str, float]:
        model.eval()
        return self.compared(torch.cat([model.to_depth(model(image[None])).float() for image in self.frames.images]))

    def compared(self, depth: torch.Tensor) -> dict[str, float]:
        """Return the errors of depth for all frames, and by how much it is too small."""
        frames = self.frames
        scaled, plain = (
            depth_metrics(depth, frames.depth, frames.valid, median_scaling=scaling, max_depth=80.0).abs_rel
            for scaling in (True, False)
        )
        ratio = torch.stack(
            [t[v].median() / d[v].median() for d, t, v in zip(depth, frames.depth, frames.valid, strict=True)]
        )
        return {"abs_rel": scaled, "abs_rel unscaled": plain, "scale": float(ratio.median())}

    def control(self) -> dict[str, float]:
        """Return the errors of the training drives' median depth everywhere."""
        return self.compared(torch.full_like(self.frames.depth, self.usual))


def recipe_of(way: str, recipe: FineRecipe) -> FineRecipe:
    if way == "video and right view":
        return recipe.with_stereo("add")
    if way == "right view alone":
        return recipe.with_stereo("only")
    weight = way.removeprefix("teacher, weight ")
    return dataclasses.replace(recipe, teacher_weight=float(weight)) if weight != way else recipe


def train(
    recipe: FineRecipe, training: Sequence[Sequence[SyntheticFrame]], seed: int, teacher: Teacher | None = None
) -> HybridDepthModel:
    """Train one model."""
    set_seed(seed)
    model = fine_model("tiny", recipe, pretrained=False)
    items = SyntheticSequences(training, recipe.neighbours, augment="flip", stereo=recipe.stereo != "no")
    options: dict[str, Any] = {
        "seed": seed,
        "cpu": True,
        "save_every": 10**9,
        "workers": 0,
        "console": Console(quiet=True),
    }
    with tempfile.TemporaryDirectory() as folder:
        if (
            train_fine(model, items, Path(folder), recipe, teacher=teacher, console=Console(quiet=True), **options)
            is None
        ):
            raise SystemExit("stopped")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.supervision", description=__doc__)
    parser.add_argument("what", choices=("stereo", "teacher"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--teacher-steps", type=int, default=900)
    parser.add_argument("--drives", type=int, default=60)
    parser.add_argument("--runs", type=int, default=3, help="runs of every way, with seeds 0, 1, ...")
    parser.add_argument("--size", type=int, nargs=2, default=(64, 192), help="height and width")
    given = parser.parse_args()
    size = (given.size[0], given.size[1])
    recipe = dataclasses.replace(FINE["small"], steps=given.steps, size=size)
    training = render_drives(range(given.drives), NUM_FRAMES, size, baseline=BASELINE)
    measured, teacher = Measured(size, training), None

    def say(name: str, numbers: dict[str, float]) -> None:
        print(f"{name}: {', '.join(f'{key} {value:.3f}' for key, value in numbers.items())}", flush=True)

    print(f"{given.what}: {given.steps} steps, {given.drives} drives, {size}, torch {torch.__version__}", flush=True)
    say("the usual depth everywhere", measured.control())
    if given.what == "teacher":
        model = train(dataclasses.replace(recipe, steps=given.teacher_steps), training, TEACHER_SEED)
        model.config = model.config.replace(size=size)
        teacher = Teacher(model)
        say("the teacher", measured(model))
    for seed in range(given.runs):
        for way in STEREO if given.what == "stereo" else TAUGHT:
            taught_by = None if way == "no teacher" else teacher
            say(f"{way}, seed {seed}", measured(train(recipe_of(way, recipe), training, seed, taught_by)))


if __name__ == "__main__":
    main()
