"""What a run shows while it trains: a progress bar, lines on validations, and its logs together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from torch import Tensor

from hybrid_encoder.training.logs import (
    EventLog,
    FileLog,
    LineLog,
    Log,
    TrackerLog,
    check_trackers,
    open_tracker,
    tensorboard_installed,
)
from hybrid_encoder.training.pictures import Pictures, Sheets

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker


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


class RunLog:
    """Everything that a run writes down, in all its logs at once.

    ``log.jsonl`` is always written, TensorBoard's event files where it is installed, and trackers where asked for. A
    log that cannot be written, as on a full disk, ends with a warning, and the run goes on.

    Args:
        folder: of the run.
        every: steps between entries.
        enabled: False writes nothing, as in all processes but one.
        start: the step that the run starts after.
        log_with: trackers, or their names as accelerate knows them, such as ``"wandb"``.

    Raises:
        ConfigError: a tracker that is not known or not installed; in all processes.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        enabled: bool = True,
        start: int = 0,
        log_with: Sequence[str | GeneralTracker] = (),
    ) -> None:
        self.every, self.sheets = every, Sheets(folder / "pictures")
        self.logs: list[Log] = []
        check_trackers(log_with)
        if enabled:
            self.logs.append(LineLog(folder, start))
            if tensorboard_installed():
                self.logs.append(EventLog(folder, start))
            self.logs += [open_tracker(tracker, folder, start) for tracker in log_with]
        self.enabled = enabled

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        for log in list(self.logs):
            self._try(log, log.close)

    def write(self, step: int, scalars: Mapping[str, Tensor | float]) -> None:
        """Write numbers by name, if it is time for an entry."""
        if self.logs and step % self.every == 0:
            self.write_scalars(step, scalars)

    def write_scalars(self, step: int, scalars: Mapping[str, Tensor | float]) -> None:
        """Write numbers by name, now."""
        if self.logs:
            numbers = {name: float(value) for name, value in scalars.items()}
            for log in list(self.logs):
                self._try(log, partial(log.write, step, numbers), step)

    def write_pictures(self, step: int, pictures: Pictures) -> None:
        """Write pictures by name, (N, H, W, 3) each, now: to the logs, and as a sheet to look at."""
        if self.enabled:
            for log in list(self.logs):
                self._try(log, partial(log.write_pictures, step, pictures), step)
            try:
                self.sheets.write(step, pictures)
            except OSError as error:
                warnings.warn(f"no sheet of pictures at step {step} ({error.strerror}).", stacklevel=2)

    def _try(self, log: Log, write: Callable[[], None], step: int | None = None) -> None:
        """Write to one log, which ends where it cannot be written: no log is worth a run."""
        try:
            write()
        except Exception as error:
            if not isinstance(error, OSError) and not isinstance(log, TrackerLog):
                raise
            when = "before its end" if step is None else f"at step {step}"
            warnings.warn(f"{log.name} ends {when} ({getattr(error, 'strerror', None) or error}).", stacklevel=4)
            self.logs.remove(log)
            if isinstance(log, FileLog):
                log.close()


def validation_line(step: int, numbers: Mapping[str, float], best_step: int, best_score: float) -> str:
    """Return the line that says how a validation went.

    Args:
        step: of the validation.
        numbers: its numbers by name; ``"score"``, the lower the better, is one of the others. Beside a number there may
            be what is reached without learning anything, under its name and ``_control``.
        best_step, best_score: of the best validation so far, this one included.
    """
    score = numbers["score"]
    what = next((name for name, value in numbers.items() if name != "score" and value == score), None)
    line = f"step {step}: score {score:.4f}{f' ({what})' if what else ''}"
    control = numbers.get(f"{what}_control")
    if control is not None:
        line += f", {'better' if score < control else 'NOT better'} than {control:.4f} without learning anything"
    return f"{line}; the best so far is {best_score:.4f} at step {best_step}"
