"""What ``predict`` has to do: found, checked before the first prediction, and given a place of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from hybrid_encoder.data.finding import find_files
from hybrid_encoder.data.images import check_image, image_size
from hybrid_encoder.data.opening import SUFFIXES
from hybrid_encoder.data.results import ENDINGS, FRAMES, VIDEO, check_foreign, enumerated, is_result
from hybrid_encoder.data.video import VIDEO_SUFFIXES, VideoFrames, is_video
from hybrid_encoder.errors import InputError

MAX_NAME = 255  # bytes of a file's name, on all common file systems


class Job(NamedTuple):
    """A picture or a video, and the folder of its results."""

    path: Path
    folder: Path

    @property
    def is_video(self) -> bool:
        """Whether it is named as videos are."""
        return is_video(self.path)

    @property
    def targets(self) -> list[Path]:
        """All files that its results may be."""
        endings = (VIDEO,) if self.is_video else ENDINGS
        return [self.folder / (self.path.stem + ending) for ending in endings]

    @property
    def frames_folder(self) -> Path:
        """Where the results of a video's frames are."""
        return self.folder / (self.path.stem + FRAMES)

    def size(self, max_pixels: int) -> tuple[int, int]:
        """Return (H, W) of the picture, or of the frames, upright.

        Raises:
            InputError: it cannot be read.
        """
        if not self.is_video:
            return image_size(self.path, max_pixels)
        with VideoFrames(self.path, max_pixels=max_pixels) as frames:
            return frames.size


class Work(NamedTuple):
    """What there is to do, and what was left out.

    Attributes:
        damaged: files that cannot be read, with what is wrong; those of which only the work shows it are added then.
        num_results: results of earlier runs among the inputs.
    """

    jobs: list[Job]
    damaged: list[tuple[Path, InputError]]
    num_results: int

    def check_damaged(self, good: Sequence[object], skip: bool) -> None:
        """Raise one InputError for all damaged files, unless they are to be skipped and there are good ones."""
        if len(self.damaged) == 1 and not (skip and good):
            raise self.damaged[0][1]
        if self.damaged and not (skip and good):
            paths = [path for path, _ in self.damaged]
            raise InputError(
                f"{len(paths)} of {len({*paths, *(job.path for job in self.jobs)})} files cannot be used: "
                f"{enumerated(paths)}; the first because {self.damaged[0][1]}"
            )


def find_work(inputs: Sequence[str], output: Path, max_pixels: int) -> Work:
    """Return all pictures and videos, after a look at every one: a bad one must not stop the work half-way.

    Raises:
        InputError: nothing is found, or nothing but results of earlier runs.
    """
    found = find_files(inputs, (*SUFFIXES, *VIDEO_SUFFIXES))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        own = list(pool.map(lambda one: is_result(one.path), found))
        new = [one for one, is_own in zip(found, own, strict=True) if not is_own]
        if not new:
            raise InputError(
                f"{found[0].path} is a result of an earlier run, and there is nothing else to predict; give a picture "
                "or a video."
            )
        problems = list(pool.map(lambda one: _problem(one.path, max_pixels), new))
    damaged = [(one.path, problem) for one, problem in zip(new, problems, strict=True) if problem]
    good = [one for one, problem in zip(new, problems, strict=True) if problem is None]
    return Work([Job(one.path, output / one.place) for one in good], damaged, len(found) - len(new))


def _problem(path: Path, max_pixels: int) -> InputError | None:
    try:
        if is_video(path):
            with VideoFrames(path, max_pixels=max_pixels):
                return None
        check_image(path, max_pixels)
    except InputError as error:
        return error
    return None


def check_targets(jobs: Sequence[Job], keep_frames: bool) -> None:
    """Check that every result can have a place of its own.

    Args:
        jobs: of one command.
        keep_frames: results of the frames of videos are written, too.

    Raises:
        InputError: two files have results of the same name, a name is too long, or a file of a person stands where a
            result would be.
    """
    folders = {job.frames_folder: job.path for job in jobs if job.is_video} if keep_frames else {}
    owners: dict[Path, Path] = {}
    for job in jobs:
        above = [job.folder, *job.folder.parents] if folders else []
        owner = next((folders[folder] for folder in above if folder in folders), job.path)
        for target in job.targets:
            other = owners.setdefault(target, owner)
            if other is not job.path:
                raise InputError(f"{other} and {job.path} would be written to the same files; give one at a time.")
        longest = max(len(os.fsencode(target.name)) for target in job.targets)
        if longest > MAX_NAME:
            raise InputError(
                f"results of {job.path} would have names of {longest} bytes, more than {MAX_NAME}; give it a shorter "
                "name."
            )
    inside = (file for folder in folders for file in _files(folder))
    check_foreign([*owners, *inside], "give another --output")


def _files(folder: Path) -> Iterable[Path]:
    """Yield what a folder holds; the folder's own name where it is something else."""
    try:
        yield from folder.iterdir()
    except FileNotFoundError:
        return
    except OSError:
        yield folder
