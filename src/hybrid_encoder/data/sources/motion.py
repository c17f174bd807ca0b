"""Which frames of recordings are trained on: not those where the camera stands still, and with which neighbours."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal, NamedTuple

from hybrid_encoder.data.frames import check_offsets
from hybrid_encoder.data.sequences import Item
from hybrid_encoder.data.sources.apparent_motion import Thumbnail, thumbnail
from hybrid_encoder.data.sources.base import Array, FrameSource
from hybrid_encoder.data.sources.cache import CachedSource, Progress
from hybrid_encoder.errors import InputError

# In pixels of images 128 wide: half of what has texture has moved at least so far. KITTI's frames, 1.4 m apart, are at
# 1.0 to 1.2, and synthetic drives at 0.12 or more with 0.1 m from frame to frame. A standing camera is below 0.06 with
# noise of up to 10 grey levels, below 0.07 where its exposure changes by a third, and below 0.01 after compression.
STILL = 0.1
MOVED = 0.5  # 2.5 pixels of 640: enough to see depth by, and much less than what a network's motion can follow
MAX_STEP = 10
MOST_THREADS = 8  # that read pictures at once

Step = int | Literal["motion"]


class Chosen(NamedTuple):
    """What became of the frames of one recording; as text, a sentence."""

    name: str
    frames: int
    used: int
    still: int  # left out, since nothing moves
    alone: int  # left out, since a neighbour is missing

    def __str__(self) -> str:
        reasons = [
            f"{count:,} {why}"
            for count, why in ((self.still, "stand still"), (self.alone, "lack a neighbour"))
            if count
        ]
        rest = f"; {' and '.join(reasons)}" if reasons else ""
        return f"{self.name}: {self.used:,} of {self.frames:,} frames are used{rest}."


class Choice(NamedTuple):
    """Items of :class:`~hybrid_encoder.data.sequences.SourceSequences`, and what became of every recording's frames."""

    items: list[Item]
    reports: list[Chosen]


def choose_items(
    sources: Sequence[FrameSource],
    offsets: Sequence[int] = (-1, 1),
    step: Step = 1,
    *,
    drop_still: bool = True,
    max_step: int = MAX_STEP,
    progress: Progress | None = None,
) -> Choice:
    """Choose the frames to train on, and their neighbours.

    How far two frames are from each other is told from the images, see
    :meth:`~hybrid_encoder.data.sources.apparent_motion.Thumbnail.motion_to`: half of the textured image has moved by so
    many 128ths of its width, or more. All frames are read for that once, unless ``step`` is a number and still ones are
    kept.

    * A frame is still, and left out, where all its neighbours are nearer than 0.1.
    * With a step N, the neighbour at an offset o is the frame at o N.
    * With ``"motion"``, the step is chosen for every frame, in both directions of time by itself: the least at which
      the image has moved by 0.5. Where none has, up to ``max_step`` or up to the end of the recording, it is the
      largest of these.

    Args:
        sources: recordings.
        offsets: of the neighbours, in steps; empty where the right view is the only one.
        step: in frames, 1 or more, or ``"motion"``.
        drop_still: leave still frames out.
        max_step: the largest step that motion may choose.
        progress: told about frames that are looked at.

    Raises:
        InputError: an option out of its range, or no frame that is not still and has its neighbours.
    """
    if isinstance(step, bool) or not (step == "motion" or (isinstance(step, int) and step >= 1)):
        raise InputError(f"step is {step!r}; give a number of frames, 1 or more, or 'motion'.")
    if max_step < 1:
        raise InputError(f"max_step is {max_step}; it must be at least 1.")
    offsets = check_offsets(offsets) if len(offsets) else ()
    reach = max((abs(offset) for offset in offsets), default=1) * (max_step if step == "motion" else step)
    items: list[Item] = []
    reports = []
    for number, source in enumerate(sources):
        with _looker(source) as look:
            kept = lru_cache(maxsize=2 * reach + 2)(look)
            chosen, counts = _of_source(source, kept, offsets, step, drop_still, max_step, progress)
        items += [Item(number, frame, neighbours) for frame, neighbours in chosen]
        reports.append(Chosen(source.name, len(source.frames), len(chosen), counts["still"], counts["alone"]))
    if not items:
        raise InputError(
            f"no frame can be trained on: {' '.join(map(str, reports[:3]))} Give recordings in which the camera moves, "
            "longer ones, or keep still frames."
        )
    return Choice(items, reports)


def _of_source(
    source: FrameSource,
    look: Callable[[int], Thumbnail],
    offsets: Sequence[int],
    step: Step,
    drop_still: bool,
    max_step: int,
    progress: Progress | None,
) -> tuple[list[tuple[int, tuple[int, ...]]], Counter[str]]:
    frames, there = source.frames, frozenset(source.frames)

    def motion(one: int, other: int) -> float:
        return look(one).motion_to(look(other))

    def step_towards(frame: int, sign: int) -> int:
        if step != "motion":
            return step
        steps = [size for size in range(1, max_step + 1) if frame + sign * size in there]
        return next((size for size in steps if motion(frame, frame + sign * size) >= MOVED), max(steps, default=1))

    chosen, counts = [], Counter[str]()
    for done, frame in enumerate(frames, 1):
        steps = {sign: step_towards(frame, sign) for sign in {1 if offset > 0 else -1 for offset in offsets}}
        neighbours = tuple(frame + offset * steps[1 if offset > 0 else -1] for offset in offsets)
        if not there.issuperset(neighbours):
            counts["alone"] += 1
        elif drop_still and neighbours and all(motion(frame, other) < STILL for other in neighbours):
            counts["still"] += 1
        else:
            chosen.append((frame, neighbours))
        if progress is not None:
            progress(source.name, done, len(frames))
    return chosen, counts


@contextmanager
def _looker(source: FrameSource) -> Iterator[Callable[[int], Thumbnail]]:
    """Give what returns the small copy of a frame; of pictures in files, the next ones are read beside it."""
    if isinstance(source, CachedSource):
        yield lambda frame: Thumbnail(source.thumbnail(frame))
        return
    frames, waiting = list(source.frames), dict[int, Future[Array]]()
    if not frames or source.file(frames[0]) is None:  # what it holds may not be asked by several threads at once
        yield lambda frame: Thumbnail(thumbnail(source.image(frame)))
        return
    place, begun = {frame: index for index, frame in enumerate(frames)}, 0
    threads = min(MOST_THREADS, os.cpu_count() or 1)

    def read(frame: int) -> Array:
        return thumbnail(source.image(frame))

    def look(frame: int) -> Thumbnail:
        nonlocal begun
        end = place[frame] + 2 * threads
        waiting.update((other, pool.submit(read, other)) for other in frames[max(begun, place[frame]) : end])
        begun = max(begun, end)
        return Thumbnail(waiting.pop(frame).result() if frame in waiting else read(frame))

    pool = ThreadPoolExecutor(threads)
    try:
        yield look
    finally:
        pool.shutdown(cancel_futures=True)
