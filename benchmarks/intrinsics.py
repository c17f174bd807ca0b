"""``python -m benchmarks.intrinsics``: the focal length learned from drives, against the true one.

All runs train on the same synthetic drives by the fine stage's ``small`` recipe, from the weights that the package
brings along (trained on other drives, which go straight on) or from random ones. They differ in the focal length that
they are told, in whether it is learned from there, and in the seed of the data order. Controls are the true focal
length, and a wrong one that is taken for true. Held-out drives turn like those that are trained on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from rich.console import Console

import hybrid_encoder
from hybrid_encoder.data.sequences import SourceSequences
from hybrid_encoder.data.sources.rendered import RenderedSource
from hybrid_encoder.data.synthetic.drive import SyntheticBatch, SyntheticDrive, synthetic_batch
from hybrid_encoder.evaluation.metrics import depth_metrics
from hybrid_encoder.training.calibration import read_calibrations
from hybrid_encoder.training.fine import fine_model, train_fine
from hybrid_encoder.training.recipes import FINE

TINY = Path(hybrid_encoder.__file__).parent / "weights" / "tiny"
TRAINED_ON = 10_000  # first seed; the weights of the package come from others
HELD_OUT = range(1_000_000, 1_000_012)


def recordings(drives: list[RenderedSource], factor: float) -> list[RenderedSource]:
    """Return drives as recordings by one camera, which says ``factor`` times its focal length."""
    for drive in drives:
        drive.camera = "the camera"
        drive.K = drive.drive[0].K.copy()
        drive.K[:2, :2] *= factor
    return drives


@torch.no_grad()
def abs_rel(model: Any, frames: SyntheticBatch) -> float:
    """Return the error of median-scaled depth."""
    disparity = torch.cat([model(image[None]) for image in frames.images])
    depth = model.to_depth(F.interpolate(disparity, frames.images.shape[-2:], mode="bilinear", align_corners=False))
    return depth_metrics(depth, frames.depth, frames.valid, median_scaling=True, max_depth=80.0).abs_rel


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.intrinsics", description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--drives", type=int, default=30)
    parser.add_argument("--frames", type=int, default=8, help="of each drive")
    parser.add_argument("--turning", type=float, default=3.0, help="degrees per frame, at most; 0 drives straight on")
    parser.add_argument("--size", default="64x208", help="of the frames, HEIGHTxWIDTH")
    parser.add_argument(
        "--rate", type=float, help="factor on the learning rate of the intrinsics; by default that of the recipe"
    )
    parser.add_argument("--start", default="trained", choices=("trained", "random"), help="weights to start from")
    parser.add_argument(
        "--ways",
        default="true,learned 1.4,learned 0.6,fixed 1.4,fixed 0.6",
        help="whether the focal length is learned or fixed, and what it is at first, as a share of the true one",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    console = Console(highlight=False)
    height, width = (int(side) for side in given.size.split("x"))
    options: dict[str, Any] = {"height": height, "width": width, "turning": given.turning}
    seeds = range(TRAINED_ON, TRAINED_ON + given.drives)
    drives = [RenderedSource(list(SyntheticDrive(seed, given.frames, **options)), f"drive {seed}") for seed in seeds]
    frames = synthetic_batch([SyntheticDrive(s, given.frames, **options) for s in HELD_OUT], (0, given.frames - 1))
    for seed in given.seeds:
        for way in given.ways.split(","):
            kind, _, start = way.partition(" ")
            factor = float(start or 1)
            intrinsics = "learn" if kind == "learned" else "given"
            recipe = dataclasses.replace(
                FINE["small"],
                steps=given.steps,
                size=(height, width),
                intrinsics=intrinsics,  # type: ignore[arg-type]
                intrinsics_lr=given.rate,
            )
            items = SourceSequences(recordings(drives, factor), (height, width), recipe.offsets, augment="flip")
            set_seed(seed)
            began = time.perf_counter()
            model = fine_model(TINY if given.start == "trained" else "tiny", recipe, pretrained=False).float()
            with tempfile.TemporaryDirectory() as folder:
                loop: dict[str, Any] = {"seed": seed, "cpu": True, "save_every": 10**9, "workers": 0}
                final = train_fine(model, items, folder, recipe, **loop)
                learned = read_calibrations(final) if final is not None else []
            found: dict[str, Any] = {"way": way, "seed": seed, "abs_rel": round(abs_rel(model, frames), 4)}
            for camera in learned:
                found |= {"focal": round(factor * camera.fx / camera.start[0], 4), "told": camera.told}
                found |= {"centre": [round(camera.cx - camera.start[2], 2), round(camera.cy - camera.start[3], 2)]}
                found["why"] = camera.why
            found["seconds"] = round(time.perf_counter() - began)
            console.print(json.dumps(found), soft_wrap=True)


if __name__ == "__main__":
    main()
