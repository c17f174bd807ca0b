"""Both stages of training on rendered drives, from Python: what the commands train-coarse and train-fine do.

python examples/train_synthetic.py --steps 20

That few steps only show how it works; leave --steps out to train as long as the small recipe says.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import torch
from accelerate.utils import set_seed
from rich.console import Console
from torch.utils.data import DataLoader

from hybrid_encoder import HybridDepthModel, HybridEncoderError
from hybrid_encoder.cli.options import parse_size
from hybrid_encoder.data import SyntheticFrame, SyntheticLanes, SyntheticSequences, collate, render_drives
from hybrid_encoder.evaluation import depth_metrics
from hybrid_encoder.training.coarse import CoarseStage, coarse_encoder, order_accuracy, train_coarse
from hybrid_encoder.training.fine import fine_model, train_fine
from hybrid_encoder.training.recipes import COARSE, FINE

HELD_OUT = 1_000_000  # a seed far from those of the training drives
NUM_FRAMES = 8  # of a drive


def abs_rel(weights: Path, frames: list[SyntheticFrame]) -> float:
    """Return the error of median-scaled depth, the mean over frames."""
    model = HybridDepthModel.from_pretrained(weights)
    found = []
    for frame in frames:
        depth = model.to_depth(model.infer(torch.from_numpy(frame.image)[None]).disparity)
        truth, valid = torch.from_numpy(frame.depth)[None], torch.from_numpy(frame.valid)[None]
        found.append(depth_metrics(depth, truth, valid, median_scaling=True).abs_rel)
    return sum(found) / len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/example"), help="a new or an empty folder")
    parser.add_argument("--steps", type=int, help="optimizer steps of each stage; by default the recipe's")
    parser.add_argument("--drives", type=int, default=20, help="synthetic drives to train on")
    parser.add_argument("--size", default="96x320", help="HEIGHTxWIDTH of the images")
    options = parser.parse_args()
    size = parse_size(options.size)
    steps = {} if options.steps is None else {"steps": options.steps}
    coarse = dataclasses.replace(COARSE["small"], size=size, **steps)
    fine = dataclasses.replace(FINE["small"], size=size, **steps)
    drives = render_drives(range(options.drives), NUM_FRAMES, coarse.size)
    held_out = render_drives([HELD_OUT], NUM_FRAMES, coarse.size)
    console = Console()
    set_seed(0)

    # Coarse: points along lanes, in the order of their depth, by words.
    encoder = coarse_encoder("tiny", coarse, pretrained=False)
    train_coarse(encoder, SyntheticLanes(drives, flip=True), options.output / "coarse", coarse, console=console)
    batches = DataLoader(SyntheticLanes(held_out), batch_size=4, collate_fn=collate)
    order = order_accuracy(CoarseStage(encoder, coarse.two_sided, coarse.sampling, coarse.box), batches)
    print(f"pairs of patches in order, held out: {order:.2f} (one half by chance)")

    # Fine: depth and motion from neighbouring frames, with learned prompts that start from the words.
    model = fine_model(options.output / "coarse" / "final", fine, prompts=16)
    frames = SyntheticSequences(drives, fine.offsets, augment=True)
    final = train_fine(model, frames, options.output / "fine", fine, console=console)
    if final is not None:  # None: SIGTERM came; the same call with resume=True continues
        print(f"abs_rel, held out: {abs_rel(final, held_out[0]):.3f} (median-scaled)")
        print(f"weights -> {final}")


if __name__ == "__main__":
    try:
        main()
    except (HybridEncoderError, OSError) as error:  # a setting that cannot be, a full disk: one sentence is enough
        sys.exit(f"error: {error}")
