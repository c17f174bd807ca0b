"""How long and how fast a stage trains, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from hybrid_encoder.config import MIN_SIZE
from hybrid_encoder.data.transforms import Size
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.training.ranges import check_number

MOST_STEPS = 10**12  # far more than anybody waits for


@dataclass(frozen=True)
class StageRecipe:
    """The settings that both stages have.

    Args:
        lr: learning rate of AdamW, up to 1.
        weight_decay: of AdamW, from 0 to 10.
        batch_size: items in a step, for each process.
        epochs: passes over the items, where ``steps`` is 0.
        steps: optimizer steps, whatever the number of items.
        schedule: ``"one_cycle"`` (up for ``warm_up`` of the steps, two at least, then down to little; with one or two
            steps in all the rate is constant), or ``"steps"`` (a tenth of the rate after every ``drop`` of the steps).
        warm_up, drop: shares of all steps.
        div_factor, final_div_factor: of the one cycle, which starts at ``lr / div_factor`` and ends at that divided by
            ``final_div_factor``.
        clip: largest norm of the gradient; None does not clip.
        accumulate: batches whose gradients make one optimizer step.
        ema: decay of an exponential moving average of the weights, which is then what is validated and kept; None keeps
            the weights as they are.
        lr_scale: factors on the learning rate by part of the model, for example ``{"spatial": 0.1}``.
    """

    lr: float
    weight_decay: float
    batch_size: int
    epochs: int = 0
    steps: int = 0
    schedule: Literal["one_cycle", "steps"] = "one_cycle"
    warm_up: float = 0.3
    drop: float = 0.5
    clip: float | None = None
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    accumulate: int = 1
    ema: float | None = None
    lr_scale: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "steps"):
            check_number(name, getattr(self, name), 0, MOST_STEPS, whole=True)
        if self.epochs < 1 and self.steps < 1:
            raise ConfigError(f"epochs is {self.epochs} and steps {self.steps}; one of them must be at least 1.")
        check_number("lr", self.lr, above=0, high=1)
        check_number("weight_decay", self.weight_decay, 0, 10)
        check_number("batch_size", self.batch_size, above=0, whole=True)
        check_number("accumulate", self.accumulate, 1, MOST_STEPS, whole=True)
        if self.ema is not None:
            check_number("ema", self.ema, 0, 1)
        check_number("warm_up", self.warm_up, 0, 1)
        check_number("drop", self.drop, above=0, high=1)
        check_number("div_factor", self.div_factor, 1)
        check_number("final_div_factor", self.final_div_factor, 1)
        if self.clip is not None:
            check_number("clip", self.clip, above=0)
        if self.schedule not in ("one_cycle", "steps"):
            raise ConfigError(f"schedule is {self.schedule!r}; it must be 'one_cycle' or 'steps'.")

    def num_steps(self, num_items: int, num_processes: int = 1) -> int:
        """Return the optimizer steps for a number of items, which the processes share."""
        return self.steps or self.epochs * max(1, num_items // (self.batch_size * self.accumulate * num_processes))

    def scheduler(self, optimizer: torch.optim.Optimizer, num_steps: int) -> Any:
        """Return what sets the learning rates, to be stepped after every optimizer step."""
        if self.schedule == "steps":
            return torch.optim.lr_scheduler.StepLR(optimizer, max(1, round(num_steps * self.drop)))
        if num_steps < 3:  # no room to rise and fall: constant
            return torch.optim.lr_scheduler.StepLR(optimizer, num_steps)
        # The first step is the lowest. OneCycleLR divides by zero where the second is not within the warm-up, or where
        # nothing comes after it.
        warm_up = min(max(self.warm_up, 2 / num_steps), 1 - 1 / num_steps)
        rates = [group["lr"] for group in optimizer.param_groups]
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            rates,
            total_steps=num_steps,
            pct_start=warm_up,
            div_factor=self.div_factor,
            final_div_factor=self.final_div_factor,
        )


def check_size(size: Size) -> None:
    """Raise ConfigError for a size of images, (H, W) or the shorter side alone, that is too small for a model."""
    if isinstance(size, int):
        check_number("the shorter side, size,", size, MIN_SIZE, whole=True)
        return
    for name, side in zip(("height", "width"), size, strict=True):
        check_number(f"the {name} of size", side, MIN_SIZE, whole=True)
