"""How good a bird's-eye view is: intersection over union of its maps, and average precision of box centres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder.bev.grid import BevGrid
from hybrid_encoder.errors import InputError

DISTANCES = (0.5, 1.0, 2.0, 4.0)
"""Metres between a detection and a centre that still match, as nuScenes has them."""
MIN_RECALL, MIN_PRECISION = 0.1, 0.1  # nuScenes: what is below either is noise


class IntersectionOverUnion:
    """Intersection over union of every class, added up over a data set before it is divided.

    Args:
        threshold: probability from which a cell counts as covered.

    Example:
        >>> metric = IntersectionOverUnion()
        >>> logits, truth = torch.tensor([[[[9.0, 9.0, -9.0]]]]), torch.tensor([[[[1.0, 0.0, 0.0]]]])
        >>> metric.update({"road": logits}, {"road": truth})
        >>> metric.compute()
        {'road': 0.5, 'mean': 0.5}
    """

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold
        self._counts: dict[str, list[int]] = {}

    def update(self, logits: Mapping[str, Tensor], targets: Mapping[str, Tensor], mask: Tensor | None = None) -> None:
        """Add maps.

        Args:
            logits: by class, (B, 1, X, Y).
            targets: 0 or 1, the same shapes; a class without a target is left out.
            mask: which cells count, the same shape; None is all.

        Raises:
            InputError: a target of another shape than its logits.
        """
        for name, target in targets.items():
            if logits[name].shape != target.shape:
                raise InputError(f"the target {name!r} is {tuple(target.shape)} for {tuple(logits[name].shape)}.")
            predicted, true = logits[name].float().sigmoid() >= self.threshold, target > 0.5
            if mask is not None:
                predicted, true = predicted & mask.bool(), true & mask.bool()
            counts = self._counts.setdefault(name, [0, 0])
            counts[0] += int((predicted & true).sum())
            counts[1] += int((predicted | true).sum())

    def compute(self) -> dict[str, float]:
        """Return the value of every class and their ``"mean"``; NaN where neither map nor truth has a cell."""
        values = {name: i / u if u else float("nan") for name, (i, u) in self._counts.items()}
        return {**values, "mean": float(np.mean(list(values.values()))) if values else float("nan")}


class Detections(NamedTuple):
    """Centres of vehicles that were found in one bird's-eye view.

    Attributes:
        centres: x and y in metres in the axes of the vehicle, (n, 2), the surest first.
        scores: from 0 to 1, (n,).
    """

    centres: Tensor
    scores: Tensor


def find_centres(logits: Tensor, grid: BevGrid, *, radius: float = 2.0, threshold: float = 0.05) -> list[Detections]:
    """Return the peaks of maps of centres.

    A peak is a cell that no other within the radius (a square) exceeds. Its place is the mean of the 3 x 3 cells
    around it, weighted by their scores.

    Args:
        logits: (B, 1, X, Y).
        grid: of the maps.
        radius: metres in which there is one vehicle at most.
        threshold: the least score.

    Returns:
        One for each map of the batch.
    """
    scores = logits.detach().float().sigmoid()
    reach = max(1, round(radius / grid.cell))
    peaks = (F.max_pool2d(scores, 2 * reach + 1, 1, reach) == scores) & (scores >= threshold)
    offsets = torch.arange(3, device=scores.device) - 1.0
    around = F.unfold(scores, 3, padding=1).view(len(scores), 3, 3, *scores.shape[-2:])
    total = around.sum((1, 2))
    shift = torch.stack(
        [(around.sum(2) * offsets[:, None, None]).sum(1), (around.sum(1) * offsets[:, None, None]).sum(1)], -1
    )
    places = grid.centres().to(scores.device) + shift / total[..., None] * grid.cell
    found = []
    for peak, score, place in zip(peaks[:, 0], scores[:, 0], places, strict=True):
        order = score[peak].argsort(descending=True, stable=True)
        found.append(Detections(place[peak][order], score[peak][order]))
    return found


def average_precision(
    detections: Sequence[Detections], truth: Sequence[Tensor], distances: Sequence[float] = DISTANCES
) -> dict[str, float]:
    """Return the average precision of centres over a data set, as nuScenes defines it.

    All detections are taken from the surest down; each takes the nearest centre of its scene that is not taken yet,
    and is right where that is nearer than the distance. Precision is read off at 101 recalls from 0 to 1, those up to
    0.1 are left out, 0.1 is taken off each, and the mean of what is above 0 is divided by 0.9.

    Source: nuScenes, Caesar et al., CVPR 2020.

    Args:
        detections: of every scene.
        truth: x and y of the centres of every scene, (M, 2) or boxes (M, 7).
        distances: in metres.

    Returns:
        By distance (``"ap_0.5"``), and their ``"mean"``; NaN where there is no centre at all.

    Raises:
        InputError: another number of scenes.
    """
    if len(detections) != len(truth):
        raise InputError(f"there are detections of {len(detections)} scenes and centres of {len(truth)}.")
    centres = [scene[:, :2].detach().double().cpu().numpy() for scene in truth]
    found = [(d.centres.detach().double().cpu().numpy(), d.scores.detach().double().cpu().numpy()) for d in detections]
    values = {f"ap_{distance:g}": _precision(found, centres, distance) for distance in distances}
    return {**values, "mean": float(np.mean(list(values.values())))}


def _precision(found: Sequence[tuple[np.ndarray, np.ndarray]], centres: Sequence[np.ndarray], distance: float) -> float:
    total = sum(map(len, centres))
    if total == 0:
        return float("nan")
    scene = np.repeat(np.arange(len(found)), [len(scores) for _, scores in found])
    places = np.concatenate([place for place, _ in found]) if found else np.zeros((0, 2))
    scores = np.concatenate([score for _, score in found]) if found else np.zeros(0)
    free = [np.ones(len(each), dtype=bool) for each in centres]
    right = []
    for index in np.argsort(-scores, kind="stable"):
        among, left = centres[scene[index]], free[scene[index]]
        away = np.where(left, np.hypot(*(among - places[index]).T), np.inf)
        nearest = int(away.argmin()) if len(away) else -1
        right.append(nearest >= 0 and bool(away[nearest] < distance))
        if right[-1]:
            left[nearest] = False
    if not any(right):
        return 0.0
    hits = np.cumsum(right)
    precision, recall = hits / np.arange(1, len(right) + 1), hits / total
    at = np.interp(np.linspace(0, 1, 101), recall, precision, right=0)
    above = np.maximum(at[round(100 * MIN_RECALL) + 1 :] - MIN_PRECISION, 0) / (1 - MIN_PRECISION)
    return float(above.mean())
