"""A video through a model: decoded, predicted and encoded at the same time, in the memory of a few frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hybrid_encoder.cli._pipeline import predict_groups, writers
from hybrid_encoder.cli._work import Job
from hybrid_encoder.data.results import MARK, VIDEO, is_result
from hybrid_encoder.data.video import VideoFrames, VideoWriter
from hybrid_encoder.models.depth import HybridDepthModel, PreparedImage
from hybrid_encoder.models.prediction import DepthPrediction
from hybrid_encoder.models.sizes import WorkingSize
from hybrid_encoder.models.steady_colours import SteadyColours

T = TypeVar("T")
Frame = NDArray[np.uint8]

FRAMES_AHEAD = 8
WIDE = 2.0  # aspect from which source and depth stand above each other


@dataclass(frozen=True)
class VideoResult:
    """What came of a video.

    Attributes:
        size: (H, W) of its frames.
        working_size: (H, W) that the model worked at.
        num_frames: how many were predicted.
        seconds: of the network.
    """

    size: tuple[int, int]
    working_size: tuple[int, int]
    num_frames: int
    seconds: float


def predict_video(
    model: HybridDepthModel,
    job: Job,
    *,
    size: WorkingSize,
    batch_size: int | None,
    max_pixels: int,
    every: int,
    side_by_side: bool,
    keep_frames: bool,
    options: dict[str, Any],
    advance: Callable[[], None],
) -> VideoResult:
    """Write a video of depth, and where asked the results of its frames as those of pictures.

    Args:
        model, job: the model, and the video.
        size, batch_size: as for ``infer``.
        max_pixels: of a frame.
        every: take the first of so many frames.
        side_by_side: show the source beside the depth, above it where it is wide.
        keep_frames: write the results of each frame into ``job.frames_folder``.
        options: of ``DepthPrediction.save``.
        advance: called once a frame.
    """
    colours = SteadyColours(options["colormap"], options["near"], options["far"])
    words = keep_frames and bool(options["words"])
    num_frames, seconds, working = 0, 0.0, (0, 0)
    with VideoFrames(job.path, every, max_pixels) as frames:
        height, width = frames.size
        stacked = side_by_side and width >= WIDE * height
        shape = (height * (1 + stacked), width * (1 + (side_by_side and not stacked)))
        target = job.folder / (job.path.stem + VIDEO)

        def write(prediction: DepthPrediction, frame: Frame, index: int) -> None:
            coloured = colours(prediction)
            video.write(np.concatenate([frame, coloured], 0 if stacked else 1) if side_by_side else coloured)
            if keep_frames:
                prediction.save(job.frames_folder, _frame_name(index), **options)

        def prepare(frame: Frame) -> tuple[Frame, PreparedImage]:
            return frame, model.prepare(frame, size, f"a frame of {job.path}")

        with (
            VideoWriter(target, shape, frames.rate, comment=MARK) as video,
            writers(threads=1) as writer,  # one: frames have an order
            _in_background(map(prepare, frames)) as prepared,
        ):
            for frame, (prediction, spent) in predict_groups(model, prepared, batch_size, words=words):
                working = model.working_size(frames.size, size)
                writer.submit(partial(write, prediction, frame, num_frames * every))
                num_frames, seconds = num_frames + 1, seconds + spent
                advance()
        if keep_frames:
            _remove_others(job.frames_folder, range(0, num_frames * every, every))
        return VideoResult(frames.size, working, num_frames, seconds)


def _remove_others(folder: Path, taken: range) -> None:
    """Remove what an earlier run wrote of frames that this one did not take: it would pass for a result of this one."""
    names = {_frame_name(index) for index in taken}
    others = [path for path in folder.iterdir() if path.name.split("_")[0] not in names and is_result(path)]
    for path in others:
        path.unlink()


def _frame_name(index: int) -> str:
    return f"{index:06d}"


class _in_background(Iterator[T]):
    """An iterator that another thread goes through, a few items ahead; the thread ends with the block."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items, self._stop = items, Event()
        self._queue: Queue[tuple[bool, Any]] = Queue(FRAMES_AHEAD)
        self._thread = Thread(target=self._run, name="decode", daemon=True)

    def _run(self) -> None:
        end: tuple[bool, Any] = (False, None)
        try:
            for item in self._items:
                self._queue.put((True, item))
                if self._stop.is_set():
                    return
        except BaseException as error:  # raised where the items are asked for
            end = (False, error)
        self._queue.put(end)

    def __enter__(self) -> _in_background[T]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        while self._thread.is_alive():
            while not self._queue.empty():  # it may be waiting for room
                self._queue.get()
            self._thread.join(0.05)

    def __next__(self) -> T:
        there, item = self._queue.get()
        if there:
            result: T = item
            return result
        if item is not None:
            raise item
        raise StopIteration
