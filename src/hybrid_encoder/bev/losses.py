"""What a bird's-eye view is trained with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder.errors import InputError

POSITIVE_WEIGHT = {"vehicle": 3.0, "road": 1.0}
"""How much a covered cell counts beside a free one: vehicles cover few cells."""


def weighted_bce(logits: Tensor, target: Tensor, positive_weight: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Return the binary cross-entropy, -(w t log p + (1 - t) log(1 - p)), mean over the cells that count.

    Args:
        logits: any shape; p is their sigmoid.
        target: t from 0 to 1, the same shape.
        positive_weight: w.
        mask: which cells count, bool or 0 and 1, the same shape; None is all. Zero with a gradient where none does.
    """
    loss = F.binary_cross_entropy_with_logits(
        logits.float(), target.float(), pos_weight=logits.new_tensor(positive_weight).float(), reduction="none"
    )
    return _mean(loss, mask)


def centre_focal(logits: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the focal loss of centres, with alpha = 2 and beta = 4.

    -(1 - p)^2 log p where the target is 1, and -(1 - t)^4 p^2 log(1 - p) elsewhere, added up and divided by the number
    of centres (at least 1). Source: CornerNet, ECCV 2018; Objects as Points, 2019.

    Args:
        logits: (B, 1, X, Y); p is their sigmoid.
        target: t, of :func:`hybrid_encoder.bev.centre_map`, the same shape.
        mask: as for :func:`weighted_bce`.
    """
    logits, target = logits.float(), target.float()
    p = logits.sigmoid()
    centre = (target == 1).float()
    positive = (1 - p).square() * F.logsigmoid(logits) * centre
    negative = (1 - target) ** 4 * p.square() * F.logsigmoid(-logits) * (1 - centre)
    weight = torch.ones_like(logits) if mask is None else mask.float()
    return -((positive + negative) * weight).sum() / (centre * weight).sum().clamp(min=1)


def bev_loss(
    logits: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    mask: Tensor | None = None,
    *,
    positive_weight: Mapping[str, float] | None = None,
    centre_weight: float = 0.1,
) -> dict[str, Tensor]:
    """Return the loss of every map, and their weighted sum as ``"loss"``.

    Vehicle and road have :func:`weighted_bce`, centres :func:`centre_focal`.

    Args:
        logits: of ``BevModel``, by class, (B, 1, X, Y).
        targets: by class, from 0 to 1, the same shapes; a class without a target is left out.
        mask: which cells count, (B, 1, X, Y); None is all.
        positive_weight: by class; left out, ``POSITIVE_WEIGHT``.
        centre_weight: of the centres in the sum.

    Raises:
        InputError: no target for any class, or one of another shape than its logits.
    """
    weights = {**POSITIVE_WEIGHT, **(positive_weight or {})}
    losses = {}
    for name, target in targets.items():
        if name not in logits or logits[name].shape != target.shape:
            shape = tuple(logits[name].shape) if name in logits else "no logits"
            raise InputError(f"the target {name!r} is {tuple(target.shape)} for {shape}; both must be alike.")
        losses[name] = (
            centre_focal(logits[name], target, mask)
            if name == "centre"
            else weighted_bce(logits[name], target, weights.get(name, 1.0), mask)
        )
    if not losses:
        raise InputError(f"there is no target; give one or more of {', '.join(logits)}.")
    total = sum(((centre_weight if name == "centre" else 1.0) * loss for name, loss in losses.items()), torch.zeros(()))
    return {**losses, "loss": total}


def _mean(loss: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return loss.mean()
    return (loss * mask).sum() / mask.sum().clamp(min=1)
