"""One optimizer step: the gradients of its batches added up, in all processes, and nothing that is not finite."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn

from hybrid_encoder.errors import HybridEncoderError
from hybrid_encoder.training.parallel import shares_of
from hybrid_encoder.training.stage import Stage

MOST_SKIPPED = 30  # steps in a row; by then the scale of half precision has fallen by a factor of 1e9


class NonFiniteLossError(HybridEncoderError):
    """A loss, a gradient or a weight was NaN or infinite; the checkpoint that is named is from before."""


class NotFiniteError(Exception):
    """What was not finite, as the beginning of a sentence."""


class StepResult(NamedTuple):
    """What came of a step.

    Attributes:
        losses: of this process, by name, as means over its batches.
        loss: the mean over all batches of all processes.
        stop: whether any process has been asked to stop.
        skipped: half precision overflowed, and the weights are as before.
    """

    losses: dict[str, Tensor]
    loss: float
    stop: bool
    skipped: bool


class Stepper:
    """Takes optimizer steps.

    Args:
        accelerator: of this process.
        stage: the module that trains.
        model: what the accelerator has made of it.
        optimizer: as the accelerator has prepared it.
        scheduler: stepped after every optimizer step; None for a constant rate.
        clip: largest norm of the gradient; None does not clip.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        stage: Stage,
        model: nn.Module,
        optimizer: Any,
        scheduler: Any,
        clip: float | None,
    ) -> None:
        self.accelerator, self.stage, self.model = accelerator, stage, model
        self.optimizer, self.scheduler = optimizer, scheduler
        self.largest = math.inf if clip is None else clip
        self.skipped = 0  # steps in a row that half precision left out

    def take(self, step: int, batches: Sequence[Any], asked_to_stop: Callable[[], bool]) -> StepResult:
        """Take one step with the mean loss over all batches of all processes.

        Args:
            step: its number, for an error message.
            batches: of this process, on any device.
            asked_to_stop: asked once all gradients are there.

        Raises:
            NotFiniteError: the loss or the gradient, in all processes; the weights are as before.
        """
        self.stage.begin_step()
        shares = self._shares(batches)
        found = []
        for number, batch in enumerate(batches, start=1):
            if shares is not None:
                self.stage.share = shares[number - 1]
            found.append(self._add_gradient(batch, 1 / len(batches), last=number == len(batches)))
        report = torch.stack([losses["loss"].float() for losses in found])
        # Processes stop together: one that went on would wait forever for those that have stopped.
        report = torch.cat([report, report.new_tensor([asked_to_stop()])])
        *means, stop = self.accelerator.gather(report[None]).mean(0).tolist()
        for batch, losses, mean in zip(batches, found, means, strict=True):
            if not math.isfinite(mean):
                own = losses["loss"].item()
                elsewhere = " (and not finite in another process)" if math.isfinite(own) else ""
                raise NotFiniteError(f"the loss is {own} at step {step}, for {self.stage.describe(batch)}{elsewhere}")
        loss = sum(means) / len(means)
        norm = self._update()
        if self.skipped > (0 if self._scaler is None else MOST_SKIPPED):
            batch = ", ".join(map(self.stage.describe, batches))
            raise NotFiniteError(
                f"the gradient's norm is {norm} at step {step}, for {batch}, though the loss is {loss:.4g}"
            )
        averaged = {name: torch.stack([losses[name] for losses in found]).mean() for name in found[0]}
        return StepResult(averaged, loss, bool(stop), skipped=self.skipped > 0)

    def _shares(self, batches: Sequence[Any]) -> Tensor | None:
        counts = [self.stage.num_terms(batch) for batch in batches]
        known = [count for count in counts if count is not None]
        return shares_of(known, self.accelerator.device) if len(known) == len(counts) else None

    def _add_gradient(self, batch: Any, weight: float, last: bool) -> dict[str, Tensor]:
        """Add a batch's gradient to that of the step, and return its losses; with the last, processes are averaged."""
        batch = send_to_device(batch, self.accelerator.device, non_blocking=True)
        with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
            losses = self.model(batch)
            self.accelerator.backward(losses["loss"] * weight)
        return {name: value.detach() for name, value in losses.items()}

    @property
    def _scaler(self) -> Any:
        return getattr(self.accelerator, "scaler", None)

    def _update(self) -> float:
        """Change the weights, unless the gradient is not finite, and return its norm.

        Half precision tries larger and larger scales and leaves out the steps that overflow; else the caller ends the
        run. The gradient is the same in all processes.
        """
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), self.largest))
        self.skipped = 0 if math.isfinite(norm) else self.skipped + 1
        if self.skipped <= (0 if self._scaler is None else MOST_SKIPPED):
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.scheduler is not None:
                self.scheduler.step()
        return norm
