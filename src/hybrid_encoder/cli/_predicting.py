"""The work of ``predict``: pictures and videos through one model, and what came of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.progress import Progress, track

from hybrid_encoder.cli._pipeline import predict_groups, read_ahead, writers
from hybrid_encoder.cli._videos import predict_video
from hybrid_encoder.cli._work import Job, Work
from hybrid_encoder.cli.failures import sentence_of
from hybrid_encoder.cli.options import console
from hybrid_encoder.data.images import read_image
from hybrid_encoder.data.results import VIDEO, enumerated
from hybrid_encoder.data.video import VideoFrames
from hybrid_encoder.errors import InputError
from hybrid_encoder.models.depth import HybridDepthModel, PreparedImage
from hybrid_encoder.models.prediction import DepthPrediction
from hybrid_encoder.models.sizes import WorkingSize


@dataclass
class Summary:
    """What a command was given and what it did, as ``--json`` tells it.

    Attributes:
        results: rows of :class:`Predicting`.
        damaged: files that were left out, with what is wrong.
        start: of the work itself, when everything is loaded.
    """

    weights: str
    results: list[dict[str, Any]] = field(default_factory=list)
    damaged: list[tuple[Path, InputError]] = field(default_factory=list)
    start: float | None = None

    def text(self, error: str | None) -> str:
        """Return it as JSON, with the sentence of what has stopped the command."""
        told = {
            "weights": self.weights,
            "results": [row for row in self.results if "files" in row],
            "damaged": [{"path": str(path), "error": str(problem)} for path, problem in self.damaged],
            "seconds": 0.0 if self.start is None else round(time.perf_counter() - self.start, 3),
            "error": error,
        }
        return json.dumps(told, indent=2)


@contextmanager
def summarized(weights: str, wanted: bool) -> Iterator[Summary]:
    """Give a summary to fill; where it is wanted, it is printed when the block ends, however it ends."""
    summary, told = Summary(weights), None
    try:
        yield summary
    except KeyboardInterrupt:
        told = "interrupted."
        raise
    except Exception as error:
        told = sentence_of(error) or type(error).__name__
        raise
    finally:
        if wanted:
            print(summary.text(told))


class Predicting:
    """The work of one command, and what came of it.

    Attributes:
        rows: what ``--json`` tells, one for each picture or video; those without ``files`` are not written yet.
    """

    def __init__(
        self,
        model: HybridDepthModel,
        work: Work,
        size: WorkingSize,
        batch_size: int | None,
        max_pixels: int,
        options: dict[str, Any],
        silent: bool,
    ) -> None:
        self.model, self.work, self.size, self.batch_size = model, work, size, batch_size
        self.max_pixels, self.options, self.silent = max_pixels, options, silent
        self.scale = "metric" if model.config.metric else "relative"
        self.rows: list[dict[str, Any]] = []

    @property
    def results(self) -> list[dict[str, Any]]:
        """The rows of what has been written."""
        return [row for row in self.rows if "files" in row]

    def pictures(self) -> None:
        """Predict all pictures."""
        jobs = [job for job in self.work.jobs if not job.is_video]
        few = self.silent or len(jobs) < 2
        with writers() as writer:
            results = predict_groups(self.model, self._read(jobs), self.batch_size, words=self.options["words"])
            for job, (prediction, seconds) in track(
                results, "predicting", total=len(jobs), console=console, disable=few
            ):
                row = self._row(job, prediction.size, self.model.working_size(prediction.size, self.size), seconds)
                writer.submit(partial(self._write, prediction, job, row))
                self.rows.append(row)

    def videos(self, *, every: int, side_by_side: bool, keep_frames: bool) -> None:
        """Predict all videos."""
        for job in self.work.jobs:
            if job.is_video:
                try:
                    self._video(job, every, side_by_side, keep_frames)
                except InputError as error:
                    self.work.damaged.append((job.path, error))

    def _video(self, job: Job, every: int, side_by_side: bool, keep_frames: bool) -> None:
        with VideoFrames(job.path, every, self.max_pixels) as frames:
            total = frames.num_frames
        with Progress(console=console, disable=self.silent) as progress:
            task = progress.add_task(escape(job.path.name), total=total)
            result = predict_video(
                self.model,
                job,
                size=self.size,
                batch_size=self.batch_size,
                max_pixels=self.max_pixels,
                every=every,
                side_by_side=side_by_side,
                keep_frames=keep_frames,
                options=self.options,
                advance=partial(progress.advance, task),
            )
        row = self._row(job, result.size, result.working_size, result.seconds)
        files = [job.folder / (job.path.stem + VIDEO), *([job.frames_folder] if keep_frames else [])]
        self.rows.append({**row, "frames": result.num_frames, "files": [str(file) for file in files]})

    def _read(self, jobs: list[Job]) -> Iterator[tuple[Job, PreparedImage]]:
        def read(job: Job) -> tuple[Job, PreparedImage | InputError]:
            try:
                pixels = read_image(job.path, self.max_pixels)
                return job, self.model.prepare(pixels, self.size, str(job.path))._replace(source=job.path)
            except InputError as error:
                return job, error

        for job, prepared in read_ahead(read, jobs):
            if isinstance(prepared, InputError):
                self.work.damaged.append((job.path, prepared))
            else:
                yield job, prepared

    def _write(self, prediction: DepthPrediction, job: Job, row: dict[str, Any]) -> None:
        try:
            files = prediction.save(job.folder, job.path.stem, **self.options)
        except InputError as error:  # this picture's own; the others go on
            self.work.damaged.append((job.path, error))
        else:
            row["files"] = [str(file) for file in files]

    def _row(self, job: Job, size: tuple[int, int], working: tuple[int, int], seconds: float) -> dict[str, Any]:
        return {
            "path": str(job.path),
            "size": list(size),
            "working_size": list(working),
            "scale": self.scale,
            "seconds": round(seconds, 6),
        }

    def summary(self, output: Path) -> str:
        """Return a line that says what was written, and what was left out."""
        rows, damaged = self.results, [path for path, _ in self.work.damaged]
        num_videos = sum("frames" in row for row in rows)
        counts = [_count(len(rows) - num_videos, "image"), _count(num_videos, "video")]
        first = " and ".join(count for count in counts if count) or "nothing"
        kinds = {Path(file).name.removeprefix(Path(row["path"]).stem) for row in rows for file in row["files"]}
        files = f" ({', '.join(f'*{kind}' for kind in sorted(kinds))})" if kinds else ""
        own = f"; left out, as results of earlier runs: {self.work.num_results}" if self.work.num_results else ""
        left_out = f"; left out, as damaged: {len(damaged)} ({enumerated(damaged)})" if damaged else ""
        return f"{first} -> {output}{files}{own}{left_out}"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}" if number else ""
