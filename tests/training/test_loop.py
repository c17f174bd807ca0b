"""The loop on a small regression: exact resuming, clean stopping, and losses that are not finite."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hybrid_encoder import ConfigError
from hybrid_encoder.training.batches import SeededBatches
from hybrid_encoder.training.checkpointing import newest_checkpoint
from hybrid_encoder.training.loop import LoopConfig, NonFiniteLossError, Stage, train


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


def _run(
    folder: Path, steps: int, stage: Regression | None = None, workers: int = 0, batch_size: int = 4, **options: Any
) -> list[float]:
    stage = stage or Regression()
    optimizer = torch.optim.AdamW(stage.parameters(), 1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    config = LoopConfig(steps, batch_size, workers, save_every=options.pop("save_every", 5), seed=3, cpu=True)
    return train(stage, Numbers(), optimizer, scheduler, folder, config, **options)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stop", [5, 10, 13])
def test_a_resumed_run_takes_the_same_steps(tmp_path: Path, workers: int, stop: int) -> None:
    # Epochs have five steps: in the middle of one, and at its end.
    whole = _run(tmp_path / "whole", 17, workers=workers)
    first = _run(tmp_path / "parts", stop, workers=workers)
    second = _run(tmp_path / "parts", 17, workers=workers, resume=True)
    assert first + second == whole
    assert len(set(whole)) == 17


def test_a_complete_epoch_is_not_read_again() -> None:
    """A run that is resumed at the end of an epoch; older releases of accelerate yield None from an empty loader."""
    batches = SeededBatches(Numbers(), 4, seed=3)
    read: list[tuple[int, int]] = []

    class Loader:
        def __iter__(self) -> Iterator[int]:
            read.append((batches.sampler.epoch, len(batches.sampler)))
            return iter(range(len(batches.sampler) // 4))

    batches.loader = Loader()
    batches.progress.epoch, batches.progress.batch = 2, 5
    assert list(islice(batches, 6)) == [0, 1, 2, 3, 4, 0]
    assert read == [(3, 22), (4, 22)]


def test_items_do_not_depend_on_workers_or_the_model(tmp_path: Path) -> None:
    assert _run(tmp_path / "one", 7, workers=1) == _run(tmp_path / "none", 7)


def test_every_item_is_seen_once_an_epoch_in_another_order_each_time(tmp_path: Path) -> None:
    stage = Regression()
    _run(tmp_path, 10, stage)
    epochs = [[x for batch in batches for x in batch] for batches in (stage.seen[:5], stage.seen[5:])]
    assert all(len(set(epoch)) == 20 for epoch in epochs) and epochs[0] != epochs[1]


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    losses = _run(tmp_path, 150, save_every=1000)
    assert np.mean(losses[-10:]) < 0.2 * np.mean(losses[:10])


def test_two_checkpoints_are_kept_and_an_incomplete_one_is_ignored(tmp_path: Path) -> None:
    _run(tmp_path, 17)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_00000015", "step_00000017"]
    (tmp_path / "checkpoints" / ".step_00000099.partial").mkdir()
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.name == "step_00000017"


def test_sigterm_ends_after_the_step_with_a_checkpoint(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    first = _run(tmp_path / "parts", 17, Regression(kill_at=8))
    assert len(first) == 8 and signal.getsignal(signal.SIGTERM) is before
    assert first + _run(tmp_path / "parts", 17, resume=True) == _run(tmp_path / "whole", 17)


def test_a_killed_process_is_resumed_from_its_last_checkpoint(tmp_path: Path) -> None:
    whole = _run(tmp_path / "whole", 17)
    script = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_loop
        stage = test_loop.Regression()
        plain = stage.forward
        def forward(batch):
            if len(stage.seen) == 12:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(batch)
        stage.forward = forward
        test_loop._run(test_loop.Path({str(tmp_path / "parts")!r}), 17, stage)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL
    assert _run(tmp_path / "parts", 17, resume=True) == whole[10:]


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_batch(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"nan at step 7, for items \[.*step_00000005"):
        _run(tmp_path, 17, Regression(fail_at=7))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000005"]


def test_invalid_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no checkpoint to resume"):
        _run(tmp_path, 5, resume=True)
    _run(tmp_path, 5)
    with pytest.raises(ConfigError, match=r"holds a run already \(step_00000005\)"):
        _run(tmp_path, 9)
    for settings, message in (
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"precision": "int8"}, "is 'int8'"),
        ({"seed": -1}, "seed is -1; it must be from 0"),
        ({"seed": 2**32}, "seed is 4294967296; it must be from 0 to 4294967295"),
    ):
        with pytest.raises(ConfigError, match=message):
            LoopConfig(**{"steps": 1, "batch_size": 1, **settings})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="are 22 items and a step takes 23"):
        _run(tmp_path / "other", 5, batch_size=23)
