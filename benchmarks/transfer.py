"""``python -m benchmarks.transfer``: what weights see in rendered streets of four kinds, and in real ones.

Every frame is scaled by medians. Beside the weights stand a constant, which knows nothing of an image, and a plane: 1 /
depth linear in the image's row, fitted to the truth of each image itself, as no model can.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.data import SyntheticDrive
from hybrid_encoder.data.images import to_pixels
from hybrid_encoder.data.street import StreetDrive
from hybrid_encoder.evaluation import PROTOCOLS, ModelPredictor, Prediction, Predictor, Sample, evaluate, kitti_samples
from hybrid_encoder.evaluation.baselines import Constant, fitted_plane

FIRST = 1_500_000_000  # seed: no stage, pretraining or example trains on these streets
STREETS: dict[str, Callable[[int], Any]] = {
    "simple": partial(SyntheticDrive, num_frames=1),
    "KITTI's camera": partial(StreetDrive, num_frames=1, camera="kitti"),
    "any camera": partial(StreetDrive, num_frames=1),
    "any camera, 3 x 4": partial(StreetDrive, num_frames=1, height=240, width=320),
}
REAL = PROTOCOLS["lidar"]
RENDERED = REAL.changed(crop=None)


class Plane(Predictor):
    """A plane that is fitted to the truth of the image."""

    name = "plane"

    def predict(self, sample: Sample) -> Prediction:
        truth = torch.from_numpy(np.array(sample.read_truth()))[None]
        return Prediction(fitted_plane(truth, (truth > 0) & (truth < RENDERED.max_truth))[0].numpy(), "depth")


def rendered(kind: str, count: int) -> list[Sample]:
    """Return one frame each of drives that nothing is trained on."""
    samples = []
    for number in range(count):
        frame = STREETS[kind](FIRST + number)[0]
        image, truth = to_pixels(torch.from_numpy(frame.image)), (frame.depth * frame.valid)[0]
        samples.append(Sample(f"{kind} {number}", number, lambda image=image: image, lambda truth=truth: truth))  # type: ignore[misc]
    return samples


def table(weights: Sequence[str], count: int, kitti: Path | None) -> Table:
    """Return a row for every predictor and a column for every kind of street: abs_rel, and the share of random pairs
    that depth puts in order where the image's row is wrong."""
    predictors: list[Predictor] = [Constant(), Plane()]
    for name in weights:
        model = HybridDepthModel.from_pretrained(name)
        predictors.append(ModelPredictor(model, resampling=REAL.resampling, name=name))
    sets = {kind: (rendered(kind, count), RENDERED) for kind in STREETS}
    if kitti is not None:
        sets["KITTI"] = (kitti_samples(kitti, truth="lidar"), REAL)
    found = Table("abs_rel (depth in order, row wrong)", *(f"{kind}, {len(sets[kind][0])}" for kind in sets))
    for predictor in predictors:
        cells = []
        for samples, protocol in sets.values():
            result = evaluate(predictor, samples, protocol, median_scaling=True, order=True)
            assert result.order is not None  # it was asked for
            cells.append(f"{result.mean.abs_rel:.3f} ({result.order.depth_row_wrong:.3f})")
        found.add_row(predictor.name, *cells)
    return found


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfer", description=__doc__)
    parser.add_argument("weights", nargs="*", default=["tiny"], help="as from_pretrained takes them")
    parser.add_argument("--frames", type=int, default=24, help="of each kind of rendered street")
    parser.add_argument("--kitti", type=Path, help="folder of KITTI raw, whose frames with lidar are measured, too")
    options = parser.parse_args(given)
    Console(width=160).print(table(options.weights, options.frames, options.kitti))


if __name__ == "__main__":
    main()
