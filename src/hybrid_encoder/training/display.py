"""What a run shows while it trains: a progress bar, and TensorBoard's event files."""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from torch import Tensor


class Show(Protocol):
    """Update the progress bar."""

    def __call__(self, step: int, loss: float) -> None: ...


@contextmanager
def progress_bar(console: Console | None, num_steps: int, completed: int) -> Iterator[Show]:
    """Show a bar with speed and loss while the block runs; None for the console shows nothing."""
    columns: tuple[ProgressColumn, ...] = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=console is None) as progress:
        task = progress.add_task("", total=num_steps, completed=completed, rate="", loss="")

        def show(step: int, loss: float) -> None:
            speed = progress.tasks[0].speed
            progress.update(task, completed=step, rate=f"{speed:.2f} steps/s" if speed else "", loss=f"{loss:.4f}")

        yield show


class EventLog:
    """Scalars for TensorBoard, every few steps; nothing is written where TensorBoard is not installed.

    A log that cannot be written, as on a full disk, ends with a warning, and the run goes on. TensorBoard's own writer
    has a thread, which would end with a traceback.

    Args:
        folder: of the run.
        every: steps between entries.
        enabled: False writes nothing, as in all processes but one.
    """

    def __init__(self, folder: Path, every: int, enabled: bool = True) -> None:
        self.folder, self.every = folder, every
        self.enabled = enabled and find_spec("tensorboard") is not None
        self.file: IO[bytes] | None = None

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *error: object) -> None:
        if self.file is not None:
            self.file.close()

    def write(self, step: int, scalars: dict[str, Tensor]) -> None:
        """Write all scalars by name, if it is time for an entry."""
        if not self.enabled or step % self.every:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        values = [Summary.Value(tag=name, simple_value=value.detach().item()) for name, value in scalars.items()]
        try:
            if self.file is None:
                name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
                self.file = (self.folder / name).open("ab", buffering=0)
                self._add(file_version="brain.Event:2")
            self._add(step=step, summary=Summary(value=values))
        except OSError as error:
            warnings.warn(f"the log for TensorBoard ends at step {step} ({error.strerror}).", stacklevel=3)
            self.enabled = False

    def _add(self, **parts: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        RecordWriter(self.file).write(Event(wall_time=time.time(), **parts).SerializeToString())
