"""Pictures read, predicted and written at the same time, in a bounded amount of memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from hybrid_encoder.models.depth import HybridDepthModel, PreparedImage
from hybrid_encoder.models.prediction import DepthPrediction

T = TypeVar("T")
R = TypeVar("R")

READERS, WRITERS = 2, 2  # threads beside the network
AHEAD = 12  # pictures that are read before their turn: kept at the size to work at, which is small
BEHIND = 3  # predictions that wait to be written, at the size of their picture


class Predicted(NamedTuple):
    """One prediction, and the seconds of its share in the network's work."""

    prediction: DepthPrediction
    seconds: float


def read_ahead(read: Callable[[T], R], items: Iterable[T], threads: int = READERS) -> Iterator[R]:
    """Yield what is read of each item, in order; the next ones are read meanwhile."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) >= AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Writers:
    """Threads that write while the network goes on; what fails there is raised at the next call."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="write")
        self._waiting: deque[Future[None]] = deque()

    def submit(self, write: Callable[[], None]) -> None:
        """Write soon; wait first where too much is waiting."""
        self._waiting.append(self._pool.submit(write))
        while len(self._waiting) > BEHIND or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def finish(self) -> None:
        """Wait until everything is written."""
        while self._waiting:
            self._waiting.popleft().result()

    def close(self) -> None:
        """End the threads; what has not begun is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def writers(threads: int = WRITERS) -> Iterator[Writers]:
    """Give threads to write in; when the block ends without an error, everything is written."""
    pool = Writers(threads)
    try:
        yield pool
        pool.finish()
    finally:
        pool.close()


def predict_groups(
    model: HybridDepthModel,
    images: Iterable[tuple[T, PreparedImage]],
    batch_size: int | None,
    *,
    words: bool = False,
) -> Iterator[tuple[T, Predicted]]:
    """Yield the prediction for each image, on the CPU and in order; those next to each other of one size go together.

    Args:
        model: predicts.
        images: items, and what the model prepared of each.
        batch_size: pictures that the network sees at once.
        words: keep what the prompts say, too.

    Raises:
        CheckpointError: the weights give something that is no depth.
    """
    for group in _groups(images, batch_size):
        start = time.perf_counter()
        predictions = model.infer_stream((image for _, image in group), batch_size=len(group), words=words)
        elapsed = 0.0
        for index, (item, _) in enumerate(group):
            prediction = next(predictions).cpu()
            prediction.check_finite(str(getattr(item, "path", item)))
            if index == 0:
                elapsed = time.perf_counter() - start
            yield item, Predicted(prediction, elapsed / len(group))


def _groups(
    images: Iterable[tuple[T, PreparedImage]], batch_size: int | None
) -> Iterator[list[tuple[T, PreparedImage]]]:
    group: list[tuple[T, PreparedImage]] = []
    for item, image in images:
        if group and group[0][1].pixels.shape != image.pixels.shape:
            yield group
            group = []
        group.append((item, image))
        if len(group) >= (batch_size or image.most_at_once):
            yield group
            group = []
    if group:
        yield group
