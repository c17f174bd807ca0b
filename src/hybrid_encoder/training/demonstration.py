"""The method on synthetic drives, with the tiny preset: words for depth first, then depth without a label."""

from __future__ import annotations

import dataclasses
import signal
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from hybrid_encoder.data.images import colorize, contact_sheet, to_pixels, write_png
from hybrid_encoder.data.ordered import collate
from hybrid_encoder.data.sequences import SyntheticSequences
from hybrid_encoder.data.synthetic.drive import SyntheticDrive, SyntheticFrame, render_drives, synthetic_batch
from hybrid_encoder.data.tusimple import SyntheticLanes
from hybrid_encoder.evaluation.metrics import depth_metrics
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.training.coarse import CoarseStage, coarse_encoder, order_accuracy, train_coarse
from hybrid_encoder.training.fine import fine_model, train_fine
from hybrid_encoder.training.ranges import check_number
from hybrid_encoder.training.recipes import COARSE, FINE, CoarseRecipe, FineRecipe

NUM_FRAMES = 5  # of a drive
MAX_DEPTH = 80.0  # metres; evaluation ignores what is farther away
LANGUAGE_LOSS = 0.003
HELD_OUT_SEED = 1_000_000  # far from any seed that is trained on
NUM_HELD_OUT = 6
NOTES = """\
Made by `hybrid-encoder demo --coarse-steps {coarse_steps} --fine-steps {fine_steps} --drives {drives} --seed {seed}
--save FOLDER`: the tiny preset, from random weights, on {drives} synthetic ray-cast drives ({height} x {width}, five
frames each). First the coarse stage: points along lanes, ordered by words. Then the fine stage: view synthesis from
neighbouring frames with a pose network, and the pixel-language loss; no depth label. No real image was seen. On six
held-out drives the words put two lane points in the right order in {order_before:.3f} of the pairs before the coarse
stage and in {order_after:.3f} after it, and the median-scaled abs_rel of depth went from {before:.3f} to {after:.3f}.
Meant for trying things out, not for real scenes."""


class HeldOut:
    """Drives that no stage trains on, and what is measured on them."""

    def __init__(self, size: tuple[int, int]) -> None:
        height, width = size
        seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + NUM_HELD_OUT)
        drives = [SyntheticDrive(seed, NUM_FRAMES, height, width) for seed in seeds]
        lanes = SyntheticLanes([list(drive) for drive in drives])
        self.lanes = list(DataLoader(lanes, batch_size=6, collate_fn=collate))
        self.frames = synthetic_batch(drives, (0, NUM_FRAMES - 1))

    def order_accuracy(self, encoder: HybridDepthEncoder, recipe: CoarseRecipe) -> float:
        """Return how often the words put two lane points in the right order."""
        return order_accuracy(CoarseStage(encoder, recipe.two_sided, recipe.sampling, recipe.box), self.lanes)

    def predict(self, model: HybridDepthModel) -> Tensor:
        """Return the disparity of all frames, (B, 1, H, W), on the CPU."""
        return torch.cat([model.infer(image[None]).disparity.cpu() for image in self.frames.images])

    def abs_rel(self, model: HybridDepthModel, disparity: Tensor) -> float:
        """Return the error of median-scaled depth."""
        depth, frames = model.to_depth(disparity), self.frames
        return depth_metrics(depth, frames.depth, frames.valid, median_scaling=True, max_depth=MAX_DEPTH).abs_rel

    def sheet(self, model: HybridDepthModel, disparity: Tensor) -> Any:
        """Return an image that shows a few frames with their disparity: the true one, the model's, and the words'."""
        frames, words = self.frames, _language_disparity(model, self.frames.images)
        rows = []
        for index in range(0, 2 * NUM_HELD_OUT, 3):
            truth = torch.where(frames.valid[index], 1 / frames.depth[index], 0.0)[0]
            # Each map on its own scale: disparity here is known up to a factor.
            maps = [colorize(x, low=0.0) for x in (truth, disparity[index, 0], words[index, 0])]
            rows.append([to_pixels(frames.images[index]), *maps])
        return contact_sheet(rows, ("held-out frame", "true disparity", "disparity", "what the words say"))


def run_demo(
    output: Path,
    *,
    coarse_steps: int,
    fine_steps: int,
    drives: int,
    seed: int,
    save: Path | None,
    cpu: bool,
    console: Console,
) -> dict[str, float]:
    """Train both stages and show what each of them changed.

    Args:
        output: the PNG file to write.
        coarse_steps, fine_steps: optimizer steps of the stages.
        drives: how many drives to train on, at least 2.
        seed: of the weights, the drives and the data order.
        save: folder for the weights, in half precision; None keeps none.
        cpu: train on the CPU even where there is an accelerator.
        console: where progress is shown.

    Returns:
        On held-out drives, the order accuracy as ``order_before`` and ``order_after`` the coarse stage, and the abs_rel
        of median-scaled depth as ``before`` and ``after`` the fine stage.

    Raises:
        ConfigError: a number out of its range.
    """
    # A step of the coarse stage takes six frames, and a drive has five.
    check_number("drives", drives, 2, 10_000, whole=True)
    check_number("seed", seed, 0, 99, whole=True)
    check_number("coarse_steps", coarse_steps, 1, whole=True)
    check_number("fine_steps", fine_steps, 1, whole=True)
    start = time.monotonic()
    say = partial(console.print, highlight=False)
    coarse = dataclasses.replace(COARSE["small"], steps=coarse_steps)
    fine = dataclasses.replace(FINE["small"], steps=fine_steps)
    seeds = range(seed * 10_000, seed * 10_000 + drives)
    show = partial(track, description="rendering drives", console=console)
    training = render_drives(seeds, NUM_FRAMES, fine.size, show)
    held_out = HeldOut(fine.size)
    options = {"seed": seed, "cpu": cpu, "save_every": 1_000_000, "console": console}
    with tempfile.TemporaryDirectory() as runs:
        say(f"coarse stage: {coarse_steps} steps of lane points in the order of depth words")
        weights, order = _coarse(training, held_out, Path(runs) / "coarse", coarse, options)
        say(f"  lane points in the right order: {order['order_before']:.3f} -> {order['order_after']:.3f}")
        say(f"fine stage: {fine_steps} steps of view synthesis, without a depth label")
        model, disparity, error = _fine(weights, training, held_out, Path(runs) / "fine", fine, options)
        say(f"  abs_rel (median-scaled) on held-out drives: {error['before']:.3f} -> {error['after']:.3f}")
    found = order | error
    write_png(output, held_out.sheet(model, disparity))
    if save is not None:
        (height, width), made_by = fine.size, {"drives": drives, "seed": seed}
        made_by |= {"coarse_steps": coarse_steps, "fine_steps": fine_steps, "height": height, "width": width}
        model.half().save_pretrained(save, notes=NOTES.format(**found, **made_by))
        say(f"weights -> {save}")
    say(f"image -> {output} ({time.monotonic() - start:.0f} s in all)")
    return found


def _coarse(
    training: list[list[SyntheticFrame]], held_out: HeldOut, folder: Path, recipe: CoarseRecipe, options: dict[str, Any]
) -> tuple[Path, dict[str, float]]:
    set_seed(options["seed"])
    encoder = coarse_encoder("tiny", recipe, pretrained=False)
    before = held_out.order_accuracy(encoder, recipe)
    weights = _completed(train_coarse(encoder, SyntheticLanes(training, flip=True), folder, recipe, **options))
    return weights, {"order_before": before, "order_after": held_out.order_accuracy(encoder, recipe)}


def _fine(
    weights: Path,
    training: list[list[SyntheticFrame]],
    held_out: HeldOut,
    folder: Path,
    recipe: FineRecipe,
    options: dict[str, Any],
) -> tuple[HybridDepthModel, Tensor, dict[str, float]]:
    model = fine_model(weights, recipe)
    before = held_out.abs_rel(model, held_out.predict(model))
    items = SyntheticSequences(training, recipe.offsets, augment="flip")
    _completed(train_fine(model, items, folder, recipe, LANGUAGE_LOSS, **options))
    disparity = held_out.predict(model)
    return model, disparity, {"before": before, "after": held_out.abs_rel(model, disparity)}


def _completed(weights: Path | None) -> Path:
    """Return the weights of a run; exit as SIGTERM demands where the run was stopped, since its folder goes away."""
    if weights is None:
        raise SystemExit(128 + signal.SIGTERM)
    return weights


@torch.no_grad()
def _language_disparity(model: HybridDepthModel, images: Tensor) -> Tensor:
    features = model.encoder.forward_features(images.to(next(model.parameters()).device))
    assert features.logits is not None  # the coarse stage has words
    disparity = 1 / model.language_depth(features.logits).cpu()
    return F.interpolate(disparity, images.shape[-2:], mode="bilinear", align_corners=False)
