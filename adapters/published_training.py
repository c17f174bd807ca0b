"""What the published multi-frame training does to gradients and weights, in a trainer that does not."""

from __future__ import annotations

import torch
from torch.optim.optimizer import Optimizer

from .patching.watching import LOG

MAX_NORM = 10.0
LEARNING_RATE = 1e-5
WEIGHT_DECAY = 0.01


class PublishedTraining:
    """Clips gradients at norm 10, and makes AdamW of Adam, before every step of an optimizer.

    The learning rate stays the trainer's: ``--learning_rate 1e-5`` is the published one; another is told once.
    """

    def __init__(self) -> None:
        self._told = False

    @torch.no_grad()
    def before_step(self, optimizer: Optimizer) -> None:
        """Prepare a step: gradients are finite or not as they were, weights are decayed as AdamW does."""
        groups = optimizer.param_groups
        torch.nn.utils.clip_grad_norm_([x for group in groups for x in group["params"]], MAX_NORM)
        adam = isinstance(optimizer, torch.optim.Adam) and not isinstance(optimizer, torch.optim.AdamW)
        for group in groups:
            if adam and not group["weight_decay"]:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.mul_(1 - group["lr"] * WEIGHT_DECAY)
        rates = {group["lr"] for group in groups}
        if not self._told and rates != {LEARNING_RATE}:
            LOG.warning(
                "the learning rate is %s; the published one is --learning_rate 1e-5", ", ".join(map(str, rates))
            )
        self._told = True
