"""What the page does, without the page: from a picture or a video to files, with one model that is kept loaded."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from hybrid_encoder.app.choices import RIGHT, Choices
from hybrid_encoder.app.scenes import saved_points, shown_points
from hybrid_encoder.data.images import field_of_view, open_image
from hybrid_encoder.data.point_clouds import write_cloud
from hybrid_encoder.data.results import MARK
from hybrid_encoder.data.video import VideoFrames, VideoWriter
from hybrid_encoder.errors import InputError, shortened
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.steady_colours import SteadyColours

if TYPE_CHECKING:
    from hybrid_encoder.models.sizes import Size, WorkingSize

EXAMPLE = Path(__file__).with_name("street.jpg")  # frame 0 of SyntheticDrive(920, 4, height=288, width=960)
USUAL_FOV = 65.0  # degrees, of a phone held level

MAX_PIXELS = 50_000_000  # of a picture
MAX_WORKING = 2_000_000  # pixels that the network sees: a transformer's memory grows with their square
MAX_FRAMES = 20_000  # of a video: eleven minutes at 30 a second
MAX_SHOWN = 1600  # pixels on the longer side of what the slider shows
BATCH = 4  # frames
PAUSE = 0.2  # seconds between two steps of a video


@dataclass(frozen=True)
class PictureResult:
    """Files made of one picture, and what is to be said of them.

    Attributes:
        picture, depth: to look at, of one size, at most 1600 pixels on the longer side.
        scene: at most 250,000 points without the far background, ``.glb``.
        extent: diagonal of the box around the scene, in its unit.
        colors, numbers, cloud: to keep: the coloured map and the depth at the picture's size, and at most two million
            points as ``.ply``.
        words: what the words say of the picture, drawn; None where the model has none.
        summary: how it was made.
    """

    picture: Path
    depth: Path
    scene: Path
    extent: float
    colors: Path
    numbers: Path
    cloud: Path
    words: Path | None
    summary: str


@dataclass(frozen=True)
class VideoStep:
    """How far a video is; the last step has the result.

    Attributes:
        done: frames.
        total: frames, None where the file does not say.
        video: the finished file, at the last step.
        summary: how it was made, at the last step.
    """

    done: int
    total: int | None
    video: Path | None = None
    summary: str = ""


class DepthRunner:
    """One model, loaded once, and a folder for what it makes; the page lets one visitor at a time use it.

    Args:
        folder: made if it is not there.
        weights: those that can be chosen.
        device: to predict on.
        any_weights: let a visitor name other ones. A path or a Hub id makes this machine read files or download, which
            only the person who sits at it should be able to ask for.
        kept_for: seconds after which results are deleted.
    """

    def __init__(
        self,
        folder: Path,
        weights: Sequence[str],
        *,
        device: torch.device,
        any_weights: bool = False,
        kept_for: float = 3600,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.weights, self.device = folder, tuple(weights), device
        self.any_weights, self.kept_for = any_weights, kept_for
        self._name = ""
        self._model: HybridDepthModel | None = None
        self._lock = threading.Lock()

    def load(self, weights: Any) -> HybridDepthModel:
        """Return the model of these weights: the one at hand, or else it is replaced.

        Raises:
            CheckpointError: the weights cannot be loaded.
            InputError: they are not among those that can be chosen.
        """
        name = weights.strip() if isinstance(weights, str) else ""
        if not (name in self.weights or (name and self.any_weights)):
            raise InputError(
                f"the weights {shortened(repr(weights), 80)} cannot be chosen here; take {' or '.join(self.weights)}."
            )
        with self._lock:
            if self._model is None or self._name != name:
                self._model = None  # before the next one is there: both may be too much
                self._model = HybridDepthModel.from_pretrained(name).to(self.device)
                self._name = name
            return self._model

    def picture(self, path: Path, choices: Choices) -> PictureResult:
        """Predict depth for a picture, and write what is shown and what can be kept.

        Args:
            path: of the picture; what is kept is named after it.
            choices: as the page has them.

        Raises:
            HybridEncoderError: the picture cannot be read, or a choice cannot be.
        """
        size, colormap, fov = choices.checked_size(), choices.checked_colormap(), choices.checked_fov()
        image = open_image(path, MAX_PIXELS)
        model = self.load(choices.weights)
        made = self._check_work(model, (image.height, image.width), size)
        begun = time.perf_counter()
        prediction = model.infer(path, size, words=model.has_words).cpu()
        prediction.check_finite(path.name)
        seconds = time.perf_counter() - begun
        folder, stem = self._new_folder(), path.stem
        colors, numbers, *words = prediction.save(folder, stem, words=model.has_words, colormap=colormap)
        known = fov or field_of_view(path)
        cloud, scene = folder / f"{stem}_points.ply", folder / f"{stem}_points.glb"
        write_cloud(cloud, saved_points(prediction, known or USUAL_FOV))
        shown = shown_points(prediction, known or USUAL_FOV)
        write_cloud(scene, shown)
        camera = f"field of view {known or USUAL_FOV:.3g}°{'' if known else ' (assumed)'}"
        return PictureResult(
            picture=_shown(image, folder / f"{stem}_picture.png"),
            depth=_shown(Image.open(colors), folder / f"{stem}_shown.png"),
            scene=scene,
            extent=float(np.linalg.norm(np.ptp(shown.positions, axis=0))),
            colors=colors,
            numbers=numbers,
            cloud=cloud,
            words=words[0] if words else None,
            summary=f"{made}, {seconds:.2g} s; {camera}.",
        )

    def video(self, path: Path, choices: Choices) -> Iterator[VideoStep]:
        """Predict depth for a video, and tell now and then how far it is; when it is closed early, no file is left.

        Args:
            path: of the video; the result is named after it.
            choices: as the page has them.

        Raises:
            HybridEncoderError: the video cannot be read, or is too long, or a choice cannot be.
        """
        size, colormap = choices.checked_size(), choices.checked_colormap()
        with VideoFrames(path, max_pixels=MAX_PIXELS) as frames:
            _check_length(path, frames.num_frames or 0)
            model = self.load(choices.weights)
            made = self._check_work(model, frames.size, size)
            target = self._new_folder() / f"{path.stem}_depth.mp4"
            height, width = frames.size
            begun = said = time.perf_counter()
            done = 0
            colours = SteadyColours(colormap)
            yield VideoStep(0, frames.num_frames)
            shape = (2 * height, width) if choices.source_above else (height, width)
            with VideoWriter(target, shape, frames.rate, comment=MARK) as writer:
                for prediction in model.infer_stream(frames, size, batch_size=BATCH):
                    prediction.check_finite(path.name)
                    depth = colours(prediction)
                    writer.write(np.vstack((prediction.source, depth)) if choices.source_above else depth)
                    done += 1
                    _check_length(path, done)
                    if time.perf_counter() - said > PAUSE:
                        said = time.perf_counter()
                        os.utime(target.parent)  # not old yet
                        yield VideoStep(done, frames.num_frames)
            rate = done / (time.perf_counter() - begun)
            yield VideoStep(done, done, target, f"{made}, {done} frames, {rate:.2g} a second.")

    def example(self) -> Path:
        """Return a copy of the example picture among the results, from where it may be served."""
        return Path(shutil.copy(EXAMPLE, self._new_folder()))

    def _check_work(self, model: HybridDepthModel, own: Size, size: WorkingSize) -> str:
        """Return which weights work, at which size, and where.

        Raises:
            InputError: at a size that could take all of the machine's memory.
        """
        height, width = model.working_size(own, size)
        if height * width > MAX_WORKING:
            raise InputError(
                f"the working size would be {height} x {width}, {height * width:,} pixels, and this page works at "
                f"{MAX_WORKING:,} at most; choose the {RIGHT}."
            )
        return f"Made by {self._name!r} at {height} x {width} on {self.device}"

    def _new_folder(self) -> Path:
        """Return an empty folder, after results that are old enough have been deleted."""
        for folder in self.folder.iterdir():
            if time.time() - folder.stat().st_mtime > self.kept_for:
                shutil.rmtree(folder, ignore_errors=True)
        return Path(tempfile.mkdtemp(dir=self.folder))


def _shown(image: Image.Image, path: Path) -> Path:
    """Write a picture at a size to look at, and return its path."""
    image.thumbnail((MAX_SHOWN, MAX_SHOWN))
    image.convert("RGB").save(path, compress_level=1)
    return path


def _check_length(path: Path, num_frames: int) -> None:
    if num_frames > MAX_FRAMES:
        raise InputError(
            f"{path} has more than {MAX_FRAMES:,} frames, the most that this page takes; cut it, or use "
            "hybrid-encoder predict."
        )
