"""The work of ``predict``: pictures and videos through one model, and what came of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import Progress, track

from hybrid_encoder.cli._pipeline import predict_groups, read_ahead, writers
from hybrid_encoder.cli._videos import predict_video
from hybrid_encoder.cli._work import Job, Work
from hybrid_encoder.cli.options import console
from hybrid_encoder.data.images import read_image
from hybrid_encoder.data.results import VIDEO
from hybrid_encoder.data.video import VideoFrames
from hybrid_encoder.errors import InputError
from hybrid_encoder.models.depth import HybridDepthModel, PreparedImage
from hybrid_encoder.models.prediction import DepthPrediction
from hybrid_encoder.models.sizes import WorkingSize


class Predicting:
    """The work of one command, and what came of it.

    Attributes:
        rows: what ``--json`` tells, one for each result.
        failed: pictures that passed the first look and could not be decoded.
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
        self.failed: list[tuple[Path, InputError]] = []

    def pictures(self) -> None:
        """Predict all pictures."""
        jobs = [job for job in self.work.jobs if not job.is_video]
        few = self.silent or len(jobs) < 2
        with writers() as writer:
            results = predict_groups(self.model, self._read(jobs), self.batch_size)
            for job, (prediction, seconds) in track(
                results, "predicting", total=len(jobs), console=console, disable=few
            ):
                row = self._row(job, prediction.size, self.model.working_size(prediction.size, self.size), seconds)
                writer.submit(partial(self._write, prediction, job, row))
                self.rows.append(row)

    def videos(self, *, every: int, side_by_side: bool, keep_frames: bool) -> None:
        """Predict all videos."""
        for job in self.work.jobs:
            if not job.is_video:
                continue
            with VideoFrames(job.path, every, self.max_pixels) as frames:
                total = frames.num_frames
            with Progress(console=console, disable=self.silent) as progress:
                task = progress.add_task(job.path.name, total=total)
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
                self.failed.append((job.path, prepared))
            else:
                yield job, prepared

    def _write(self, prediction: DepthPrediction, job: Job, row: dict[str, Any]) -> None:
        files = prediction.save(job.folder, job.path.stem, **self.options)
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
        num_videos = sum("frames" in row for row in self.rows)
        counts = [_count(len(self.rows) - num_videos, "image"), _count(num_videos, "video")]
        first = " and ".join(count for count in counts if count) or "nothing"
        kinds = {Path(file).name.removeprefix(Path(row["path"]).stem) for row in self.rows for file in row["files"]}
        files = f" ({', '.join(f'*{kind}' for kind in sorted(kinds))})" if kinds else ""
        own = f"; left out, as results of earlier runs: {self.work.num_results}" if self.work.num_results else ""
        damaged = f"; left out, as damaged: {len(self.work.damaged)}" if self.work.damaged else ""
        return f"{first} -> {output}{files}{own}{damaged}"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}" if number else ""
