"""The learning rate of every step of a recipe."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hybrid_encoder.training.stage_recipe import StageRecipe


def rates(recipe: StageRecipe, steps: int, group: dict[str, Any] | None = None) -> list[float]:
    """Return the rate of every step, of a parameter group with settings of its own if there is one."""
    groups = [{"name": "rest", "params": [nn.Parameter(torch.ones(1))], "lr": recipe.lr}]
    if group is not None:
        groups.insert(0, {"params": [nn.Parameter(torch.ones(1))], **group})
    optimizer = torch.optim.AdamW(groups, recipe.lr)  # as the stages take
    scheduler = recipe.scheduler(optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found
