"""One training loop for both stages: Hugging Face accelerate underneath, stops and goes on exactly.

A run is a folder: ``checkpoints/step_<n>`` (whole or not at all, the last two are kept) and TensorBoard's events where
that is installed. How many processes there are is the launcher's choice (``accelerate launch``).
"""

from __future__ import annotations

import math
import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from hybrid_encoder.errors import ConfigError, HybridEncoderError
from hybrid_encoder.training.parallel import leave_at_exit, synchronize_batch_norm

KEPT = 2  # checkpoints: the last good one survives a crash while the next is written


class NonFiniteLossError(HybridEncoderError):
    """A loss was NaN or infinite; the last checkpoint is from before."""


class Stage(nn.Module):
    """What is trained, all in one module, and how a batch becomes losses."""

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Scalars to log by name; ``"loss"`` is minimised, and a mean over the batch."""
        raise NotImplementedError

    def describe(self, batch: Any) -> str:
        """What the batch was made of, for an error message: file names, where there are any."""
        return ", ".join(map(str, getattr(batch, "names", None) or getattr(batch, "name", None) or ("a batch",)))


@dataclass(frozen=True)
class LoopConfig:
    """How long and how often.

    Args:
        steps: optimizer steps in all, the resumed ones included.
        batch_size: items a step, for each process.
        workers: processes that load data; 0 loads in this one.
        save_every: steps between checkpoints.
        log_every: steps between log entries.
        clip: largest norm of the gradient; None does not clip.
        precision: of autocast, ``"no"``, ``"bf16"`` or ``"fp16"``.
        seed: of the data order and of all random numbers.
        cpu: train on the CPU where an accelerator is to be had, too.
    """

    steps: int
    batch_size: int
    workers: int = 0
    save_every: int = 500
    log_every: int = 10
    clip: float | None = 1.0
    precision: str = "no"
    seed: int = 0
    cpu: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.precision not in ("no", "bf16", "fp16"):
            raise ConfigError(f"precision is {self.precision!r}; it must be 'no', 'bf16' or 'fp16'.")


@dataclass
class Progressed:
    """Where a run stands; saved and restored with it."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # of the epoch, already trained on

    def state_dict(self) -> dict[str, int]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, int]) -> None:
        vars(self).update(state)


class Repeatable(Dataset[Any]):
    """A data set whose items depend on the seed, the epoch and their index alone.

    Augmentation draws from global random numbers, which the model draws from too, and which workers have their own of:
    an item that is drawn again, or elsewhere, would be another.
    """

    def __init__(self, items: Dataset[Any], seed: int) -> None:
        self.items = items
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        # Three numbers as one: neighbours must not share their random numbers.
        seed_everything(int(np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1)[0]))
        try:
            return self.items[index]
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            torch.set_rng_state(states[2])


class Shuffled(Sampler[int]):
    """Every item once, in an order that follows from the seed and the epoch, from ``start`` on."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return self.count - self.start

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        return iter(order[self.start :].tolist())


def train(
    stage: Stage,
    items: Dataset[Any],
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    folder: str | Path,
    config: LoopConfig,
    *,
    collate: Callable[[list[Any]], Any] | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> list[float]:
    """Train up to ``config.steps``.

    Data, its order and its augmentation follow from the seed alone, for any number of workers. SIGTERM ends the run
    after the step at hand, with a checkpoint. A resumed run gives the losses that the uninterrupted one would have
    given.

    Args:
        stage: all that trains; its call turns a batch into losses.
        items: a data set with a length; every epoch takes them all, but for an incomplete last batch.
        optimizer: over the stage's parameters.
        scheduler: stepped after every optimizer step; None for a constant rate.
        folder: of the run.
        config: how long and how often.
        collate: items to a batch; None stacks tensors.
        resume: go on from the newest checkpoint in the folder.

    Returns:
        The loss of every step that was taken, the mean over all processes.

    Raises:
        ConfigError: nothing to resume, or a folder that holds a run already.
        NonFiniteLossError: names the step and the batch; nothing is saved after that.
    """
    folder = Path(folder)
    newest = find_checkpoint(folder)
    if resume and newest is None:
        raise ConfigError(f"{folder} holds no checkpoint to resume from; leave resume out to start there.")
    if newest is not None and not resume:
        raise ConfigError(f"{folder} holds a run already ({newest.name}); resume it, or choose another folder.")
    accelerator = accelerate_with(config)
    items_a_step = config.batch_size * accelerator.num_processes
    count = len(items)  # type: ignore[arg-type]
    if count < items_a_step:
        raise ConfigError(f"there are {count} items and a step takes {items_a_step}; lower the batch size.")
    progressed = Progressed()
    seed_everything(config.seed + 1000 * accelerator.process_index)
    repeatable = Repeatable(items, config.seed)
    sampler = Shuffled(count, config.seed)
    loader = DataLoader(
        repeatable,
        config.batch_size,
        sampler=sampler,
        num_workers=config.workers,
        collate_fn=collate,
        drop_last=True,
        generator=torch.Generator(),  # its own: the loader would draw from the model's random numbers
    )
    if accelerator.num_processes > 1:
        leave_at_exit()
        synchronize_batch_norm(stage, accelerator.device)
    model, optimizer, loader = accelerator.prepare(stage, optimizer, loader)
    accelerator.register_for_checkpointing(progressed)
    if scheduler is not None:
        accelerator.register_for_checkpointing(scheduler)
    if newest is not None:
        accelerator.load_state(str(newest))
    writer = _summary(folder) if accelerator.is_main_process else None
    taken: list[float] = []
    with _terminated() as terminated, _bar(console, config.steps, progressed.step, accelerator) as show:
        batches = _batches(loader, repeatable, sampler, progressed, items_a_step)
        model.train()
        while progressed.step < config.steps:
            batch = next(batches)
            losses = model(batch)
            # Every process must know, or some would wait for others that have stopped.
            report = torch.stack([losses["loss"].detach().float(), losses["loss"].new_tensor(terminated()).float()])
            mean, stop = accelerator.gather(report[None]).mean(0).tolist()
            if not math.isfinite(mean):
                own = losses["loss"].item()
                raise NonFiniteLossError(
                    f"the loss is {own} at step {progressed.step + 1}, for {stage.describe(batch)}"
                    f"{' (and not finite in another process)' if math.isfinite(own) else ''}; the newest checkpoint is "
                    f"{find_checkpoint(folder)}: look at these files, or lower the learning rate."
                )
            taken.append(mean)
            accelerator.backward(losses["loss"])
            if config.clip is not None:
                accelerator.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            optimizer.zero_grad()
            if scheduler is not None:
                scheduler.step()
            progressed.step += 1
            show(progressed.step, mean)
            if writer is not None and progressed.step % config.log_every == 0:
                for name, value in losses.items():
                    writer.add_scalar(name, value.detach().item(), progressed.step)
            if stop or progressed.step == config.steps or progressed.step % config.save_every == 0:
                save(accelerator, folder, progressed.step)
            if stop:
                break
    if writer is not None:
        writer.close()
    return taken


def accelerate_with(config: LoopConfig) -> Accelerator:
    """The accelerator of a run: one process or those of a launcher, on what it says or what there is."""
    AcceleratorState._reset_state()  # a precision of an earlier run in this process would be kept, or refused
    return Accelerator(
        mixed_precision=config.precision,
        cpu=config.cpu,
        step_scheduler_with_optimizer=False,
        # A stage need not use all that it holds, in every batch.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def find_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run."""
    found = [path for path in folder.glob("checkpoints/step_*") if re.fullmatch(r"step_\d+", path.name)]
    return max(found, key=lambda path: int(path.name[5:]), default=None)


def save(accelerator: Accelerator, folder: Path, step: int) -> None:
    """A checkpoint, which gets its name when it is complete; older ones but one go."""
    final = folder / "checkpoints" / f"step_{step:08d}"
    partial = final.with_name(f".{final.name}.partial")
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        for old in sorted(final.parent.glob("step_*"))[:-KEPT]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def _batches(
    loader: Any, repeatable: Repeatable, sampler: Shuffled, progressed: Progressed, items_a_step: int
) -> Iterator[Any]:
    """Batches without end, going on where ``progressed`` stands."""
    while True:
        repeatable.epoch = sampler.epoch = progressed.epoch
        sampler.start = progressed.batch * items_a_step
        for batch in loader:
            progressed.batch += 1
            yield batch
        progressed.epoch, progressed.batch = progressed.epoch + 1, 0


def seed_everything(number: int) -> None:
    """Where random numbers start, for Python, numpy and torch."""
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002  (what augmentation in old code draws from)
    torch.manual_seed(number)


@contextmanager
def _terminated() -> Iterator[Any]:
    """A function that says whether SIGTERM came."""
    came: list[int] = []
    try:
        held = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    except ValueError:  # not the main thread: the signal is somebody else's
        yield lambda: False
        return
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, held)


def _summary(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


@contextmanager
def _bar(console: Console | None, steps: int, done: int, accelerator: Accelerator) -> Iterator[Any]:
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    columns += (TextColumn("loss {task.fields[loss]}"), TimeRemainingColumn())  # type: ignore[assignment]
    hidden = console is None or not accelerator.is_main_process
    with Progress(*columns, console=console, disable=hidden) as progress:
        task = progress.add_task("", total=steps, completed=done, rate="", loss="")

        def show(step: int, loss: float) -> None:
            speed = progress.tasks[0].speed
            progress.update(task, completed=step, rate=f"{speed:.2f} steps/s" if speed else "", loss=f"{loss:.4f}")

        yield show
