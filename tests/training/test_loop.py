"""The loop on a small regression: exact resuming, clean stopping, and losses that are not finite."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from hybrid_encoder import ConfigError
from hybrid_encoder.training.batches import SeededBatches
from hybrid_encoder.training.checkpointing import newest_checkpoint
from hybrid_encoder.training.loop_config import LoopConfig
from hybrid_encoder.training.stepping import NonFiniteLossError

from helpers.small_runs import Numbers, Regression, regress


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stop", [5, 10, 13])
def test_a_resumed_run_takes_the_same_steps(tmp_path: Path, workers: int, stop: int) -> None:
    # Epochs have five steps: in the middle of one, and at its end.
    whole = regress(tmp_path / "whole", 17, workers=workers)
    first = regress(tmp_path / "parts", stop, workers=workers)
    second = regress(tmp_path / "parts", 17, workers=workers, resume=True)
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
    assert list(islice(batches, 6)) == [[0], [1], [2], [3], [4], [0]]
    assert read == [(3, 20), (4, 20)]


def test_items_do_not_depend_on_workers_or_the_model(tmp_path: Path) -> None:
    assert regress(tmp_path / "one", 7, workers=1) == regress(tmp_path / "none", 7)


def test_every_item_is_seen_once_an_epoch_in_another_order_each_time(tmp_path: Path) -> None:
    stage = Regression()
    regress(tmp_path, 10, stage)
    epochs = [[x for batch in batches for x in batch] for batches in (stage.seen[:5], stage.seen[5:])]
    assert all(len(set(epoch)) == 20 for epoch in epochs) and epochs[0] != epochs[1]


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    losses = regress(tmp_path, 150, save_every=1000)
    assert np.mean(losses[-10:]) < 0.2 * np.mean(losses[:10])


def test_two_checkpoints_are_kept_and_an_incomplete_one_is_ignored(tmp_path: Path) -> None:
    regress(tmp_path, 17)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_00000015", "step_00000017"]
    (tmp_path / "checkpoints" / ".step_00000099.partial").mkdir()
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.name == "step_00000017"


def test_sigterm_ends_after_the_step_with_a_checkpoint(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    first = regress(tmp_path / "parts", 17, Regression(kill_at=8))
    assert len(first) == 8 and signal.getsignal(signal.SIGTERM) is before
    assert first + regress(tmp_path / "parts", 17, resume=True) == regress(tmp_path / "whole", 17)


def test_sigterm_that_reaches_the_workers_too(tmp_path: Path) -> None:
    """As launchers and SLURM send it: to the whole process group."""
    script = f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from helpers.small_runs import Regression, regress
        stage = Regression()
        plain = stage.forward
        def forward(batch):
            if len(stage.seen) == 7:
                os.killpg(0, signal.SIGTERM)
            return plain(batch)
        stage.forward = forward
        print(len(regress(Path({str(tmp_path / "parts")!r}), 17, stage, workers=2)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        timeout=300,
        check=False,
        start_new_session=True,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "8\n"), done.stderr
    assert regress(tmp_path / "parts", 17, resume=True) == regress(tmp_path / "whole", 17)[8:]


def test_a_killed_process_is_resumed_from_its_last_checkpoint(tmp_path: Path) -> None:
    whole = regress(tmp_path / "whole", 17)
    script = f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from helpers.small_runs import Regression, regress
        stage = Regression()
        plain = stage.forward
        def forward(batch):
            if len(stage.seen) == 12:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(batch)
        stage.forward = forward
        regress(Path({str(tmp_path / "parts")!r}), 17, stage)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL
    assert regress(tmp_path / "parts", 17, resume=True) == whole[10:]


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_batch(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"nan at step 7, for items \[.*step_00000005"):
        regress(tmp_path, 17, Regression(fail_at=7))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000005"]


def test_invalid_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no checkpoint to resume"):
        regress(tmp_path, 5, resume=True)
    regress(tmp_path, 5)
    with pytest.raises(ConfigError, match=r"holds a run already \(step_00000005\)"):
        regress(tmp_path, 9)
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
        regress(tmp_path / "other", 5, batch_size=23)


def test_losses_are_logged_for_tensorboard(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    losses = regress(tmp_path, 9, log_every=3)
    log = reader.EventAccumulator(str(tmp_path)).Reload()
    assert log.Tags()["scalars"] == ["loss", "absolute", "lr"]
    assert [(entry.step, entry.value) for entry in log.Scalars("loss")] == [
        (step, pytest.approx(losses[step - 1])) for step in (3, 6, 9)
    ]
