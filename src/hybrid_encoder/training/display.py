"""What a run shows while it trains: a progress bar, and TensorBoard's event files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

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

    A log that cannot be written, as on a full disk, ends with a warning, and the run goes on.

    Args:
        folder: of the run.
        every: steps between entries.
        enabled: False writes nothing, as in all processes but one.
    """

    def __init__(self, folder: Path, every: int, enabled: bool = True) -> None:
        self.every = every
        self.writer = _summary_writer(folder) if enabled else None

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *error: object) -> None:
        if self.writer is not None:
            with self._warning():
                self.writer.close()

    def write(self, step: int, scalars: dict[str, Tensor]) -> None:
        """Write all scalars by name, if it is time for an entry."""
        if self.writer is not None and step % self.every == 0:
            with self._warning():
                for name, value in scalars.items():
                    self.writer.add_scalar(name, value.detach().item(), step)

    @contextmanager
    def _warning(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            warnings.warn(f"the log for TensorBoard ends here ({error.strerror}).", stacklevel=4)
            self.writer = None


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
