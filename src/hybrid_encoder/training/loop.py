"""One training loop for both stages, on Hugging Face accelerate; a stopped run is resumed exactly.

A run is a folder: ``checkpoints/step_<number>`` (complete or absent, the last two are kept), and TensorBoard's event
files where TensorBoard is installed. The launcher (``accelerate launch``) decides how many processes there are.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import Dataset

from hybrid_encoder.errors import ConfigError, HybridEncoderError
from hybrid_encoder.training.batches import SeededBatches
from hybrid_encoder.training.checkpointing import (
    checkpoint_to_start_from,
    load_checkpoint,
    newest_whole,
    save_checkpoint,
)
from hybrid_encoder.training.display import RunLog, progress_bar
from hybrid_encoder.training.locking import hold_run
from hybrid_encoder.training.parallel import any_process, process_state, synchronize_batch_norm
from hybrid_encoder.training.ranges import check_number
from hybrid_encoder.training.state import RunState

NUM_SEEDS = 2**32  # numpy takes no larger seed
MAX_WORKERS = 256  # each holds a copy of the data set's memory
MOST_SKIPPED = 30  # steps in a row; by then the scale of half precision has fallen by a factor of 1e9


class NonFiniteLossError(HybridEncoderError):
    """A loss, a gradient or a weight was NaN or infinite; the checkpoint that is named is from before."""


class Stage(nn.Module):
    """Everything that trains, in one module, and how a batch becomes losses."""

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Return scalars to log by name; ``"loss"`` is minimised, and is a mean over the batch."""
        raise NotImplementedError

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    def describe(self, batch: Any) -> str:
        """Return what the batch was made of, for an error message: file names, where there are any."""
        return ", ".join(map(str, getattr(batch, "names", None) or getattr(batch, "name", None) or ("a batch",)))


@dataclass(frozen=True)
class LoopConfig:
    """How long a run trains, how it loads data, and how often it saves.

    Args:
        steps: optimizer steps in all, those before a resume included.
        batch_size: items in a step, for each process.
        workers: processes that load data, up to 256; 0 loads in this one.
        save_every: steps between checkpoints.
        log_every: steps between log entries.
        clip: largest norm of the gradient; None does not clip.
        precision: of autocast, ``"no"``, ``"bf16"`` or ``"fp16"`` (not on a CPU).
        seed: of the data order and of all random numbers, from 0 up.
        cpu: train on the CPU even where there is an accelerator.
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
            check_number(name, getattr(self, name), 1, whole=True)
        check_number("workers", self.workers, 0, MAX_WORKERS, whole=True)
        check_number("seed", self.seed, 0, NUM_SEEDS - 1, whole=True)
        if self.clip is not None:
            check_number("clip", self.clip, above=0)
        if self.precision not in ("no", "bf16", "fp16"):
            raise ConfigError(f"precision is {self.precision!r}; it must be 'no', 'bf16' or 'fp16'.")


def train(
    stage: Stage,
    items: Dataset[Any],
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    folder: str | Path,
    config: LoopConfig,
    *,
    collate: Callable[[list[Any]], Any] | None = None,
    resume: bool | str = False,
    console: Console | None = None,
) -> list[float]:
    """Train up to ``config.steps``.

    Data, its order and its augmentation follow from the seed alone, for any number of workers. SIGTERM ends the run
    after the current step, with a checkpoint. A resumed run takes the same steps, to the last bit, as one that was
    never stopped. A second run cannot use the folder meanwhile.

    Args:
        stage: everything that trains; its call turns a batch into losses.
        items: a data set with a length; every epoch takes all items, except an incomplete last batch.
        optimizer: over the stage's parameters; its state is of numbers and tensors, like the scheduler's.
        scheduler: stepped after every optimizer step; None for a constant rate.
        folder: of the run.
        config: how long it trains, how it loads data, and how often it saves.
        collate: turns a list of items into a batch; None stacks tensors.
        resume: continue from the newest checkpoint in the folder, or from the one of this name.
        console: shows a progress bar; None shows nothing.

    Returns:
        The loss of every step that was taken, the mean over all processes.

    Raises:
        ConfigError: nothing to resume, a folder that holds a run already or that another run is using, or fewer items
            than one step takes.
        CheckpointError: the checkpoint to resume from is damaged, or one cannot be saved.
        NonFiniteLossError: names the step and the batch; nothing is saved after that.
    """
    folder = Path(folder)
    accelerator = make_accelerator(config)
    with hold_run(folder):
        start = checkpoint_to_start_from(folder, resume)
        # Each process draws its own random numbers, for dropout and the like.
        set_seed((config.seed + 1000 * accelerator.process_index) % NUM_SEEDS)
        batches = SeededBatches(
            items,
            config.batch_size,
            config.seed,
            num_processes=accelerator.num_processes,
            workers=config.workers,
            collate=collate,
        )
        if accelerator.num_processes > 1:
            synchronize_batch_norm(stage, accelerator.device)
        run = _Run(accelerator, stage, optimizer, scheduler, batches, folder, config)
        if start is not None:
            load_checkpoint(run.state, start, accelerator.num_processes)
        return run.train(console)


def make_accelerator(config: LoopConfig) -> Accelerator:
    """Return the accelerator of a run, for this process alone or for all that a launcher has started.

    Raises:
        ConfigError: half precision on a CPU, where accelerate would silently train in full precision.
    """
    process_state(config.cpu)
    accelerator = Accelerator(
        mixed_precision=config.precision,
        cpu=config.cpu,
        step_scheduler_with_optimizer=False,
        # A batch need not use every parameter of its stage.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if config.precision == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("precision is 'fp16' on a CPU; take 'bf16' or 'no' there.")
    return accelerator


class _Run:
    """What :func:`train` works on: all that is saved in a checkpoint, and the steps themselves."""

    def __init__(
        self,
        accelerator: Accelerator,
        stage: Stage,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        batches: SeededBatches,
        folder: Path,
        config: LoopConfig,
    ) -> None:
        self.accelerator, self.stage, self.scheduler = accelerator, stage, scheduler
        self.batches, self.progress = batches, batches.progress
        self.folder, self.config = folder, config
        self.model, self.optimizer, batches.loader = accelerator.prepare(stage, optimizer, batches.loader)
        self.state = RunState(accelerator, stage, self.optimizer, scheduler, self.progress)
        self.skipped = 0  # steps in a row that half precision left out

    def train(self, console: Console | None) -> list[float]:
        """Take the steps that are left, save checkpoints, and return the loss of every step."""
        config, progress, is_main = self.config, self.progress, self.accelerator.is_main_process
        taken: list[float] = []
        self.model.train()
        with (
            catch_sigterm() as sigterm_came,
            progress_bar(console if is_main else None, config.steps, progress.step) as show,
            RunLog(self.folder, config.log_every, is_main, progress.step) as log,
        ):
            self._check_weights("weights to start from")
            batches = iter(self.batches)
            stop = False
            while progress.step < config.steps and not stop:
                batch = next(batches)
                losses, mean, stop = self._forward(batch, sigterm_came)
                self._update(losses["loss"], batch)
                taken.append(mean)
                progress.step += 1
                show(progress.step, mean)
                log.write(progress.step, losses)
                if stop or progress.step == config.steps or progress.step % config.save_every == 0:
                    self._check_weights(f"weights after step {progress.step}")
                    save_checkpoint(self.state, self.folder, progress.step, self.accelerator.num_processes)
        return taken

    def _forward(self, batch: Any, sigterm_came: Callable[[], bool]) -> tuple[dict[str, Tensor], float, bool]:
        """Return the losses, the loss as a mean over all processes, and whether any process has to stop."""
        losses = self.model(batch)
        loss = losses["loss"]
        # Processes stop together: one that went on would wait forever for those that have stopped.
        report = torch.stack([loss.detach().float(), loss.new_tensor(sigterm_came()).float()])
        mean, stop = self.accelerator.gather(report[None]).mean(0).tolist()
        if not math.isfinite(mean):
            own = loss.item()
            elsewhere = " (and not finite in another process)" if math.isfinite(own) else ""
            self._fail(
                f"the loss is {own} at step {self.progress.step + 1}, for {self.stage.describe(batch)}{elsewhere}"
            )
        return losses, mean, bool(stop)

    def _update(self, loss: Tensor, batch: Any) -> None:
        """Take one optimizer step, unless the gradient is not finite."""
        self.accelerator.backward(loss)
        largest = math.inf if self.config.clip is None else self.config.clip
        # The gradient is the same in all processes, which therefore stop together.
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), largest))
        scaler = getattr(self.accelerator, "scaler", None)
        # Half precision tries larger and larger scales and leaves out the steps that overflow.
        self.skipped = 0 if math.isfinite(norm) else self.skipped + 1
        if self.skipped > (0 if scaler is None else MOST_SKIPPED):
            self._fail(
                f"the gradient's norm is {norm} at step {self.progress.step + 1}, for {self.stage.describe(batch)}, "
                f"though the loss is {loss.item():.4g}"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.scheduler is not None:
            self.scheduler.step()

    def _check_weights(self, what: str) -> None:
        names = self.state.non_finite()
        if any_process(bool(names)):
            first = names[0] if names else "in another process"
            self._fail(f"the {what} are not finite ({first}{f' and {len(names) - 1} more' if len(names) > 1 else ''})")

    def _fail(self, what: str) -> NoReturn:
        raise NonFiniteLossError(
            f"{what}; the newest checkpoint is {newest_whole(self.folder)}: look at these files, or lower the learning "
            "rate."
        )


@contextmanager
def catch_sigterm() -> Iterator[Callable[[], bool]]:
    """Hold SIGTERM back while the block runs; what is yielded says whether it came."""
    came: list[int] = []
    try:
        previous = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    except ValueError:  # only the main thread may set handlers: elsewhere the program's own one stays
        yield lambda: False
        return
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, previous)
