"""Batches that follow from the seed alone, and that a resumed run continues exactly."""

from __future__ import annotations

import atexit
import contextlib
import math
import multiprocessing
import random
import re
import signal
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from hybrid_encoder.errors import ConfigError, HybridEncoderError, InputError


@dataclass
class Progress:
    """How far a run has come; saved and restored with its checkpoints."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of the current epoch that each process has trained on

    def state_dict(self) -> dict[str, int]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, int]) -> None:
        if not all(type(value) is int and 0 <= value < 2**63 for value in state.values()):
            raise ValueError(f"progress is {state}; counts are needed")
        vars(self).update(state)


class Failure:
    """An error that data gave rise to, on its way from a worker to the training process.

    Were it raised in the worker, ``DataLoader`` would make its traceback a part of the message.
    """

    def __init__(self, error: Exception) -> None:
        self.error = error

    def reraise(self) -> NoReturn:
        """Raise the error, and forget it.

        Its traceback refers to whoever holds this failure. If that led back to the error, the loader and its workers
        would live until Python collects garbage.
        """
        try:
            raise self.error
        finally:
            del self.error


class Collate:
    """Turn items into a batch, or hand on the failure among them."""

    def __init__(self, collate: Callable[[list[Any]], Any] | None) -> None:
        self.collate = collate or default_collate

    def __call__(self, items: list[Any]) -> Any:
        failure = next((item for item in items if isinstance(item, Failure)), None)
        try:
            return failure or self.collate(items)
        except HybridEncoderError as error:
            return Failure(error)


def check_finite_item(name: str, **parts: Tensor) -> None:
    """Raise InputError where a part of an item, such as its image, is NaN or infinite."""
    for part, value in parts.items():
        # A sum is not finite if a number is not, and is faster to look at.
        if not math.isfinite(value.sum()) and not value.isfinite().all():
            raise InputError(f"{part} of {name or 'an item'} is not finite; check its files.")


def outlive_sigterm(worker: int) -> None:
    """Leave SIGTERM to the training process: launchers and SLURM send it to its workers, too, which it still needs.

    A worker ends with the training process, whatever ends that.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def end_workers_at_exit() -> None:
    """Kill workers that are still there when Python ends: it would send SIGTERM, and wait for those that outlive it."""
    atexit.unregister(_kill_children)
    atexit.register(_kill_children)


def _kill_children() -> None:
    for process in multiprocessing.active_children():
        if process.daemon:  # Python ends these, and these alone
            process.kill()


class SeededDataset(Dataset[Any]):
    """A data set whose items depend on the seed, the epoch and their index alone.

    Augmentation draws from the global random number generators. The model draws from the same ones, and each worker
    process has its own: without a seed for each item, an item would depend on what was drawn before it. An item is
    asked for by epoch and index, as workers that outlive an epoch are not told of the next one.
    """

    def __init__(self, items: Dataset[Any], seed: int) -> None:
        self.items = items
        self.seed = seed

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]

    def __getitem__(self, place: tuple[int, int]) -> Any:
        epoch, index = place
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        # Mixed into one seed, so that neighbouring items and epochs have unrelated random numbers.
        self._seed_item(int(np.random.SeedSequence([self.seed, epoch, index]).generate_state(1)[0]))
        try:
            return self.items[index]
        except (HybridEncoderError, OSError) as error:
            return Failure(error)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            torch.set_rng_state(states[2])

    @staticmethod
    def _seed_item(seed: int) -> None:
        """Seed what runs on the CPU.

        ``torch.manual_seed`` and accelerate's ``set_seed`` also seed every accelerator, from whose generators the model
        draws; for each item that takes 20 times as long.
        """
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  (augmentation in older code draws from it)
        torch.default_generator.manual_seed(seed)


class SeededSampler(Sampler[tuple[int, int]]):
    """Yield epoch and index of items, from position ``start`` of an order that follows from the seed and the epoch.

    Args:
        num_items: to put in order.
        length: of an epoch; the items that come after it in the order have no part in it.
        seed: of the order.
    """

    def __init__(self, num_items: int, length: int, seed: int) -> None:
        self.num_items, self.length = num_items, length
        self.seed = seed
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return self.length - self.start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_items)
        return iter([(self.epoch, index) for index in order[self.start : self.length].tolist()])


class SeededBatches:
    """The batches of one optimizer step after the other, epoch after epoch, starting where ``progress`` stands.

    A step takes the same items whether they come as several batches, to several processes, or as one batch.

    Args:
        items: a data set with a length.
        batch_size: items in a batch of one process.
        seed: of the order and of every item's augmentation.
        num_processes: how many processes share an epoch.
        accumulate: batches in a step of one process. An epoch ends with its last whole step.
        workers: processes that load data, which live as long as the loader; 0 loads in this one.
        pin_memory: load into memory that an accelerator copies from while it computes.
        collate: turns a list of items into a batch; None stacks tensors.

    Attributes:
        loader: of one epoch; replaced by what ``Accelerator.prepare`` makes of it.
        progress: what has been trained on; advanced with every step's batches.
        waited: seconds in which the last step's batches were waited for.

    Raises:
        ConfigError: fewer items than one step takes.
    """

    def __init__(
        self,
        items: Dataset[Any],
        batch_size: int,
        seed: int,
        *,
        num_processes: int = 1,
        accumulate: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
        collate: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        self.dataset = SeededDataset(items, seed)
        self.accumulate = accumulate
        self.items_per_step = batch_size * num_processes * accumulate
        self.steps_per_epoch = len(self.dataset) // self.items_per_step
        if not self.steps_per_epoch:
            raise ConfigError(
                f"there are {len(self.dataset)} items and a step takes {self.items_per_step}; lower the batch size"
                f"{', or accumulate fewer batches' if accumulate > 1 else ''}."
            )
        self.progress = Progress()
        self.waited = 0.0
        self.sampler = SeededSampler(len(self.dataset), self.steps_per_epoch * self.items_per_step, seed)
        if workers:
            end_workers_at_exit()
        self.loader: Any = DataLoader(
            self.dataset,
            batch_size,
            sampler=self.sampler,
            num_workers=workers,
            collate_fn=Collate(collate),
            drop_last=True,
            generator=torch.Generator(),  # its own: otherwise the loader draws from the model's random numbers
            persistent_workers=workers > 0,
            worker_init_fn=outlive_sigterm,
            pin_memory=pin_memory,
        )

    def __iter__(self) -> Generator[list[Any], None, None]:
        progress = self.progress
        while True:
            # A run may be resumed at the end of an epoch; accelerate before 1.10 yields None from an empty loader.
            if progress.batch < self.steps_per_epoch * self.accumulate:
                self.sampler.epoch = progress.epoch
                self.sampler.start = progress.batch // self.accumulate * self.items_per_step
                with contextlib.closing(self._batches()) as batches:
                    while step := self._next_step(batches):
                        progress.batch += self.accumulate
                        yield step
            progress.epoch, progress.batch = progress.epoch + 1, 0

    def _next_step(self, batches: Iterator[Any]) -> list[Any]:
        """Return the batches of the next step; none at the end of an epoch."""
        began = time.perf_counter()
        found = list(islice(batches, self.accumulate))
        self.waited = time.perf_counter() - began
        for batch in found:
            if isinstance(batch, Failure):
                batch.reraise()
        return found

    def _batches(self) -> Generator[Any, None, None]:
        """Yield the batches of one epoch.

        Raises:
            InputError: a worker was ended by the system, usually because memory ran out.
        """
        try:
            yield from self.loader
            return
        except RuntimeError as error:
            if not re.match(r"DataLoader worker .*(exited|killed)", str(error)):
                raise
            reason = str(error).rstrip(". ")
        # Outside the handler: an error whose context is the loader's would keep the other workers alive.
        raise InputError(
            f"a process that loads data has ended ({reason}); take fewer workers, or look at what the data set does."
        )
