"""Cityscapes as a source of frames: snippets of 30 frames, without the car's bonnet.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016. The layout is that of its
archives, as the readme of ``cityscapesscripts`` describes it::

    <root>/leftImg8bit_sequence/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png
    <root>/rightImg8bit_sequence/<split>/<city>/<city>_<sequence>_<frame>_rightImg8bit.png
    <root>/disparity{_sequence,}/<split>/<city>/<city>_<sequence>_<frame>_disparity.png
    <root>/camera/<split>/<city>/<city>_<sequence>_<frame>_camera.json

A snippet surrounds an image with labels, 19 frames before it and 10 after it, at 17 Hz. Only this image has a camera
file, which stands for its snippet.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hybrid_encoder.data.depth_maps import KITTI_SCALE, read_depth
from hybrid_encoder.data.kitti_files import read_text
from hybrid_encoder.data.opening import expanded, is_file, is_folder
from hybrid_encoder.data.sources.base import Array, FrameSource
from hybrid_encoder.data.sources.layouts import camera_text, contents, intrinsics, read_frame
from hybrid_encoder.errors import InputError

SIZE = (1024, 2048)  # (H, W) of the images, of disparity, and of what the intrinsics are for
BEFORE, AFTER = 19, 10  # frames of a snippet around the image with labels
CROP_BOTTOM = 0.25  # share of the height that shows the car itself, as SfMLearner, Monodepth2 and ManyDepth cut it off
LEFT, RIGHT = "leftImg8bit_sequence", "rightImg8bit_sequence"
DISPARITIES = ("disparity_sequence", "disparity")  # of every frame, or of the images with labels alone
CAMERAS = ("camera", "camera_trainvaltest/camera")  # as the archive unpacks, and in a folder of its own
SPLITS = ("train", "val", "test")


class CityscapesCamera(NamedTuple):
    """What a camera file says, of the left camera."""

    K: Array  # intrinsics in pixels of the whole image, float32, (3, 3)
    baseline: float | None  # metres to the right camera; None where the file does not say it


class CityscapesSource(FrameSource):
    """A snippet, with depth from Cityscapes' own stereo matching where its disparity is there.

    Images and depth have lost their lowest rows, which show the car; the intrinsics stay what they are, because the
    upper left corner is the same.

    Args:
        root: of the data set.
        split, city: of the snippet.
        sequence: its number, six digits.
        frames: numbers of its frames.
        camera: of its image with labels.
        crop_bottom: share of the height that is cut off, from 0 to below 1.

    Raises:
        InputError: a share outside of this range.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        city: str,
        sequence: str,
        frames: Sequence[int],
        camera: CityscapesCamera,
        crop_bottom: float = CROP_BOTTOM,
    ) -> None:
        if not 0 <= crop_bottom < 1:
            raise InputError(f"crop_bottom is {crop_bottom}; give a share of the height, from 0 to below 1.")
        self.root, self.split, self.city, self.sequence = expanded(root).absolute(), split, city, sequence
        self.size = (round(SIZE[0] * (1 - crop_bottom)), SIZE[1])
        self.K, self.camera = camera.K, camera_text("Cityscapes", camera.K)
        self._frames = list(frames)
        self._disparities = next((kind for kind in DISPARITIES if is_folder(self.root / kind / split / city)), None)
        self._calibration = camera
        if camera.baseline and is_file(self._file(RIGHT, self._frames[0])):
            self.baseline = camera.baseline
        self.name = f"{self._file(LEFT, self._frames[0])} to {self._frames[-1]:06d}"

    @property
    def frames(self) -> Sequence[int]:
        return self._frames

    def file(self, frame: int) -> Path:
        return self._file(LEFT, frame)

    def image(self, frame: int) -> Array:
        return self._upper(read_frame(self.file(frame), SIZE, "Cityscapes"))

    def right(self, frame: int) -> Array:
        return self._upper(read_frame(self._file(RIGHT, frame), SIZE, "Cityscapes"))

    def depth(self, frame: int) -> Array | None:
        """Return depth from disparity, as :meth:`FrameSource.depth`; None where a frame has no disparity.

        The file holds 256 d + 1 for a disparity of d pixels, and 0 where none was found. Depth is baseline fx / d.
        """
        K, baseline = self._calibration
        if self._disparities is None or baseline is None:
            return None
        file = self._file(self._disparities, frame)
        if not is_file(file):
            return None
        disparity: Array = read_depth(file).numpy() - np.float32(1 / KITTI_SCALE)
        if disparity.shape != SIZE:
            raise InputError(f"{file} is {disparity.shape}; disparity of Cityscapes is 1024 x 2048.")
        far = np.float32(baseline * K[0, 0])  # metres at a disparity of one pixel
        depth = np.divide(far, disparity, out=np.zeros(SIZE, np.float32), where=disparity > 0)
        return self._upper(depth[None])

    def recorded(self, frame: int) -> tuple[str, int, str]:
        return f"{self.city}_{self.sequence}", frame, ""

    def frame_name(self, frame: int) -> str:
        return f"{self.city} {self.city}_{self.sequence}_{frame:06d}"

    def _file(self, kind: str, frame: int) -> Path:
        ending = kind.removesuffix("_sequence")
        return self.root / kind / self.split / self.city / f"{self.city}_{self.sequence}_{frame:06d}_{ending}.png"

    def _upper(self, array: Array) -> Array:
        return array[:, : self.size[0]]


def is_cityscapes(path: str | Path) -> bool:
    """Say whether a folder is that of Cityscapes, with its videos or without, or that of a split of the videos."""
    root, split = _located(path)
    return split is not None or is_folder(root / LEFT) or is_folder(root / "leftImg8bit")


def cityscapes_sources(
    path: str | Path,
    split: str | None = None,
    crop_bottom: float = CROP_BOTTOM,
    cities: Sequence[str] | None = None,
) -> list[FrameSource]:
    """List the snippets of a split, by city, sequence and frame.

    Args:
        path: the folder that holds ``leftImg8bit_sequence`` and ``camera``, or ``leftImg8bit_sequence/<split>`` in it.
        split: ``"train"``, ``"val"`` or ``"test"``; by default that of the path, else ``"train"``.
        crop_bottom: of :class:`CityscapesSource`.
        cities: their names; by default all of the split.

    Raises:
        InputError: another split, no videos, a city that does not exist, or a frame without the camera file of its
            snippet.
    """
    root, named = _located(path)
    split = split or named or "train"
    if split not in SPLITS:
        raise InputError(f"split is {split!r}; Cityscapes has {', '.join(SPLITS)}.")
    videos = root / LEFT / split
    if not is_folder(videos):
        raise InputError(
            f"{root} {contents(root)}, not {LEFT}/{split}; unpack leftImg8bit_sequence_trainvaltest.zip there: single "
            "images have no neighbours in time."
        )
    there = sorted(folder.name for folder in videos.iterdir() if is_folder(folder) and not folder.name.startswith("."))
    if missing := [city for city in cities or [] if city not in there]:
        raise InputError(f"{videos} has no city {missing[0]}; it has {', '.join(there)}.")
    found = [
        CityscapesSource(root, split, city, sequence, frames, camera, crop_bottom)
        for city in cities or there
        for sequence, frames, camera in _snippets(root, split, city)
    ]
    if not found:
        raise InputError(f"{videos} holds no image like aachen/aachen_000000_000019_leftImg8bit.png; unpack it again.")
    return list[FrameSource](found)


def _located(path: str | Path) -> tuple[Path, str | None]:
    """Return the folder of the data set, and the split where a path names the folder of one."""
    root = expanded(path).absolute()
    if root.name in SPLITS and root.parent.name == LEFT and is_folder(root):
        return root.parent.parent, root.name
    return root, None


def read_camera(file: Path) -> CityscapesCamera:
    """Read a camera file.

    Raises:
        InputError: it does not exist, or holds no focal lengths and centre that can be right.
    """
    if not is_file(file):
        raise InputError(f"{file} does not exist; unpack camera_trainvaltest.zip of Cityscapes.")
    try:
        values = json.loads(read_text(file))
        fx, fy, u0, v0 = (float(values["intrinsic"][name]) for name in ("fx", "fy", "u0", "v0"))
        extrinsic = values.get("extrinsic")
        baseline = float(extrinsic["baseline"]) if isinstance(extrinsic, Mapping) and "baseline" in extrinsic else None
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        raise InputError(f"{file} holds no 'intrinsic' with fx, fy, u0 and v0; unpack it again.") from None
    if not (all(map(math.isfinite, (fx, fy, u0, v0))) and fx > 0 and fy > 0):
        raise InputError(f"{file} holds fx, fy, u0, v0 of {fx:g}, {fy:g}, {u0:g}, {v0:g}; unpack it again.")
    if baseline is not None and not 0 < baseline < 10:
        raise InputError(f"{file} holds a baseline of {baseline:g} m; that of Cityscapes is 0.2 m: unpack it again.")
    return CityscapesCamera(intrinsics(fx, fy, u0, v0), baseline)


def _snippets(root: Path, split: str, city: str) -> Iterator[tuple[str, list[int], CityscapesCamera]]:
    """Give the sequence, the frames and the camera of every snippet of a city."""
    images = _numbers(root / LEFT / split / city, "leftImg8bit", "png")
    places = [root / kind / split / city for kind in CAMERAS]
    folder = next(filter(is_folder, places), places[0])
    if images and not is_folder(folder):
        raise InputError(f"{folder} does not exist; unpack camera_trainvaltest.zip in {root}.")
    labelled = _numbers(folder, "camera", "json")
    for sequence, numbers in images.items():
        left = set(numbers)
        for middle in labelled.get(sequence, []):
            frames = sorted(left.intersection(range(middle - BEFORE, middle + AFTER + 1)))
            left.difference_update(frames)
            if frames:
                yield sequence, frames, read_camera(folder / f"{city}_{sequence}_{middle:06d}_camera.json")
        if left:
            raise InputError(
                f"{city}_{sequence} has frame {min(left)}, and {folder} no camera file of an image from "
                f"{max(0, min(left) - AFTER)} to {min(left) + BEFORE}; unpack camera_trainvaltest.zip again."
            )


def _numbers(folder: Path, ending: str, suffix: str) -> dict[str, list[int]]:
    """Return the numbers of the frames of a city, by sequence, rising."""
    found: dict[str, list[int]] = {}
    if is_folder(folder):
        name = re.compile(rf"{re.escape(folder.name)}_([0-9]{{6}})_([0-9]{{6}})_{ending}\.{suffix}")
        for match in filter(None, map(name.fullmatch, sorted(one.name for one in folder.iterdir()))):
            found.setdefault(match[1], []).append(int(match[2]))
    return found
