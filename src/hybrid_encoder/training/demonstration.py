"""The method on synthetic drives, with the tiny preset: words for depth first, then depth without a label."""

from __future__ import annotations

import dataclasses
import signal
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from hybrid_encoder.data.images import colorize, contact_sheet, to_pixels, write_png
from hybrid_encoder.data.ordered import collate
from hybrid_encoder.data.sequences import SyntheticSequences
from hybrid_encoder.data.synthetic import SyntheticDrive, synthetic_batch
from hybrid_encoder.data.tusimple import SyntheticLanes
from hybrid_encoder.evaluation.metrics import depth_metrics
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.training.coarse import CoarseStage, coarse_encoder, order_accuracy, train_coarse
from hybrid_encoder.training.fine import fine_model, train_fine
from hybrid_encoder.training.loop import seed_everything
from hybrid_encoder.training.recipes import COARSE, FINE, FineRecipe

FRAMES = 5  # of a drive
MAX_DEPTH = 80.0
LANGUAGE_LOSS = 0.003
HELD_OUT_SEED = 1_000_000  # far from any seed that is trained on
HELD_OUT = 6
NOTES = """\
Made by `hybrid-encoder demo --coarse-steps {coarse_steps} --fine-steps {fine_steps} --drives {drives} --seed {seed}
--save FOLDER`: the tiny preset, from random weights, on {drives} synthetic ray-cast drives ({height} x {width}, five
frames each). First the coarse stage: points along lanes, ordered by words. Then the fine stage: view synthesis from
neighbouring frames with a pose network, and the pixel-language loss; no depth label. No real picture was seen. On six
held-out drives the nearer of two lane points was said to be nearer in words in {order_before:.3f} of the pairs before
the coarse stage and {order_after:.3f} after it, and the median-scaled abs_rel of depth went from {before:.3f} to
{after:.3f}. Meant for trying things out, not for real scenes."""


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
    """Both stages, what they changed, and a picture of it.

    Returns:
        ``order_before`` and ``order_after`` the coarse stage (patch-order accuracy), ``before`` and ``after`` the fine
        stage (abs_rel of median-scaled depth), all on held-out drives.
    """
    start = time.monotonic()
    coarse = dataclasses.replace(COARSE["small"], steps=coarse_steps)
    fine = dataclasses.replace(FINE["small"], steps=fine_steps)
    seeds = range(seed * 10_000, seed * 10_000 + drives)
    training = [list(_drive(s, fine)) for s in track(seeds, "rendering drives", console=console)]
    held_out = [_drive(HELD_OUT_SEED + s, fine) for s in range(HELD_OUT)]
    lanes = list(DataLoader(SyntheticLanes([list(drive) for drive in held_out]), 6, collate_fn=collate))
    frames = synthetic_batch(held_out, (0, FRAMES - 1))
    numbers: dict[str, float] = {}

    def say(text: str) -> None:
        console.print(text, highlight=False)

    def measure(model: HybridDepthModel) -> tuple[Tensor, float]:
        disparity = torch.cat([model.infer(image[None]).disparity.cpu() for image in frames.images])
        metrics = depth_metrics(
            model.to_depth(disparity), frames.depth, frames.valid, median_scaling=True, max_depth=MAX_DEPTH
        )
        return disparity, metrics.abs_rel

    with tempfile.TemporaryDirectory() as runs:
        options = {"seed": seed, "cpu": cpu, "save_every": 1_000_000, "console": console}
        seed_everything(seed)
        encoder = coarse_encoder("tiny", coarse, pretrained=False)
        stage = CoarseStage(encoder, coarse.two_sided, coarse.sampling, coarse.box)
        numbers["order_before"] = order_accuracy(stage, lanes)
        say(f"coarse stage: {coarse_steps} steps of lane points in the order of depth words")
        lanes_to_learn = SyntheticLanes(training, flip=True)
        _ended(train_coarse(encoder, lanes_to_learn, Path(runs) / "coarse", coarse, **options))
        numbers["order_after"] = order_accuracy(stage, lanes)
        say(f"  nearer is said to be nearer: {numbers['order_before']:.3f} -> {numbers['order_after']:.3f}")

        model = fine_model(Path(runs) / "coarse" / "final", fine)
        numbers["before"] = measure(model)[1]
        say(f"fine stage: {fine_steps} steps of view synthesis, without a depth label")
        items = SyntheticSequences(training, fine.offsets, augment="flip")
        _ended(train_fine(model, items, Path(runs) / "fine", fine, LANGUAGE_LOSS, **options))
        disparity, numbers["after"] = measure(model)
        say(f"  abs_rel (median-scaled) on held-out drives: {numbers['before']:.3f} -> {numbers['after']:.3f}")

    words = _language_disparity(model, frames.images)
    rows = []
    for index in range(0, 2 * HELD_OUT, 3):
        truth = torch.where(frames.valid[index], 1 / frames.depth[index], 0.0)[0]
        # Each map on its own scale: disparity here is known up to a factor.
        pictures = [colorize(x, low=0.0) for x in (truth, disparity[index, 0], words[index, 0])]
        rows.append([to_pixels(frames.images[index]), *pictures])
    write_png(output, contact_sheet(rows, ("held-out frame", "true disparity", "disparity", "what the words say")))
    if save is not None:
        notes = NOTES.format(
            **numbers,
            coarse_steps=coarse_steps,
            fine_steps=fine_steps,
            drives=drives,
            seed=seed,
            height=fine.size[0],
            width=fine.size[1],
        )
        model.half().save_pretrained(save, notes=notes)
        say(f"weights -> {save}")
    say(f"picture -> {output} ({time.monotonic() - start:.0f} s in all)")
    return numbers


def _ended(weights: Path | None) -> None:
    if weights is None:  # SIGTERM; the run's folder goes with it
        raise SystemExit(128 + signal.SIGTERM)


def _drive(seed: int, recipe: FineRecipe) -> SyntheticDrive:
    return SyntheticDrive(seed=seed, num_frames=FRAMES, height=recipe.size[0], width=recipe.size[1])


@torch.no_grad()
def _language_disparity(model: HybridDepthModel, images: Tensor) -> Tensor:
    features = model.encoder.forward_features(images.to(next(model.parameters()).device))
    assert features.logits is not None  # the coarse stage has words
    disparity = 1 / model.language_depth(features.logits).cpu()
    return F.interpolate(disparity, images.shape[-2:], mode="bilinear", align_corners=False)
