"""Predictions against ground truth by a protocol: image by image, and their mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from hybrid_encoder.config.checking import shown
from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.metrics import DepthMetrics, median, pixel_metrics
from hybrid_encoder.evaluation.ordering import WordOrder, word_order
from hybrid_encoder.evaluation.parts import DISTANCES, parts_of
from hybrid_encoder.evaluation.predictors import Prediction, Predictor
from hybrid_encoder.evaluation.protocols import Protocol, find_protocol
from hybrid_encoder.evaluation.results import Evaluation, ImageResult
from hybrid_encoder.evaluation.samples import Sample

Regions = Callable[[Sample], Mapping[str, NDArray[np.bool_]]]


@dataclass(frozen=True)
class Compared:
    """One prediction beside its ground truth.

    Args:
        depth: in metres, as it is judged: at the size of the truth, scaled and clamped; float64, (H, W).
        truth: in metres, 0 where unknown; float64, (H, W).
        valid: the pixels that count; bool, (H, W).
        scale: that the prediction was multiplied by.
        metrics: over the pixels that count.
    """

    depth: Tensor
    truth: Tensor
    valid: Tensor
    scale: float
    metrics: DepthMetrics


def evaluate(
    predictor: Predictor,
    samples: Sequence[Sample],
    protocol: str | Protocol = "eigen",
    *,
    median_scaling: bool | None = None,
    factor: float | None = None,
    distances: Sequence[float] = DISTANCES,
    regions: Regions | None = None,
    order: bool | None = None,
    seen: Callable[[Sample, Prediction, Compared], None] | None = None,
    console: Console | None = None,
) -> Evaluation:
    """Compare predictions with ground truth, image by image, and average over the images.

    Args:
        predictor: what predicts.
        samples: the test set, at least one image; their ground truth is what the protocol's ``truth`` names.
        protocol: its name, one of ``PROTOCOLS``, or a protocol.
        median_scaling: multiply every prediction by the median of its ground truth over its own median. By default it
            is done unless the predictor gives metres or a factor is given.
        factor: multiplies depth, before median scaling where there is any: 5.4 for Monodepth2's stereo models.
        distances: edges of the ranges of distance that have metrics of their own, in metres.
        regions: gives masks of what is seen, by name, at the size of the ground truth; these have metrics, too.
        order: measure which of two random pixels the words, and the depth, call nearer (:func:`.word_order`); by
            default where the predictor has words.
        seen: called with every image when it has been compared.
        console: where to show progress.

    Raises:
        InputError: a file that is malformed, a prediction that is no depth, an image without a valid pixel, or
            predictions that are all outside of the range of depth.
    """
    protocol = find_protocol(protocol)
    if factor is not None and not 0 < factor < float("inf"):
        raise InputError(f"factor is {shown(factor)}; a number above 0 is needed.")
    if not samples:
        raise InputError("there are 0 images to evaluate; give at least one.")
    predictor.check(samples)
    scaling = not predictor.metric and factor is None if median_scaling is None else median_scaling
    images = []
    for sample in track(samples, description="evaluating", console=console, disable=console is None):
        prediction = predictor.predict(sample)
        found = compare(
            prediction, sample.read_truth(), protocol, median_scaling=scaling, factor=factor or 1.0, name=sample.name
        )
        parts = parts_of(found.depth, found.truth, found.valid, distances, regions(sample) if regions else None)
        pairs = None
        if order or (order is None and prediction.logits is not None):
            pairs = _order(prediction, found, protocol, sample.name)
        images.append(ImageResult(sample.name, found.metrics, found.scale, parts, pairs))
        if seen is not None:
            seen(sample, prediction, found)
    mean = DepthMetrics.mean([image.metrics for image in images])
    if mean.num_below + mean.num_above == mean.num_valid:
        raise InputError(
            f"all of {mean.num_valid} predictions are outside of the range of depth, {mean.num_below} below and "
            f"{mean.num_above} above; the weights do not give metres: scale by medians, or take other weights."
        )
    settings: dict[str, Any] = {
        "predictor": {"name": predictor.name, "metric": predictor.metric, **predictor.settings},
        "protocol": protocol.as_dict(),
        "median_scaling": scaling,
        "factor": factor or 1.0,
    }
    return Evaluation(predictor.name, protocol.name, tuple(images), mean, settings)


def compare(
    prediction: Prediction,
    truth: NDArray[Any],
    protocol: Protocol,
    *,
    median_scaling: bool,
    factor: float = 1.0,
    name: str = "image",
) -> Compared:
    """Compare one prediction with its ground truth.

    Disparity is resized to the size of the truth and inverted; of a prediction that is depth, 1 / depth is what is
    resized. Then depth is multiplied by the factor, by median(truth) / median(prediction) over the pixels that count,
    and clamped to the protocol's range.

    Args:
        prediction: at any size.
        truth: in metres, 0 where unknown, (H, W).
        protocol: says which pixels count, and the range.
        median_scaling, factor: as for :func:`evaluate`.
        name: of the image, for the errors.

    Raises:
        InputError: a prediction that is no depth, or no pixel that counts.
    """
    disparity = prediction.disparity(name)
    target = torch.from_numpy(np.asarray(truth, np.float64))
    valid = protocol.valid(target)
    if not valid.any():
        raise InputError(f"{name}: 0 pixels count: {protocol.rule}; leave the image out, or take another protocol.")
    depth = factor / resized(disparity, (target.shape[0], target.shape[1]), protocol.resize)
    scale = factor
    if median_scaling:
        middle = median(depth[valid])
        if not 0 < middle < float("inf"):
            raise InputError(f"{name}: the median prediction is {middle:g} m; median scaling needs a finite one.")
        ratio = median(target[valid]) / middle
        depth, scale = depth * ratio, factor * ratio
    num_below = int((depth[valid] < protocol.min_depth).sum())
    num_above = int((depth[valid] > protocol.max_depth).sum())
    depth = depth.clamp(protocol.min_depth, protocol.max_depth)
    metrics = pixel_metrics(depth[valid], target[valid], num_below=num_below, num_above=num_above)
    return Compared(depth, target, valid, scale, metrics)


def _order(prediction: Prediction, found: Compared, protocol: Protocol, name: str) -> WordOrder:
    """Return the order of pairs among the pixels that count."""
    known = torch.where(found.valid, found.truth, 0)
    size = (known.shape[0], known.shape[1])
    # Not found.depth: beyond the protocol's range all of it is equal. In float32, what was equal before it was resized
    # is so still, which rounding undoes in the last digits of float64.
    order = -resized(prediction.disparity(name), size, protocol.resize).float()
    return word_order(prediction.logits, known, depth=order, seed=name)


def resized(disparity: Tensor, size: tuple[int, int], method: str) -> Tensor:
    """Return disparity (h, w) at another size, as OpenCV's ``resize`` computes it: no filter where it gets smaller.

    Args:
        disparity: float64.
        size: (H, W).
        method: ``"bilinear"``, with pixel centres at half integers and borders repeated, or ``"nearest"``, which takes
            the pixel at floor(x w / W).
    """
    if size == tuple(disparity.shape):
        return disparity
    if method == "bilinear":
        return F.interpolate(disparity[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    rows, columns = (
        (torch.arange(new, dtype=torch.float64) * (1 / (new / old))).floor().long().clamp(max=old - 1)
        for new, old in zip(size, disparity.shape, strict=True)
    )
    return disparity[rows[:, None], columns]
