"""A regression that trains in milliseconds, on items that draw from every random generator."""

from __future__ import annotations

import math
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hybrid_encoder.training.loop import Trained, make_accelerator, train
from hybrid_encoder.training.loop_config import LoopConfig
from hybrid_encoder.training.stage import Stage

LOOP = ("accumulate", "ema", "compile", "checkpoint_activations", "validate_every", "patience")


class Numbers(Dataset[tuple[Tensor, Tensor]]):
    """Items that draw from every random generator there is, as augmentation does."""

    def __init__(self, count: int = 22) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = random.random() + np.random.rand() + torch.rand(1).item()  # noqa: NPY002  (what old code draws from)
        x = torch.tensor([index / self.count, noise])
        return x, x.sum(0, keepdim=True)


class Regression(Stage):
    """The regression; its loss is NaN at step ``fail_at``, and SIGTERM comes at step ``kill_at``."""

    def __init__(self, fail_at: int | None = None, kill_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 1))
        self.seen: list[list[float]] = []
        self.fail_at, self.kill_at = fail_at, kill_at

    def forward(self, batch: Any) -> dict[str, Tensor]:
        x, y = batch
        self.seen.append(x[:, 0].tolist())
        error = (self.model(x) - y).square().mean()
        if len(self.seen) == self.fail_at:
            error = error * math.nan
        if len(self.seen) == self.kill_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": error, "absolute": error.detach().sqrt()}

    def describe(self, batch: Any) -> str:
        return f"items {batch[0][:, 0].tolist()}"


def recorded(losses: list[float]) -> Callable[..., Trained]:
    """Return ``train`` as it is, except that the losses are kept."""

    def kept(*arguments: Any, **options: Any) -> Trained:
        done = train(*arguments, **options)
        losses.extend(done.losses)
        return done

    return kept


def regress(
    folder: Path, steps: int, stage: Stage | None = None, workers: int = 0, batch_size: int = 4, **options: Any
) -> list[float]:
    """Train the regression in a folder, and return its losses; a checkpoint comes every five steps."""
    stage = stage or Regression()
    optimizer = torch.optim.AdamW(stage.parameters(), 1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    loop = {"save_every": options.pop("save_every", 5), "log_every": options.pop("log_every", 10)}
    loop |= {name: options.pop(name) for name in LOOP if name in options}
    config = LoopConfig(steps, batch_size, workers, seed=3, cpu=True, **loop)
    return train(stage, Numbers(), optimizer, scheduler, folder, config, **options).losses


class Scaler:
    """Half precision's scaler, as far as the loop knows it."""

    def state_dict(self) -> dict[str, float]:
        return {"scale": 1.0}


class ScaledAccelerator:
    """An accelerator as it is in half precision, on any device."""

    scaler = Scaler()

    def __init__(self, config: LoopConfig) -> None:
        self.accelerator = make_accelerator(config)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.accelerator, name)
