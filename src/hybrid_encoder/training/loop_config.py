"""How a run trains, loads and saves; and what is taken where the person leaves the choice: precision and workers."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from hybrid_encoder.errors import ConfigError
from hybrid_encoder.training.ranges import check_number

NUM_SEEDS = 2**32  # numpy takes no larger seed
MAX_WORKERS = 256  # each holds a copy of the data set's memory
MOST_BATCHES = 2**20  # of a step; far more than anybody waits for
USUAL_WORKERS = 4
BATCHES_PER_WORKER = 50  # a worker that loads fewer in the whole run does not pay for its start
PRECISIONS = ("auto", "no", "bf16", "fp16")


@dataclass(frozen=True)
class LoopConfig:
    """How long a run trains, how it loads data, and how often it saves.

    Args:
        steps: optimizer steps in all, those before a resume included.
        batch_size: items in a batch, for each process.
        workers: processes that load data for each training process, up to 256; 0 loads in the training process. None
            takes up to 4, and no more than there are cores for, or than the run has work for.
        save_every: steps between checkpoints.
        log_every: steps between log entries.
        clip: largest norm of the gradient; None does not clip.
        precision: of autocast, ``"no"``, ``"bf16"`` or ``"fp16"`` (not on a CPU); ``"auto"`` takes bf16 on an
            accelerator that computes in it, else ``"no"``.
        seed: of the data order and of all random numbers, from 0 up.
        cpu: train on the CPU even where there is an accelerator.
        accumulate: batches whose gradients make one optimizer step, as one batch of all their items would; batch norm
            alone sees each batch by itself.
        ema: decay of an exponential moving average of the weights, which is then what is validated and what a completed
            run leaves in the stage; None keeps none.
        compile: run the stage through ``torch.compile``.
        checkpoint_activations: compute the towers' activations again in the backward pass, for less memory.
        validate_every: steps between validations; 0 validates wherever a checkpoint is due. The last step always does.
        patience: validations without a better score after which the run ends; 0 never ends early.
    """

    steps: int
    batch_size: int
    workers: int | None = None
    save_every: int = 500
    log_every: int = 10
    clip: float | None = 1.0
    precision: str = "auto"
    seed: int = 0
    cpu: bool = False
    accumulate: int = 1
    ema: float | None = None
    compile: bool = False
    checkpoint_activations: bool = False
    validate_every: int = 0
    patience: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "save_every", "log_every"):
            check_number(name, getattr(self, name), 1, whole=True)
        check_number("accumulate", self.accumulate, 1, MOST_BATCHES, whole=True)
        for name in ("validate_every", "patience"):
            check_number(name, getattr(self, name), 0, whole=True)
        if self.workers is not None:
            check_number("workers", self.workers, 0, MAX_WORKERS, whole=True)
        check_number("seed", self.seed, 0, NUM_SEEDS - 1, whole=True)
        if self.clip is not None:
            check_number("clip", self.clip, above=0)
        if self.ema is not None:
            check_number("ema", self.ema, 0, 1)
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}; it must be 'auto', 'no', 'bf16' or 'fp16'.")

    def validates_after(self, step: int) -> bool:
        """Return whether a validation is due after a step."""
        return step == self.steps or step % (self.validate_every or self.save_every) == 0


def resolved_precision(precision: str, device: torch.device) -> str:
    """Return what ``"auto"`` stands for on a device, and any other precision as it is.

    Raises:
        ConfigError: fp16 on a CPU, where accelerate would silently train in full precision.
    """
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision is 'fp16' on a CPU; take 'bf16' or 'no' there.")
    if precision != "auto":
        return precision
    # Emulated bf16, on older cards, is slower than full precision; Apple's has no loss scaling to fall back on.
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if device.type == "xpu" and torch.xpu.is_bf16_supported() else "no"


def resolved_workers(workers: int | None, num_batches: int) -> int:
    """Return how many processes load data where the choice is left open; else the number as it is.

    Args:
        workers: None leaves it open.
        num_batches: that this training process takes in the whole run.
    """
    if workers is not None:
        return workers
    affinity = getattr(os, "sched_getaffinity", None)  # a job may have been given a part of the machine
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    here = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # training processes that share these cores
    return min(USUAL_WORKERS, cores // here, num_batches // BATCHES_PER_WORKER)
