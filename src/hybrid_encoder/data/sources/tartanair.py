"""TartanAir as a source of frames: one flight through a simulated place, with exact depth and poses.

Wang et al., "TartanAir: A Dataset to Push the Limits of Visual SLAM", IROS 2020. The layouts are those of ``README.md``
and ``data_type.md`` in ``tartanair_tools``, and of ``docs/modalities.rst`` in ``tartanairpy`` for version 2::

    <place>/<place>/Easy/P000/image_left/000000_left.png                  640 x 480
    <place>/<place>/Easy/P000/depth_left/000000_left_depth.npy            metres, float32
    <place>/<place>/Easy/P000/pose_left.txt
    <place>/Data_easy/P000/image_lcam_front/000000_lcam_front.png         version 2, 640 x 640
    <place>/Data_easy/P000/depth_lcam_front/000000_lcam_front_depth.png   metres, float32 as four bytes
    <place>/Data_easy/P000/pose_lcam_front.txt

Intrinsics are taken as published: the centre at half of width and height, with pixel centres at integers, as
TartanAir's own tools compute optical flow. The right views are the same with ``right`` or ``rcam``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hybrid_encoder.data.depth_maps import read_depth
from hybrid_encoder.data.finding import numbered_files
from hybrid_encoder.data.kitti_files import ROUNDING, read_text
from hybrid_encoder.data.opening import expanded, is_file, is_folder, opened
from hybrid_encoder.data.poses import rotations_of
from hybrid_encoder.data.sources.base import Array, FrameSource
from hybrid_encoder.data.sources.layouts import camera_text, contents, intrinsics, read_frame
from hybrid_encoder.errors import InputError

FOCAL = 320.0  # pixels
BASELINE = 0.25  # metres
SKY = 10_000.0  # metres: what is as far is the sky's sphere
DEEPEST = 5  # folders from the one that is given to that of a flight
AXES = np.array(
    [[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]]
)  # from x ahead, y right, z down to a camera's


class Layout(NamedTuple):
    """How a version of TartanAir names its files.

    Args:
        side: of the left camera, in the names of folders and files.
        right: the same of the right camera.
        size: (H, W) of the images.
    """

    side: str
    right: str
    size: tuple[int, int]


LAYOUTS = (Layout("left", "right", (480, 640)), Layout("lcam_front", "rcam_front", (640, 640)))


class TartanAirSource(FrameSource):
    """A flight, seen by the left camera that looks ahead; with the right view, depth and poses where they are there.

    The sky, at 10,000 m and beyond, has no depth. The world has the axes of a camera that looks north: x east, y down,
    z north.

    Args:
        folder: of the flight, such as ``P000``.

    Raises:
        InputError: no images.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = expanded(folder).absolute()
        self.name = str(self.folder)
        layout = _layout(self.folder)
        if layout is None:
            raise InputError(f"{self.folder} {contents(self.folder)}, not image_left or image_lcam_front.")
        self._layout, self.size = layout, layout.size
        K = intrinsics(FOCAL, FOCAL, self.size[1] / 2, self.size[0] / 2)
        self.K, self.camera = K, camera_text("TartanAir", K)
        if not self._images:
            raise InputError(f"{self.folder}/image_{layout.side} has no 000000_{layout.side}.png; unpack it again.")
        if is_folder(self.folder / f"image_{layout.right}"):
            self.baseline = BASELINE

    @cached_property
    def frames(self) -> Sequence[int]:
        return list(self._images)

    def file(self, frame: int) -> Path:
        return self._file(self._layout.side, frame)

    def image(self, frame: int) -> Array:
        return read_frame(self.file(frame), self.size, "TartanAir")

    def right(self, frame: int) -> Array:
        return read_frame(self._file(self._layout.right, frame), self.size, "TartanAir")

    def depth(self, frame: int) -> Array | None:
        """Return exact depth, as :meth:`FrameSource.depth`; 0 in the sky, None where a frame has no depth file."""
        side = self._layout.side
        file = self.folder / f"depth_{side}" / f"{frame:06d}_{side}_depth.npy"
        packed = file.with_suffix(".png")
        if not is_file(file) and not is_file(packed):
            return None
        depth: Array = read_depth(file).numpy() if is_file(file) else _read_packed(packed)
        if depth.shape != self.size:
            raise InputError(f"{file} is {depth.shape}; depth of TartanAir is {self.size}: unpack it again.")
        known: Array = np.where((depth > 0) & (depth < SKY), depth, np.float32(0))[None]
        return known

    def world_T_cam(self, frame: int) -> Array | None:
        if not is_file(self._pose_file):
            return None
        if frame >= len(self._poses):
            raise InputError(f"{self._pose_file} has {len(self._poses)} poses, none of frame {frame}; unpack it again.")
        pose: Array = self._poses[frame]
        return pose

    def recorded(self, frame: int) -> tuple[str, int, str]:
        return "_".join(("TartanAir", *self.folder.parts[-3:])), frame, ""  # place, difficulty and flight

    def frame_name(self, frame: int) -> str:
        return f"{self.folder}/{frame:06d}"

    @cached_property
    def _images(self) -> dict[int, Path]:
        side = self._layout.side
        return numbered_files(self.folder / f"image_{side}", ending=f"_{side}")

    def _file(self, side: str, frame: int) -> Path:
        return self.folder / f"image_{side}" / f"{frame:06d}_{side}.png"

    @property
    def _pose_file(self) -> Path:
        return self.folder / f"pose_{self._layout.side}.txt"

    @cached_property
    def _poses(self) -> Array:
        """Camera to world, (N, 4, 4), from lines with tx ty tz qx qy qz qw in the axes x ahead, y right, z down."""
        file = self._pose_file
        try:
            numbers = np.array([line.split() for line in read_text(file).splitlines() if line.strip()], np.float64)
        except ValueError:
            numbers = np.empty(0)
        lengths = np.linalg.norm(numbers[:, 3:], axis=1) if numbers.ndim == 2 and numbers.shape[1] == 7 else np.zeros(1)
        if not (np.abs(lengths - 1) <= ROUNDING).all() or not np.isfinite(numbers).all():
            raise InputError(f"{file} must have lines of 7 numbers, tx ty tz qx qy qz qw, with a unit quaternion.")
        poses = np.tile(np.eye(4), (len(numbers), 1, 1))
        poses[:, :3, :3] = rotations_of(numbers[:, 3:] / lengths[:, None])
        poses[:, :3, 3] = numbers[:, :3]
        world_T_cam: Array = AXES @ poses @ AXES.T
        return world_T_cam


def is_tartanair(path: str | Path) -> bool:
    """Say whether a folder holds flights of TartanAir, or is one."""
    return next(_flights(expanded(path)), None) is not None


def tartanair_sources(path: str | Path, difficulty: str | None = None) -> list[FrameSource]:
    """List the flights of TartanAir, by their paths.

    Args:
        path: the folder of all places, of one, or of one flight.
        difficulty: ``"easy"`` or ``"hard"``; by default both.

    Raises:
        InputError: no flight, another difficulty, or what :class:`TartanAirSource` says.
    """
    root = expanded(path).absolute()
    if difficulty not in (None, "easy", "hard"):
        raise InputError(f"difficulty is {difficulty!r}; TartanAir has 'easy' and 'hard'.")
    found = list(_flights(root))
    if not found:
        raise InputError(
            f"{root} {contents(root)}, not flights such as <place>/Easy/P000 with image_left, or "
            "<place>/Data_easy/P000 with image_lcam_front; give the folder that TartanAir's archives are unpacked in."
        )
    chosen = [folder for folder in found if difficulty is None or folder.parent.name.lower().endswith(difficulty)]
    if not chosen:
        raise InputError(f"{root} has no {difficulty} flight; it has {len(found)} of the other difficulty.")
    return [TartanAirSource(folder) for folder in chosen]


def _layout(folder: Path) -> Layout | None:
    return next((layout for layout in LAYOUTS if is_folder(folder / f"image_{layout.side}")), None)


def _flights(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Give the folders of flights in order, without a look into those with images."""
    if _layout(folder):
        yield folder
    elif depth < DEEPEST and is_folder(folder):
        with os.scandir(folder) as entries:  # it knows without a look at each which are folders
            names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
        for name in names:
            yield from _flights(folder / name, depth + 1)


def _read_packed(file: Path) -> Array:
    """Read float32 that are stored as the four bytes of a PNG file's pixels, in the order blue, green, red, alpha."""
    with opened(file, formats=("PNG",)) as image:
        if image.mode != "RGBA":
            raise InputError(f"{file} cannot be read as depth (its mode is {image.mode}); take TartanAir's own file.")
        pixels = np.asarray(image)
    depth: Array = np.ascontiguousarray(pixels[..., [2, 1, 0, 3]]).view("<f4")[..., 0]
    return depth
