"""What a run writes down while it trains: lines of JSON, TensorBoard's event files, and other people's trackers."""

from __future__ import annotations

import io
import json
import math
import os
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from PIL import Image

from hybrid_encoder.errors import ConfigError
from hybrid_encoder.training.pictures import Pictures
from hybrid_encoder.writing import write_whole

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

PROJECT = "hybrid-encoder"  # what trackers file runs under


class Log:
    """Where the numbers of a run go; files are opened with the first of them.

    Args:
        folder: of the run.
        start: the step that the run starts after; what an earlier, longer part of it wrote about later steps is undone.
    """

    name: str

    def __init__(self, folder: Path, start: int = 0) -> None:
        self.folder, self.start = folder, start

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write numbers by name."""
        raise NotImplementedError

    def write_pictures(self, step: int, pictures: Pictures) -> None:
        """Write pictures by name; a log of numbers alone leaves them out."""

    def close(self) -> None:
        """Finish: nothing is written after that."""


class FileLog(Log):
    """A log in a file that grows."""

    file: IO[bytes] | None = None

    def append(self, content: bytes) -> None:
        """Write all of the content now: where a disk is nearly full, a part of it would be written without an error."""
        assert self.file is not None  # opened before, without a buffer
        left = memoryview(content)
        while left:
            left = left[self.file.write(left) :]

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


class LineLog(FileLog):
    """``log.jsonl``: a line of JSON for every entry, with its step first; numbers that are not finite are null."""

    name = "log.jsonl"

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        if self.file is None:
            path = self.folder / self.name
            write_whole(path, b"".join(lines_until(path, self.start)))
            self.file = path.open("ab", buffering=0)
        numbers = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        self.append(json.dumps({"step": step, **numbers}).encode() + b"\n")


def lines_until(path: Path, step: int) -> list[bytes]:
    """Return the lines of a log up to a step; what a killed run left of a line is left out, as is what follows it."""
    kept: list[bytes] = []
    if not path.is_file():
        return kept
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            entry = json.loads(line)
            if not line.endswith(b"\n") or entry["step"] > step:
                break
        except (ValueError, TypeError, KeyError):
            break
        kept.append(line)
    return kept


class EventLog(FileLog):
    """TensorBoard's event files.

    They are written here, record by record: TensorBoard's own writer has a thread, which ends with a traceback where
    the disk is full.
    """

    name = "the log for TensorBoard"

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        self._add(step, [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()])

    def write_pictures(self, step: int, pictures: Pictures) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = []
        for name, stack in pictures.items():
            for index, pixels in enumerate(stack):
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, format="PNG")
                height, width = pixels.shape[:2]
                image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=buffer.getvalue())
                values.append(Summary.Value(tag=f"{name}/{index}", image=image))
        self._add(step, values)

    def _add(self, step: int, values: Sequence[Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog  # type: ignore[import-untyped]
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self.file is None:
            name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
            self.file = (self.folder / name).open("ab", buffering=0)
            self._record(file_version="brain.Event:2")
            if self.start:  # TensorBoard then forgets what earlier files say about later steps
                self._record(step=self.start + 1, session_log=SessionLog(status=SessionLog.START))
        self._record(step=step, summary=Summary(value=values))

    def _record(self, **parts: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), **parts).SerializeToString())
        self.append(record.getvalue())


class TrackerLog(Log):
    """One of accelerate's trackers, such as Weights & Biases."""

    def __init__(self, tracker: GeneralTracker, folder: Path, start: int = 0) -> None:
        super().__init__(folder, start)
        self.tracker, self.name = tracker, tracker.name
        tracker.start()
        settings = folder / "run.json"
        if settings.is_file():
            tracker.store_init_configuration(json.loads(settings.read_text(encoding="utf-8")))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self.tracker.log(dict(scalars), step=step)

    def write_pictures(self, step: int, pictures: Pictures) -> None:
        if hasattr(self.tracker, "log_images"):
            self.tracker.log_images({name: list(stack) for name, stack in pictures.items()}, step=step)

    def close(self) -> None:
        self.tracker.finish()


def check_trackers(wanted: Sequence[str | GeneralTracker]) -> None:
    """Check that trackers can be used.

    Args:
        wanted: names that accelerate knows, such as ``"wandb"``, or trackers.

    Raises:
        ConfigError: accelerate does not know one, or its package is not installed.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    available = [str(name) for name in get_available_trackers()]
    for name in wanted:
        if not isinstance(name, str):
            continue
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ConfigError(f"log_with is {name!r}; accelerate knows {', '.join(LOGGER_TYPE_TO_CLASS)}.")
        if name not in available:
            raise ConfigError(
                f"log_with is {name!r}, which is not installed: pip install {name}; log.jsonl is written without it."
            )


def open_tracker(wanted: str | GeneralTracker, folder: Path, start: int = 0) -> TrackerLog:
    """Start a tracker for a run; see :func:`check_trackers`."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    if not isinstance(wanted, str):
        return TrackerLog(wanted, folder, start)
    kind = LOGGER_TYPE_TO_CLASS[wanted]
    options: dict[str, Any] = {"logging_dir": folder} if kind.requires_logging_directory else {}
    if wanted == "wandb":
        options = {"dir": str(folder), "name": folder.resolve().name, "id": _run_id(folder, start), "resume": "allow"}
    return TrackerLog(kind(PROJECT, **options), folder, start)


def _run_id(folder: Path, start: int) -> str:
    """Return what Weights & Biases knows a run by: the same after a resume, another one for a new run."""
    path = folder / "wandb_id.txt"
    if not (start and path.is_file()):
        write_whole(path, uuid.uuid4().hex.encode())
    return path.read_text(encoding="utf-8").strip()


def tensorboard_installed() -> bool:
    """Return whether TensorBoard's event files can be written."""
    return find_spec("tensorboard") is not None
