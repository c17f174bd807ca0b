"""Frames with their neighbours in time, from which depth and motion are learned without labels.

Pixel centres are at integers, so that resizing by s takes x to (x + 0.5) s - 0.5. ``K`` is in pixels of the images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hybrid_encoder.data.kitti import KittiDrive
from hybrid_encoder.data.opening import expanded, is_file, is_folder
from hybrid_encoder.data.transforms import Jitter, Resample, check_choice, check_size, jitter_colours, resize_images
from hybrid_encoder.errors import InputError
from hybrid_encoder.geometry.camera import resized_intrinsics

if TYPE_CHECKING:
    from hybrid_encoder.data.synthetic import RenderedDrive

Augment = bool | Literal["flip"]
CAMERAS = {"l": 2, "r": 3}  # the sides in the lines of a split


class Frames(NamedTuple):
    """A frame (the target) with its neighbours (the sources); torch's default collate makes batches."""

    images: Tensor  # (1 + N, 3, H, W), RGB in [0, 1]: the target, then its sources
    augmented: Tensor  # (1 + N, 3, H, W), the same with changed colours, for networks; losses take `images`
    K: Tensor  # (3, 3), intrinsics in pixels of these images
    name: str  # says in error messages which frame it is; a tuple in a batch


class KittiSequences(Dataset[Frames]):
    """Frames of KITTI raw with their neighbours, resized.

    Items are in the order of the split or, without one, by drive, then camera as given, then frame.

    Args:
        root: of KITTI raw, the folder with the dates; without a split, also the folder of one drive.
        size: (H, W) of the items.
        offsets: of the sources from the target, in frames; not 0.
        split: a text file with one frame a line, ``<date>/<drive> <frame> <l or r>``, as Monodepth2's splits. By
            default every frame that has all its neighbours is an item.
        cameras: 2 (left), 3 (right) or both; frames of other cameras are left out, also of a split.
        augment: change items at random, by torch's own generator. With probability 1/2 each, images and ``K`` are
            mirrored, and the colours of ``augmented`` are changed: brightness, contrast and saturation times 0.8 to
            1.2, hue turned by up to 0.1 of the circle. ``"flip"`` mirrors only.
        jitter: whose colours change alike: ``"per_item"`` draws once for a frame and its neighbours, as Monodepth2
            does; ``"per_frame"`` for each of them, as the published Hybrid-depth does.
        resample: ``"bilinear"`` with antialias, or ``"lanczos"``, as both of them resize.

    Raises:
        InputError: an option out of its range, no drive, no frame with all its neighbours, a calibration file that does
            not exist or is malformed, a line of the split that is malformed or names a frame that does not exist or
            lacks a neighbour; later, an image that cannot be read.
    """

    def __init__(
        self,
        root: str | Path,
        size: tuple[int, int] = (192, 640),
        offsets: Sequence[int] = (-1, 1),
        split: str | Path | None = None,
        cameras: Sequence[int] = (2, 3),
        augment: Augment = False,
        jitter: Jitter = "per_item",
        resample: Resample = "bilinear",
    ) -> None:
        check_size(size)
        check_choice("jitter", jitter, ("per_item", "per_frame"))
        check_choice("resample", resample, ("bilinear", "lanczos"))
        self.size, self.offsets, self.augment = size, check_offsets(offsets), augment
        self.jitter, self.resample = jitter, resample
        if sorted(cameras) not in ([2], [3], [2, 3]):
            raise InputError(f"cameras is {cameras}; give 2 (left), 3 (right) or both, each once.")
        self.items: list[tuple[KittiDrive, int]] = []  # drive, target frame
        frames = cache(_frames)
        if split is None:
            for drive in (KittiDrive(folder, camera) for folder in find_drives(root) for camera in cameras):
                complete = (f for f in sorted(frames(drive)) if frames(drive).issuperset(self._sources(f)))
                self.items += [(drive, frame) for frame in complete]
        else:
            for drive, frame, place in read_split(root, split):
                if drive.camera not in cameras:
                    continue
                for source in self._sources(frame):
                    if source not in frames(drive):
                        raise InputError(
                            f"{place}: frame {frame} has no neighbour {source} in {drive.folder}, camera "
                            f"{drive.camera}; complete the drive, or remove the line."
                        )
                self.items.append((drive, frame))
        if not self.items:
            raise InputError(
                f"{root if split is None else split} has no frame of cameras {tuple(cameras)} with neighbours at "
                f"{self.offsets}; give longer drives, or other offsets or cameras."
            )
        drives = dict.fromkeys(drive for drive, _ in self.items)
        self.K = {drive: resized_intrinsics(torch.from_numpy(drive.K), drive.size, size) for drive in drives}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Frames:
        drive, frame = self.items[index]
        images = []
        for number in (frame, *self._sources(frame)):
            image = torch.from_numpy(drive.image(number))[None]
            images.append(resize_images(image, self.size, self.resample))
        return make_frames(torch.cat(images), self.K[drive], frame_name(drive, frame), self.augment, self.jitter)

    def _sources(self, frame: int) -> list[int]:
        return [frame + offset for offset in self.offsets]


class SyntheticSequences(Dataset[Frames]):
    """Rendered frames with their neighbours, at their own size: one item for every frame that has all of them.

    Args:
        drives: sequences of frames; a ``SyntheticDrive`` renders them on demand, a list holds them.
        offsets: of the sources from the target, in frames; not 0.
        augment, jitter: as in ``KittiSequences``.

    Raises:
        InputError: offsets out of their range, or no frame with all its neighbours.
    """

    def __init__(
        self,
        drives: Sequence[RenderedDrive],
        offsets: Sequence[int] = (-1, 1),
        augment: Augment = False,
        jitter: Jitter = "per_item",
    ) -> None:
        check_choice("jitter", jitter, ("per_item", "per_frame"))
        self.drives, self.offsets, self.augment, self.jitter = drives, check_offsets(offsets), augment, jitter
        before, after = max(0, -min(self.offsets)), max(0, *self.offsets)
        lengths = [len(drive) for drive in drives]
        self.items = [(d, frame) for d, length in enumerate(lengths) for frame in range(before, length - after)]
        if not self.items:
            raise InputError(
                f"drives are {lengths} frames long, and none has a frame with neighbours at {self.offsets}; "
                "render longer drives."
            )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Frames:
        drive, number = self.items[index]
        frames = [self.drives[drive][number + offset] for offset in (0, *self.offsets)]
        images = torch.from_numpy(np.stack([frame.image for frame in frames]))
        name = f"drive {drive}, frame {number}"
        return make_frames(images, torch.from_numpy(frames[0].K), name, self.augment, self.jitter)


def find_drives(root: str | Path) -> list[Path]:
    """List the folders of all drives under a KITTI raw root, in order; a drive's own folder is its only drive.

    Raises:
        InputError: no drive is found.
    """
    root = expanded(root)
    if any(is_folder(root / f"image_0{camera}") for camera in CAMERAS.values()):
        return [root.absolute()]  # the calibration lies in its parent, and '.' has none
    folders = sorted(folder for folder in root.glob("*/*_drive_*_sync") if is_folder(folder)) if is_folder(root) else []
    if not folders:
        raise InputError(f"{root} holds no drive, <date>/<date>_drive_<number>_sync; give the folder of KITTI's dates.")
    return folders


def read_split(root: str | Path, file: str | Path) -> list[tuple[KittiDrive, int, str]]:
    """Read the frames of a split, a text file with lines ``<date>/<drive> <frame> <l or r>``.

    Returns:
        For each line the drive, the number of the frame, and "<file>, line <number>" for error messages.

    Raises:
        InputError: the file does not exist or is empty, a line is malformed, or its drive or image does not exist.
    """
    root, file = expanded(root), expanded(file)
    if not is_file(file):
        raise InputError(f"{file} does not exist; give a text file with lines <date>/<drive> <frame> <l or r>.")
    open_drive, frames = cache(KittiDrive), cache(_frames)  # a split has many lines of few drives
    found = []
    for number, line in enumerate(file.read_bytes().decode("utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        place = f"{file}, line {number}"
        parts = re.fullmatch(r"(\S+)\s+([0-9]{1,18})\s+([lr])", line.strip())
        if not parts:
            raise InputError(
                f"{place}: {line.strip()!r} is not a frame; write <date>/<drive> <frame> <l or r>, "
                "such as '2011_09_26/2011_09_26_drive_0057_sync 311 l'."
            )
        try:
            drive = open_drive(root / parts[1], CAMERAS[parts[3]])
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        if int(parts[2]) not in frames(drive):
            raise InputError(
                f"{place}: {drive.folder} has no image {parts[2]} of camera {drive.camera}; complete the drive, or "
                "remove the line."
            )
        found.append((drive, int(parts[2]), place))
    if not found:
        raise InputError(f"{file} names no frame; write lines <date>/<drive> <frame> <l or r>.")
    return found


def frame_name(drive: KittiDrive, frame: int) -> str:
    """Return the line of a split that names this frame."""
    side = next(side for side, camera in CAMERAS.items() if camera == drive.camera)
    return f"{drive.folder.parent.name}/{drive.folder.name} {frame} {side}"


def make_frames(images: Tensor, K: Tensor, name: str, augment: Augment, jitter: Jitter = "per_item") -> Frames:
    """Make an item from images (1 + N, 3, H, W), augmented as ``KittiSequences`` says."""
    K = K.clone()
    if augment and torch.rand(()) < 0.5:
        images = images.flip(-1)
        K[0, 2] = images.shape[-1] - 1 - K[0, 2]
    changes = augment is True and bool(torch.rand(()) < 0.5)
    return Frames(images, jitter_colours(images, jitter) if changes else images, K, name)


def check_offsets(offsets: Sequence[int]) -> tuple[int, ...]:
    """Return offsets of sources from their target as a tuple.

    Raises:
        InputError: no offset, or offsets that are not distinct integers other than 0.
    """
    integers = all(isinstance(o, int | np.integer) and not isinstance(o, bool) for o in offsets)
    if not integers or not len(offsets) or 0 in offsets or len(set(offsets)) < len(offsets):
        raise InputError(f"offsets is {offsets}; give distinct integers other than 0, at least one, such as (-1, 1).")
    return tuple(int(offset) for offset in offsets)


def _frames(drive: KittiDrive) -> frozenset[int]:
    return frozenset(drive.frames)
