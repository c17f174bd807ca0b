"""Fit the tiny preset to the depth of synthetic drives, and show drives it has not seen, before and after."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor

from hybrid_encoder.data.synthetic import SyntheticBatch, SyntheticDrive, synthetic_batch
from hybrid_encoder.evaluation import depth_metrics
from hybrid_encoder.model import HybridDepthModel
from hybrid_encoder.pictures import colour, contact_sheet, to_pixels, write_png

HEIGHT, WIDTH = 96, 320
MAX_DEPTH = 80.0
SKY_WEIGHT = 0.05
START_DEPTH = 10.0  # metres: what an untrained decoder is set to say, so that no step is spent on finding the scale
HELD_OUT_SEED = 1_000_000  # far from any seed that is fitted
NOTES = """\
Made by `hybrid-encoder demo --steps {steps} --drives {drives} --batch-size {batch_size} --seed {seed} --save FOLDER`:
the tiny preset, from random weights, fitted to the exact depth of {drives} synthetic ray-cast drives ({height} x
{width}, three frames each) with an L1 loss on log depth. No real picture was seen. On six held-out drives the
median-scaled abs_rel went from {before:.3f} to {after:.3f}. Meant for trying things out, not for real scenes."""


def run_demo(
    output: Path,
    *,
    steps: int,
    drives: int,
    batch_size: int,
    seed: int,
    save: Path | None,
    device: torch.device,
    console: Console,
) -> tuple[float, float]:
    """Fit, report and draw.

    Returns:
        abs_rel (median-scaled) on held-out drives, before and after.
    """
    start = time.monotonic()
    training = _render(range(seed * 10_000, seed * 10_000 + drives), (0, 2, 4), console, "rendering drives to fit")
    held_out = _render(range(HELD_OUT_SEED, HELD_OUT_SEED + 6), (0, 4), console, "rendering held-out drives")

    torch.manual_seed(seed)
    model = HybridDepthModel("tiny", pretrained=False).to(device)
    first, before = evaluate(model, held_out, device)
    console.print(f"held-out abs_rel before: {before:.3f} (median-scaled, 6 drives)", highlight=False)
    fit(model, training, steps=steps, batch_size=batch_size, seed=seed, device=device, console=console)
    last, after = evaluate(model, held_out, device)
    console.print(f"held-out abs_rel after:  {after:.3f}", highlight=False)

    rows = []
    for index in (0, 3, 6, 9):
        truth = torch.where(held_out.valid[index], 1 / held_out.depth[index], 0.0)[0]
        # Each map on its own scale: disparity here is known up to a factor.
        pictures = [colour(x, low=0.0) for x in (truth, first[index, 0], last[index, 0])]
        rows.append([to_pixels(held_out.images[index]), *pictures])
    write_png(output, contact_sheet(rows, ("held-out frame", "true disparity", "before", "after")))
    if save is not None:
        model.config = model.config.replace(size=(HEIGHT, WIDTH))
        values = {"steps": steps, "drives": drives, "batch_size": batch_size, "seed": seed}
        notes = NOTES.format(**values, height=HEIGHT, width=WIDTH, before=before, after=after)
        model.half().save_pretrained(save, notes=notes)
        console.print(f"weights -> {save}", highlight=False)
    console.print(f"picture -> {output} ({time.monotonic() - start:.0f} s in all)", highlight=False)
    return before, after


def fit(
    model: HybridDepthModel,
    training: SyntheticBatch,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    device: torch.device,
    console: Console,
) -> None:
    """Minimise the L1 distance of log depth over all scales, with flips and changes of colour."""
    generator = torch.Generator().manual_seed(seed)
    start = (1 / START_DEPTH - 1 / model.config.max_depth) / (1 / model.config.min_depth - 1 / model.config.max_depth)
    model.decoder.set_bias(math.log(start / (1 - start)))
    optimizer = torch.optim.AdamW(model.parameter_groups(2e-3, weight_decay=0.01))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps, pct_start=0.1
    )
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # faster convolutions on a CPU
    for _ in track(range(steps), description="fitting", console=console):
        pick = torch.randint(len(training.images), (batch_size,), generator=generator)
        images, depth, valid = (x[pick] for x in (training.images, training.depth, training.valid))
        images = _recolour(images, generator)
        if torch.rand(1, generator=generator) < 0.5:
            images, depth, valid = images.flip(-1), depth.flip(-1), valid.flip(-1)
        loss = log_depth_loss(model, images.to(device), depth.to(device), valid.to(device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def log_depth_loss(model: HybridDepthModel, images: Tensor, depth: Tensor, valid: Tensor) -> Tensor:
    """Mean |log predicted - log true depth| over the pixels with a true depth, averaged over scales.

    Where there is none (sky), predictions nearer than ``MAX_DEPTH`` count a little.
    """
    total = images.new_zeros(())
    outputs = model.forward_scales(images)
    weight = torch.where(valid, 1.0, SKY_WEIGHT)
    for disparity in outputs.values():
        full = F.interpolate(disparity, size=depth.shape[-2:], mode="bilinear", align_corners=False)
        error = model.to_depth(full).log() - depth.clamp(max=MAX_DEPTH).log()
        error = torch.where(valid, error.abs(), F.relu(-error))
        total = total + (weight * error).sum() / valid.sum().clamp_min(1)
    return total / len(outputs)


def evaluate(model: HybridDepthModel, frames: SyntheticBatch, device: torch.device) -> tuple[Tensor, float]:
    """Disparity (B, 1, H, W) of all frames, and their mean median-scaled abs_rel."""
    disparity = torch.cat([model.infer(image.to(device)[None]).disparity.cpu() for image in frames.images])
    metrics = depth_metrics(
        model.to_depth(disparity), frames.depth, frames.valid, median_scaling=True, max_depth=MAX_DEPTH
    )
    return disparity, metrics.abs_rel


def _render(seeds: range, frames: tuple[int, ...], console: Console, description: str) -> SyntheticBatch:
    parts = [
        synthetic_batch([SyntheticDrive(seed=s, num_frames=max(frames) + 1, height=HEIGHT, width=WIDTH)], frames)
        for s in track(seeds, description=description, console=console)
    ]
    return SyntheticBatch(*(torch.cat(fields) for fields in zip(*parts, strict=True)))


def _recolour(images: Tensor, generator: torch.Generator) -> Tensor:
    """Another gain for each channel and another gamma for each image."""
    count = len(images)
    gain = 0.8 + 0.4 * torch.rand(count, 3, 1, 1, generator=generator)
    gamma = 0.8 + 0.4 * torch.rand(count, 1, 1, 1, generator=generator)
    return (images.clamp(1e-3, 1) ** gamma * gain).clamp(0, 1)
