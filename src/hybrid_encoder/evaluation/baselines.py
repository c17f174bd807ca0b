"""What knows nothing of an image, measured as models are: a number says little until it is better than these.

Three are made from other truths: a constant, depth by the image's row, and the mean depth at every place of the image.
The fourth is the road itself: a flat one, seen by the image's camera.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.evaluating import evaluate
from hybrid_encoder.evaluation.parts import DISTANCES
from hybrid_encoder.evaluation.predictors import Prediction, Predictor
from hybrid_encoder.evaluation.protocols import Protocol, find_protocol
from hybrid_encoder.evaluation.results import Evaluation
from hybrid_encoder.evaluation.samples import Sample

ROWS, COLUMNS = 32, 64  # of the grid on which depth is remembered: what is finer is of single images
APART = 100  # frames between two images of one recording that show other places: ten seconds of KITTI
FARTHEST = 80.0  # metres
CAMERA_HEIGHT = 1.65  # metres over the road, of KITTI's cameras (Geiger et al. 2013)
MADE_FROM = {
    "drive": "other recordings",
    "neighbours": f"images at least {APART} frames away",
    "image": "other images, of which it is not known whether they show the same place,",
}
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Priors:
    """What the truths of a set of images say about depth, image by image, so that each can be left out.

    Args:
        names, drives, frames: of the images.
        medians: of the truth in metres, (N,).
        rows: median truth by row of the grid, (N, 32); NaN where there is none.
        maps: mean truth by cell of the grid, (N, 32, 64); NaN where there is none.
        leave_out: what is left out for an image: ``"drive"``, all images of its recording; where there is a single one,
            ``"neighbours"``, those of the hundred frames before and after; where none is known, ``"image"``, itself.
    """

    names: tuple[str, ...]
    drives: tuple[str, ...]
    frames: tuple[int | None, ...]
    medians: Floats
    rows: Floats
    maps: Floats
    leave_out: str

    @classmethod
    def of(cls, samples: Sequence[Sample], protocol: str | Protocol) -> Priors:
        """Read the truths of images, each once.

        Args:
            samples: with ground truth.
            protocol: which pixels of it count.

        Raises:
            InputError: no image with a pixel that counts, or a file that is malformed.
        """
        protocol = find_protocol(protocol)
        found = []
        for sample in samples:
            truth = np.asarray(sample.read_truth(), np.float64)
            valid = protocol.valid(torch.from_numpy(truth)).numpy()
            if valid.any():
                found.append((sample.name, sample.drive, sample.frame, *_of_image(truth, valid)))
        if not found:
            raise InputError(f"none of {len(samples)} images has truth that counts; give images that have.")
        names, drives, frames, medians, rows, maps = zip(*found, strict=True)
        leave_out = "image" if not all(drives) else "drive" if len(set(drives)) > 1 else "neighbours"
        return cls(names, drives, frames, np.array(medians), np.stack(rows), np.stack(maps), leave_out)

    def others(self, sample: Sample) -> NDArray[np.bool_]:
        """Return which images may be known when this one is predicted, (N,)."""
        if self.leave_out == "image":
            return np.array([name != sample.name for name in self.names])
        far = [
            self.leave_out == "neighbours" and None not in (a, b) and abs(a - b) >= APART  # type: ignore[operator]
            for a, b in ((frame, sample.frame) for frame in self.frames)
        ]
        return np.array([drive != sample.drive or away for drive, away in zip(self.drives, far, strict=True)])


class Prior(Predictor):
    """A baseline made from the truths of other images; depth in metres."""

    metric = True

    def __init__(self, name: str, priors: Priors, depth: Callable[[Priors, NDArray[np.bool_]], Floats]) -> None:
        self.name, self.priors, self.depth = name, priors, depth
        self.settings = {"images": len(priors.names), "left_out": priors.leave_out}
        self.made: dict[bytes, Floats] = {}  # the images of a drive leave the same ones out

    def check(self, samples: Sequence[Sample]) -> None:
        """Raise InputError unless every image has other ones to learn from."""
        for sample in samples:
            if not self.priors.others(sample).any():
                raise InputError(
                    f"{self.name} has no other image to learn from for {sample.name}; evaluate several images, or give "
                    "those of a training set."
                )

    def predict(self, sample: Sample) -> Prediction:
        use = self.priors.others(sample)
        if use.tobytes() not in self.made:
            self.made = {use.tobytes(): self.depth(self.priors, use)}
        return Prediction(self.made[use.tobytes()], "depth")


class FlatRoad(Predictor):
    """A flat road under a level camera, and nothing above it: depth is f h / (row - horizon).

    Args:
        height: of the camera over the road, in metres. With median scaling it does not matter.
        farthest: depth from the horizon up, in metres.
    """

    name = "flat road"
    metric = True

    def __init__(self, height: float = CAMERA_HEIGHT, farthest: float = 80.0) -> None:
        self.height, self.farthest = height, farthest
        self.settings = {"camera_height": height, "farthest": farthest}

    def check(self, samples: Sequence[Sample]) -> None:
        """Raise InputError unless the intrinsics of every image are known."""
        if unknown := [sample.name for sample in samples if sample.K is None]:
            raise InputError(f"{self.name} needs the intrinsics of {unknown[0]}; give them, or leave this one out.")

    def predict(self, sample: Sample) -> Prediction:
        assert sample.K is not None  # looked at before
        height, width = sample.read_image().shape[:2]
        below = np.maximum(np.arange(height) - float(sample.K[1, 2]), 1e-9)
        depth = np.minimum(float(sample.K[1, 1]) * self.height / below, self.farthest)
        return Prediction(np.repeat(depth[:, None], width, axis=1), "depth")


class Constant(Predictor):
    """The same depth everywhere, one metre: with median scaling, what any constant gives."""

    name = "constant"

    def predict(self, sample: Sample) -> Prediction:
        return Prediction(np.ones((1, 1)), "depth")


def baselines(
    samples: Sequence[Sample],
    protocol: str | Protocol,
    training: Sequence[Sample] | None = None,
    *,
    median_scaling: bool = False,
) -> tuple[list[Predictor], str]:
    """Return the baselines that these images allow, and a sentence on what they were made from.

    Args:
        samples: that are evaluated.
        protocol: that they are evaluated by.
        training: images with truth to make them from. By default the evaluated ones themselves. Of both, those of the
            image's own recording are left out; where there is a single recording, those of the same place.
        median_scaling: whether they will be scaled to the truth: then a constant needs no other image.

    Raises:
        InputError: a file that is malformed.
    """
    protocol = find_protocol(protocol)
    found: list[Predictor] = []
    source = training or samples
    priors = Priors.of(source, protocol)
    if all(priors.others(sample).any() for sample in samples):
        found = [Prior("constant", priors, constant), Prior("image row", priors, image_row)]
        found.append(Prior("mean map", priors, mean_map))
        about = f"made from the truths of {MADE_FROM[priors.leave_out]} of the {'training' if training else 'test'} set"
    elif median_scaling:
        found = [Constant()]
        about = "no image row and mean map: there is no image of another place to make them from"
    else:
        about = "no constant, image row and mean map: there is no image of another place to make them from"
    if all(sample.K is not None for sample in samples):
        found.append(FlatRoad(farthest=protocol.max_depth))
    return found, about


def evaluate_baselines(
    samples: Sequence[Sample],
    protocol: str | Protocol,
    *,
    median_scaling: bool,
    training: Sequence[Sample] | None = None,
    distances: Sequence[float] = DISTANCES,
    **options: Any,
) -> tuple[list[Evaluation], str]:
    """Evaluate the baselines as a model was, and say what they were made from.

    Args:
        samples, protocol, training: as for :func:`baselines`.
        median_scaling: scale them to the truth, as the model was.
        distances: edges of the ranges of distance.
        options: ``regions``, ``order`` and ``console`` of :func:`~hybrid_encoder.evaluation.evaluating.evaluate`.

    Raises:
        InputError: a file that is malformed.
    """
    found, about = baselines(samples, protocol, training, median_scaling=median_scaling)
    options = {"median_scaling": median_scaling, "distances": distances, **options}
    return [evaluate(predictor, samples, protocol, **options) for predictor in found], about


def constant(priors: Priors, use: NDArray[np.bool_]) -> Floats:
    """Return the median of the images' median depths, (1, 1)."""
    return np.median(priors.medians[use]).reshape(1, 1)


def image_row(priors: Priors, use: NDArray[np.bool_]) -> Floats:
    """Return the median over the images of each row's depth, (32, 1); rows without any have that of the nearest."""
    rows = priors.rows[use]
    known = np.flatnonzero(~np.isnan(rows).all(axis=0))
    return np.interp(np.arange(ROWS), known, np.nanmedian(rows[:, known], axis=0))[:, None]


def mean_map(priors: Priors, use: NDArray[np.bool_]) -> Floats:
    """Return the mean over the images of each cell's depth, (32, 64); cells without any have their row's."""
    maps = priors.maps[use]
    count = (~np.isnan(maps)).sum(axis=0)
    mean = np.nansum(maps, axis=0) / np.maximum(count, 1)
    return np.where(count > 0, mean, image_row(priors, use))


def _of_image(truth: Floats, valid: NDArray[np.bool_]) -> tuple[float, Floats, Floats]:
    """Return the median truth of an image, its medians by row of the grid, and its means by cell."""
    height, width = truth.shape
    v, u = np.nonzero(valid)
    g, row, column = truth[valid], v * ROWS // height, u * COLUMNS // width
    rows = np.full(ROWS, np.nan)
    for index in np.unique(row):
        rows[index] = np.median(g[row == index])
    cell = row * COLUMNS + column
    count = np.bincount(cell, minlength=ROWS * COLUMNS)
    total = np.bincount(cell, weights=g, minlength=ROWS * COLUMNS)
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return float(np.median(g)), rows, means.reshape(ROWS, COLUMNS)


def fitted_plane(depth: Tensor, valid: Tensor) -> Tensor:
    """Return the depth whose inverse is linear in the image's row, and nearest to the truth's by least squares.

    It knows the truth of the image itself, as no model does: what is not better than it knows little more than that the
    road comes towards the camera.

    Args:
        depth: the truth in metres, (1, H, W).
        valid: bool, (1, H, W); at least two rows have some.

    Returns:
        (1, H, W), up to 80 metres.
    """
    rows = torch.arange(depth.shape[-2], dtype=torch.float64)[:, None].expand(depth.shape[-2:])
    known = rows[valid[0]]
    inverse = depth[valid].double().reciprocal()
    slope, offset = torch.linalg.lstsq(torch.stack([known, torch.ones_like(known)], 1), inverse[:, None]).solution[:, 0]
    found: Tensor = (slope * rows + offset).clamp(min=1 / FARTHEST).reciprocal()[None].float()
    return found
