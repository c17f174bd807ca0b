"""How good a bird's-eye view is on rendered drives that it was not trained on, beside a map that is always the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from hybrid_encoder.bev.metrics import IntersectionOverUnion, average_precision, find_centres
from hybrid_encoder.bev.model import BevModel
from hybrid_encoder.checkpoints.history import History, rendered_seeds
from hybrid_encoder.errors import InputError
from hybrid_encoder.models.base import evaluation_mode
from hybrid_encoder.training.bev_items import BevItem, SurroundMaps

MAPS = ("vehicle", "road")
THRESHOLDS = torch.arange(1, 20) / 20  # among which the constant map has its own


def evaluate_bev(
    predict: BevModel | Callable[[BevItem], Mapping[str, Tensor]], items: SurroundMaps
) -> dict[str, float]:
    """Measure a bird's-eye view.

    Args:
        predict: a model, which is put into evaluation mode meanwhile; or a function from an item to logits by class,
            each (1, X, Y).
        items: to be measured on.

    Returns:
        ``iou_vehicle``, ``iou_road`` and their mean ``miou``; ``ap_0.5``, ``ap_1``, ``ap_2``, ``ap_4`` of the centres
        of vehicles at that many metres, and their mean ``ap``.
    """
    if isinstance(predict, BevModel):
        model = predict
        with evaluation_mode(model):
            return evaluate_bev(lambda item: _predict(model, item), items)
    overlap, found, truth = IntersectionOverUnion(), [], []
    for index in range(len(items)):
        item = items[index]
        logits = {name: value[None].cpu() for name, value in predict(item).items()}
        overlap.update(logits, {name: item.targets[name][None] for name in MAPS})
        found += find_centres(logits["centre"], items.grid)
        truth.append(items.boxes(index))
    iou, precision = overlap.compute(), average_precision(found, truth)
    numbers = {f"iou_{name}": iou[name] for name in MAPS} | {"miou": iou["mean"]}
    return numbers | {("ap" if name == "mean" else name): value for name, value in precision.items()}


def constant_map(items: SurroundMaps) -> Callable[[BevItem], dict[str, Tensor]]:
    """Return what says the same of every scene: how often each cell was covered among these items.

    A cell counts as covered from the share on that fits the items best, by intersection over union.

    Args:
        items: of the training, not those that are measured.
    """
    all_items = [items[index] for index in range(len(items))]
    logits = {"centre": torch.stack([item.centre for item in all_items]).mean(0).clamp(1e-4, 1 - 1e-4).logit()}
    for name in MAPS:
        truth = torch.stack([item.targets[name] for item in all_items])
        share = truth.mean(0)
        fits = []
        for threshold in THRESHOLDS:
            covered = (share >= threshold).float().expand_as(truth)
            both = (covered * truth).sum()
            fits.append(both / (covered + truth - covered * truth).sum().clamp(min=1))
        best = THRESHOLDS[int(torch.stack(fits).argmax())]
        # Not quite the threshold: a share that equals it is covered, whatever the logarithms round to.
        logits[name] = share.clamp(1e-4, 1 - 1e-4).logit() - (best - 1e-4).logit()
    return lambda item: logits


def refuse_seen_seeds(history: History | None, seeds: Sequence[int]) -> bool:
    """Raise InputError where weights were trained on a drive of these seeds.

    Args:
        history: of the weights.
        seeds: of the drives that they are to be measured on.

    Returns:
        Whether all that the weights were trained on is known.
    """
    for record in history or ():
        seen = set(rendered_seeds(record)) & set(seeds)
        if seen:
            raise InputError(
                f"the weights were trained on {len(seen)} of these {len(seeds)} drives (seed {min(seen)}); "
                "give another seed."
            )
    return bool(history) and all(record.get("known", False) for record in history or ())


@torch.no_grad()
def _predict(model: BevModel, item: BevItem) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    images, K, vehicle_T_cam, depth = (
        part[None].to(device) for part in (item.images, item.K, item.vehicle_T_cam, item.depth)
    )
    logits = model(images, K, vehicle_T_cam, depth if model.config.depth == "exact" else None)
    return {name: value[0] for name, value in logits.items()}
