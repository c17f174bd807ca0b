"""An exponential moving average of the weights that train, and how it takes their place for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class AveragedWeights:
    """The moving average of a module's trainable parameters.

    The decay rises to its value, as ``min(decay, (1 + n) / (10 + n))`` after ``n`` updates: the weights that a run
    starts from would else weigh on it for thousands of steps. Buffers, such as batch norm's statistics, are those of
    the module.

    Args:
        module: on its device already; frozen parameters are not averaged.
        decay: from 0, which follows the weights, to 1.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self.averages = {name: value.detach().clone() for name, value in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, average in self.averages.items():
            average.lerp_(self.parameters[name], 1 - decay)

    @torch.no_grad()
    def exchange(self) -> None:
        """Exchange averages and weights; done twice, every bit is back in its place."""
        for name, parameter in self.parameters.items():
            average = self.averages[name]
            kept = parameter.clone()
            parameter.copy_(average)  # in place: what was computed from these weights and kept is found to be old
            average.copy_(kept)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averages into the module while the block runs."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]

    @torch.no_grad()
    def load_averages(self, averages: dict[str, Tensor]) -> None:
        """Take over averages that were saved.

        Raises:
            ValueError: they are those of another module.
        """
        if averages.keys() != self.averages.keys():
            raise ValueError("the averages are those of other weights")
        for name, average in self.averages.items():
            if averages[name].shape != average.shape:
                raise ValueError(f"the average of {name} is {tuple(averages[name].shape)}, not {tuple(average.shape)}")
            average.copy_(averages[name])
