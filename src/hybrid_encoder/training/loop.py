"""One training loop for all stages, on Hugging Face accelerate; a stopped run is resumed exactly.

A run is a folder: ``checkpoints/step_<number>`` (complete or absent, the last two are kept), and what it wrote down.
The launcher (``accelerate launch``) decides how many processes there are.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, set_seed
from rich.console import Console
from torch.utils.data import Dataset

from hybrid_encoder.errors import ConfigError
from hybrid_encoder.training.averaging import AveragedWeights
from hybrid_encoder.training.batches import SeededBatches
from hybrid_encoder.training.best import Best
from hybrid_encoder.training.checkpointing import (
    checkpoint_to_start_from,
    load_checkpoint,
    newest_whole,
    save_checkpoint,
)
from hybrid_encoder.training.compiled import compiled_parts
from hybrid_encoder.training.display import RunLog, progress_bar, validation_line
from hybrid_encoder.training.locking import hold_run
from hybrid_encoder.training.loop_config import NUM_SEEDS, LoopConfig, resolved_precision, resolved_workers
from hybrid_encoder.training.parallel import any_process, process_state, synchronize_batch_norm
from hybrid_encoder.training.stage import Stage
from hybrid_encoder.training.state import RunState, kept_random_state
from hybrid_encoder.training.stepping import NonFiniteLossError, NotFiniteError, Stepper, StepResult

Numbers = Mapping[str, float]


class Trained(NamedTuple):
    """What :func:`train` has done.

    Attributes:
        losses: of every step that was taken, the mean over all processes.
        step: the last one of the run.
        complete: whether the run is over: it took all its steps, or its patience came to an end.
        waiting: the share of the time in which this process waited for data.
    """

    losses: list[float]
    step: int
    complete: bool
    waiting: float


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
    validate: Callable[[], Numbers] | None = None,
    on_best: Callable[[int, Numbers], None] | None = None,
    pictures: Callable[[], Mapping[str, Any]] | None = None,
    log_with: Sequence[Any] = (),
) -> Trained:
    """Train up to ``config.steps``.

    Data, its order and its augmentation follow from the seed alone, for any number of workers. SIGTERM ends the run
    after the current step, with a checkpoint. A resumed run takes the same steps, to the last bit, as one that was
    never stopped, and one with validation the same as one without. A second run cannot use the folder meanwhile.

    A completed run with ``config.ema`` leaves the averaged weights in the stage; its last checkpoint has both.

    Args:
        stage: everything that trains; its call turns a batch into losses.
        items: a data set with a length; every epoch takes all items, except those of an incomplete last step.
        optimizer: over the stage's parameters; its state is of numbers and tensors, like the scheduler's.
        scheduler: stepped after every optimizer step; None for a constant rate.
        folder: of the run.
        config: how long it trains, how it loads data, and how often it saves.
        collate: turns a list of items into a batch; None stacks tensors.
        resume: continue from the newest checkpoint in the folder, or from the one of this name.
        console: shows a progress bar; None shows nothing.
        validate: measures the stage, in evaluation mode and with averaged weights where they are kept; called in all
            processes, and returns the same numbers in each: ``"score"``, the lower the better, and others by name.
        on_best: called like it with the step and the numbers of every validation that is better than all before it.
        pictures: makes pictures by name for the logs, (N, H, W, 3) each; called like it, in the main process alone.
        log_with: trackers, or their names as accelerate knows them, such as ``"wandb"``.

    Raises:
        ConfigError: nothing to resume, a folder that holds a run already or that another run is using, fewer items
            than one step takes, or what the machine cannot do: fp16, a compiler, a tracker.
        CheckpointError: the checkpoint to resume from is damaged, or one cannot be saved.
        NonFiniteLossError: names the step and the batch; nothing is saved after that.
    """
    folder = Path(folder)
    if config.patience and validate is None:
        raise ConfigError(f"patience is {config.patience}, and nothing is validated; hold items out, or leave it at 0.")
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
            accumulate=config.accumulate,
            workers=resolved_workers(config.workers, config.steps * config.accumulate),
            pin_memory=accelerator.device.type == "cuda",
            collate=collate,
        )
        if accelerator.num_processes > 1:
            synchronize_batch_norm(stage, accelerator.device)
        with contextlib.ExitStack() as stack:
            if config.checkpoint_activations:
                stack.enter_context(recomputed_activations(stage))
            run = _Run(accelerator, stage, optimizer, scheduler, batches, folder, config)
            run.validate, run.on_best, run.pictures, run.console = validate, on_best, pictures, console
            stack.callback(run.close)
            if config.compile:
                stack.enter_context(compiled_parts(stage))
            if start is not None:
                load_checkpoint(run.state, start, accelerator.num_processes)
            return run.train(log_with)


def make_accelerator(config: LoopConfig) -> Accelerator:
    """Return the accelerator of a run, for this process alone or for all that a launcher has started.

    Raises:
        ConfigError: half precision on a CPU, where accelerate would silently train in full precision.
    """
    device = process_state(config.cpu).device
    return Accelerator(
        mixed_precision=resolved_precision(config.precision, device),
        cpu=config.cpu,
        step_scheduler_with_optimizer=False,
        # What the launcher's own options would change behind the settings of the run.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="no",
        # A batch need not use every parameter of its stage.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


@contextlib.contextmanager
def recomputed_activations(stage: Stage) -> Iterator[None]:
    """Let a stage compute activations again in the backward pass while the block runs."""
    stage.set_grad_checkpointing(True)
    try:
        yield
    finally:
        stage.set_grad_checkpointing(False)


class _Run:
    """What :func:`train` works on: all that is saved in a checkpoint, and the order of events."""

    validate: Callable[[], Numbers] | None = None
    on_best: Callable[[int, Numbers], None] | None = None
    pictures: Callable[[], Mapping[str, Any]] | None = None
    console: Console | None = None

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
        self.accelerator, self.stage = accelerator, stage
        self.batches, self.progress = batches, batches.progress
        self.folder, self.config = folder, config
        # Batches stay where they are until their turn: a step may have many.
        self.model, optimizer, batches.loader = accelerator.prepare(
            stage, optimizer, batches.loader, device_placement=[True, True, False]
        )
        self.stepper = Stepper(accelerator, stage, self.model, optimizer, scheduler, config.clip)
        self.averages = None if config.ema is None else AveragedWeights(stage, config.ema)
        self.best = Best()
        self.state = RunState(accelerator, stage, optimizer, scheduler, self.progress, self.averages, self.best)

    @property
    def over(self) -> bool:
        """Whether all steps were taken, or validations have stopped getting better."""
        impatient = 0 < self.config.patience <= self.best.without_gain
        return self.progress.step >= self.config.steps or impatient

    def train(self, log_with: Sequence[Any]) -> Trained:
        """Take the steps that are left, validate, and save checkpoints."""
        config, progress, is_main = self.config, self.progress, self.accelerator.is_main_process
        taken: list[float] = []
        waited, began = 0.0, time.perf_counter()
        self.model.train()
        with (
            catch_sigterm() as sigterm_came,
            progress_bar(self.console if is_main else None, config.steps, progress.step) as show,
            RunLog(self.folder, config.log_every, is_main, progress.step, log_with) as log,
            contextlib.closing(iter(self.batches)) as batches,
        ):
            self._check_weights("weights to start from")
            if 0 < progress.step > self.best.validated:  # SIGTERM came first
                self._validate(log)
            stop = False
            while not (stop or self.over):
                rate = self.stepper.optimizer.param_groups[0]["lr"]
                result = self._step(next(batches), sigterm_came)
                stop = result.stop
                taken.append(result.loss)
                waited += self.batches.waited
                show(progress.step, result.loss)
                log.write(progress.step, {**result.losses, "lr": rate})
                # Who sends SIGTERM does not wait for long: a validation is made up for by the resumed run.
                if not stop or progress.step == config.steps:
                    self._validate(log)
                if stop or self.over or progress.step % config.save_every == 0:
                    self._check_weights(f"weights after step {progress.step}")
                    save_checkpoint(self.state, self.folder, progress.step, self.accelerator.num_processes)
        if self.over and self.averages is not None:
            self.averages.exchange()
        waiting = waited / max(time.perf_counter() - began, 1e-9)
        return Trained(taken, progress.step, self.over, waiting)

    def close(self) -> None:
        """Let go of the loader, whose workers end with it."""
        self.batches.loader = None
        self.accelerator.free_memory()

    def _step(self, batches: Sequence[Any], sigterm_came: Callable[[], bool]) -> StepResult:
        try:
            result = self.stepper.take(self.progress.step + 1, batches, sigterm_came)
        except NotFiniteError as error:
            self._fail(str(error))
        self.progress.step += 1
        if self.averages is not None and not result.skipped:
            self.averages.update()
        return result

    def _validate(self, log: RunLog) -> None:
        """Measure the stage and make pictures of it, where that is due, and note whether it is the best so far."""
        step, best, is_main = self.progress.step, self.best, self.accelerator.is_main_process
        if not self.config.validates_after(step) or (self.validate is None and self.pictures is None):
            return
        best.validated = step
        with self._evaluation():
            if self.pictures is not None and is_main:
                log.write_pictures(step, self.pictures())
            if self.validate is None:
                return
            numbers = dict(self.validate())
            # The main process decides: another one might round differently.
            better = any_process(is_main and best.beaten_by(numbers["score"]))
            best.note(step, numbers["score"], better)
            if better and self.on_best is not None:
                self.on_best(step, numbers)
        log.write_scalars(step, {f"validation/{name}": value for name, value in numbers.items()})
        if self.console is not None and is_main:
            score = math.nan if best.score is None else best.score
            self.console.print(validation_line(step, numbers, best.step, score), soft_wrap=True)

    @contextlib.contextmanager
    def _evaluation(self) -> Iterator[None]:
        """Put the stage into evaluation mode, with averaged weights if there are any; afterwards all is as before."""
        modes = [(module, module.training) for module in self.stage.modules()]
        averages = contextlib.nullcontext() if self.averages is None else self.averages.in_place()
        with kept_random_state(self.accelerator.device), torch.no_grad(), averages:
            self.stage.eval()
            try:
                yield
            finally:
                for module, training in modes:
                    module.training = training

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


@contextlib.contextmanager
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
