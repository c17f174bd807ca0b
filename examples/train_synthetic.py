"""Both stages of training on rendered drives, by library calls: what train-coarse and train-fine do.

python examples/train_synthetic.py --steps 20

So few steps show how it goes, not a good model; without --steps the small recipe's own numbers hold.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from rich.console import Console
from torch.utils.data import DataLoader

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.data import SyntheticDrive, SyntheticFrame, SyntheticLanes, SyntheticSequences, collate
from hybrid_encoder.evaluation import depth_metrics
from hybrid_encoder.training.coarse import CoarseStage, coarse_encoder, order_accuracy, train_coarse
from hybrid_encoder.training.fine import fine_model, train_fine
from hybrid_encoder.training.loop import seed_everything
from hybrid_encoder.training.recipes import COARSE, FINE

HELD_OUT = 1_000_000  # a seed far from those that are fitted


def render(seeds: range, size: tuple[int, int]) -> list[list[SyntheticFrame]]:
    """Drives of eight frames, held in memory."""
    return [list(SyntheticDrive(seed=s, num_frames=8, height=size[0], width=size[1])) for s in seeds]


def abs_rel(weights: Path, frames: list[SyntheticFrame]) -> float:
    """Median-scaled error of the depth, the mean over frames."""
    model = HybridDepthModel.from_pretrained(weights)
    found = []
    for frame in frames:
        depth = model.to_depth(model.infer(torch.from_numpy(frame.image)[None]).disparity)
        truth, valid = torch.from_numpy(frame.depth)[None], torch.from_numpy(frame.valid)[None]
        found.append(depth_metrics(depth, truth, valid, median_scaling=True).abs_rel)
    return sum(found) / len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/example"), help="an empty or a new folder")
    parser.add_argument("--steps", type=int, help="of each stage; by default the recipe's")
    parser.add_argument("--drives", type=int, default=20)
    parser.add_argument("--size", default="96x320", help="HEIGHTxWIDTH")
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    steps = {} if options.steps is None else {"steps": options.steps}
    coarse = dataclasses.replace(COARSE["small"], size=(height, width), **steps)
    fine = dataclasses.replace(FINE["small"], size=(height, width), **steps)
    drives, held_out = render(range(options.drives), coarse.size), render(range(HELD_OUT, HELD_OUT + 1), coarse.size)
    console = Console()
    seed_everything(0)

    # Coarse: points along lanes, in the order of the words.
    encoder = coarse_encoder("tiny", coarse, pretrained=False)
    train_coarse(encoder, SyntheticLanes(drives, flip=True), options.output / "coarse", coarse, console=console)
    batches = DataLoader(SyntheticLanes(held_out), batch_size=4, collate_fn=collate)
    order = order_accuracy(CoarseStage(encoder, coarse.two_sided, coarse.sampling, coarse.box), batches)
    print(f"pairs of patches in order, held out: {order:.2f} (one half by chance)")

    # Fine: depth and motion from neighbouring frames, with learned prompts that start from the words.
    model = fine_model(options.output / "coarse" / "final", fine, prompts=16)
    frames = SyntheticSequences(drives, fine.offsets, augment=True)
    final = train_fine(model, frames, options.output / "fine", fine, console=console)
    if final is not None:  # None: SIGTERM came; the same call with resume=True goes on
        print(f"abs_rel, held out: {abs_rel(final, held_out[0]):.3f} (median-scaled)")
        print(f"weights -> {final}")


if __name__ == "__main__":
    main()
