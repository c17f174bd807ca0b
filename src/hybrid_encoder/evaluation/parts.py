"""Where an image's depth is wrong: the metrics by distance, and by what a pixel shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.metrics import DepthMetrics, pixel_metrics
from hybrid_encoder.evaluation.results import ImageResult

DISTANCES = (0.0, 10.0, 20.0, 40.0, 80.0)
"""Edges of the usual ranges of distance, in metres."""


@dataclass(frozen=True)
class PartMean:
    """The metrics of one part over a test set.

    Args:
        metrics: the mean over the images that show the part, each with the same weight.
        num_images: how many show it.
    """

    metrics: DepthMetrics
    num_images: int


def parts_of(
    pred: Tensor,
    target: Tensor,
    valid: Tensor,
    distances: Sequence[float] = DISTANCES,
    regions: Mapping[str, Tensor | NDArray[np.bool_]] | None = None,
) -> dict[str, DepthMetrics]:
    """Compare depth with ground truth in parts of one image.

    A prediction is scaled by the whole image before it is taken apart, never by the part: a part's own median would
    hide that near is predicted too near and far too far.

    Args:
        pred: depth in metres, scaled and clamped, of one image: (H, W), or with further dimensions of 1.
        target: ground truth in metres, same shape.
        valid: bool, same shape: the pixels that count.
        distances: edges in metres, rising: a pixel is in a range where low <= truth < high. Empty for no ranges.
        regions: bool masks (H, W) by the name of what they show, at the size of the ground truth.

    Returns:
        The metrics by the name of the part, ``"0-10 m"`` and so on and then the regions; a part without a valid pixel
        is left out.

    Raises:
        InputError: shapes that differ, edges that do not rise, or two parts of one name.
    """
    if pred.shape != target.shape or valid.shape != target.shape or target.numel() != math.prod(target.shape[-2:]):
        raise InputError(
            f"pred is {tuple(pred.shape)}, target {tuple(target.shape)} and valid {tuple(valid.shape)}; all must be "
            "(H, W) of one image."
        )
    size = tuple(target.shape[-2:])
    use = valid.reshape(size).cpu()
    d, g = (tensor.detach().reshape(size).cpu()[use].double() for tensor in (pred, target))
    masks = {name: (g >= low) & (g < high) for name, low, high in distance_ranges(distances)}
    for name, region in (regions or {}).items():
        mask = torch.as_tensor(region).cpu()
        if tuple(mask.shape) != size or mask.dtype != torch.bool:
            raise InputError(
                f"region {name!r} is {tuple(mask.shape)} of {mask.dtype}; it must be of bool and {size}, as the truth."
            )
        if name in masks:
            raise InputError(f"two parts are called {name!r}; give the region another name.")
        masks[name] = mask[use]
    return {name: pixel_metrics(d[mask], g[mask]) for name, mask in masks.items() if mask.any()}


def distance_ranges(edges: Sequence[float]) -> list[tuple[str, float, float]]:
    """Return the ranges between these edges as (name, low, high), in metres.

    Raises:
        InputError: edges that are negative or do not rise, or a single one.
    """
    edges = [float(edge) for edge in edges]
    rising = all(low < high for low, high in pairwise(edges))
    if len(edges) == 1 or not rising or any(edge < 0 or math.isnan(edge) for edge in edges):
        raise InputError(
            f"the edges of distance are {edges}; give at least two that rise, such as 0, 10, 20, 40, 80, or none."
        )
    return [(f"{low:g}-{high:g} m", low, high) for low, high in pairwise(edges)]


def label_regions(labels: NDArray[Any], classes: Mapping[str, Iterable[int]]) -> dict[str, NDArray[np.bool_]]:
    """Return masks for :func:`parts_of` from an image of labels.

    Args:
        labels: integers, (H, W), at the size of the ground truth.
        classes: the labels that a region is made of, by its name: ``{"road": [7], "vehicles": [26, 27, 28]}``.

    Raises:
        InputError: labels that are not integers of one channel.
    """
    if labels.ndim != 2 or labels.dtype.kind not in "iub":
        raise InputError(f"labels are {labels.shape} of {labels.dtype}; they must be integers, (H, W).")
    return {name: np.isin(labels, list(numbers)) for name, numbers in classes.items()}


def mean_parts(images: Iterable[ImageResult]) -> dict[str, PartMean]:
    """Average every part over the images that show it: ranges of distance from the nearest on, then regions by name."""
    found: dict[str, list[DepthMetrics]] = {}
    for image in images:
        for name, metrics in image.parts.items():
            found.setdefault(name, []).append(metrics)
    return {name: PartMean(DepthMetrics.mean(found[name]), len(found[name])) for name in sorted(found, key=_place)}


def _place(name: str) -> tuple[float, str]:
    """Order ranges of distance by their beginning, and regions after them by name."""
    low, dash, rest = name.partition("-")
    try:
        return (float(low), "") if dash and rest.endswith(" m") else (math.inf, name)
    except ValueError:
        return math.inf, name
