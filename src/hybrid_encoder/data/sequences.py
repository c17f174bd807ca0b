"""Frames with their neighbours in time: what depth and motion are learned from without labels.

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
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import ColorJitter

from hybrid_encoder.data.kitti import KittiDrive
from hybrid_encoder.data.ordered import check_size
from hybrid_encoder.errors import InputError
from hybrid_encoder.geometry.camera import resized_intrinsics

if TYPE_CHECKING:
    from hybrid_encoder.data.synthetic import RenderedDrive

Augment = bool | Literal["flip"]
CAMERAS = {"l": 2, "r": 3}  # what the sides of a split stand for
CHANGE = ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1)  # drawn once for all images of a call


class Frames(NamedTuple):
    """A frame, the target, with its neighbours, the sources; torch's default collate stacks it."""

    images: Tensor  # (1 + N, 3, H, W), RGB in [0, 1]: the target, then its sources
    augmented: Tensor  # (1 + N, 3, H, W), the same under one change of colours: what networks see; losses take `images`
    K: Tensor  # (3, 3), intrinsics in pixels of these images
    name: str  # which frame, for error messages; a tuple in a batch


class KittiSequences(Dataset[Frames]):
    """Frames of KITTI raw with their neighbours, resized.

    Order: by drive, then camera as given, then frame; or as the split has it.

    Args:
        root: KITTI raw, the folder of the dates; without a split, one drive's folder will do.
        size: (H, W) of the items.
        offsets: of the sources from the target, in frames.
        split: a text file with a frame a line, ``<date>/<drive> <frame> <l or r>``, as Monodepth2 has them. By default
            every frame that has all its neighbours.
        cameras: 2 (left), 3 (right) or both; frames of the other are left out, of a split as well.
        augment: draw changes from torch's own generator, each with probability 1/2: images (and ``K``) mirrored;
            ``augmented`` with brightness, contrast and saturation times 0.8 to 1.2 and hue turned by up to 0.1 of the
            circle. All frames of an item change alike. ``"flip"`` leaves colours as they are.

    Raises:
        InputError: an option out of its range, no drive, no frame with all its neighbours, a calibration file that is
            missing or wrong, a line of the split that is malformed or names a frame that is not there with all its
            neighbours; later, a picture that cannot be read.
    """

    def __init__(
        self,
        root: str | Path,
        size: tuple[int, int] = (192, 640),
        offsets: Sequence[int] = (-1, 1),
        split: str | Path | None = None,
        cameras: Sequence[int] = (2, 3),
        augment: Augment = False,
    ) -> None:
        check_size(size)
        self.size, self.offsets, self.augment = size, check_offsets(offsets), augment
        if sorted(cameras) not in ([2], [3], [2, 3]):
            raise InputError(f"cameras is {cameras}; give 2 (left), 3 (right) or both, each once.")
        self.items: list[tuple[KittiDrive, int]] = []  # drive, target frame
        pictures = cache(_pictures)
        if split is None:
            for drive in (KittiDrive(folder, camera) for folder in find_drives(root) for camera in cameras):
                whole = (f for f in sorted(pictures(drive)) if pictures(drive).issuperset(self._sources(f)))
                self.items += [(drive, frame) for frame in whole]
        else:
            for drive, frame, place in read_split(root, split):
                if drive.camera not in cameras:
                    continue
                for source in self._sources(frame):
                    if source not in pictures(drive):
                        raise InputError(
                            f"{place}: frame {frame} has no neighbour {source} in {drive.folder}, camera "
                            f"{drive.camera}; complete the drive, or take the line out."
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
            images.append(F.interpolate(image, self.size, mode="bilinear", align_corners=False, antialias=True))
        return make_frames(torch.cat(images).clamp(0, 1), self.K[drive], frame_name(drive, frame), self.augment)

    def _sources(self, frame: int) -> list[int]:
        return [frame + offset for offset in self.offsets]


class SyntheticSequences(Dataset[Frames]):
    """Rendered frames with their neighbours, at their own size: every frame that has all of them.

    Args:
        drives: sequences of frames; a ``SyntheticDrive`` renders them on demand, a list holds them.
        offsets: of the sources from the target, in frames.
        augment: as in ``KittiSequences``.

    Raises:
        InputError: offsets out of their range, or no frame with all its neighbours.
    """

    def __init__(
        self, drives: Sequence[RenderedDrive], offsets: Sequence[int] = (-1, 1), augment: Augment = False
    ) -> None:
        self.drives, self.offsets, self.augment = drives, check_offsets(offsets), augment
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
        made = [self.drives[drive][number + offset] for offset in (0, *self.offsets)]
        images = torch.from_numpy(np.stack([frame.image for frame in made]))
        return make_frames(images, torch.from_numpy(made[0].K), f"drive {drive}, frame {number}", self.augment)


def find_drives(root: str | Path) -> list[Path]:
    """The folders of all drives under a KITTI raw root, in order; of a drive's own folder, that folder.

    Raises:
        InputError: none.
    """
    root = Path(root).expanduser()
    if any((root / f"image_0{camera}").is_dir() for camera in CAMERAS.values()):
        return [root.absolute()]  # the calibration lies in its parent, and '.' has none
    folders = sorted(folder for folder in root.glob("*/*_drive_*_sync") if folder.is_dir())
    if not folders:
        raise InputError(f"{root} holds no drive, <date>/<date>_drive_<number>_sync; give the folder of KITTI's dates.")
    return folders


def read_split(root: str | Path, file: str | Path) -> list[tuple[KittiDrive, int, str]]:
    """The frames of a text file with lines ``<date>/<drive> <frame> <l or r>``: drive, frame, and "file, line number".

    Raises:
        InputError: a file that is missing or empty, a line that is malformed, or whose drive or picture is missing.
    """
    root, file = Path(root).expanduser(), Path(file).expanduser()
    if not file.is_file():
        raise InputError(f"{file} does not exist; give a text file with lines <date>/<drive> <frame> <l or r>.")
    open_drive, pictures = cache(KittiDrive), cache(_pictures)  # a split has many lines of few drives
    found = []
    for number, line in enumerate(file.read_bytes().decode("utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        place = f"{file}, line {number}"
        parts = re.fullmatch(r"(\S+)\s+(\d+)\s+([lr])", line.strip())
        if not parts:
            raise InputError(
                f"{place}: {line.strip()!r} is no frame; write <date>/<drive> <frame> <l or r>, "
                "such as '2011_09_26/2011_09_26_drive_0057_sync 311 l'."
            )
        try:
            drive = open_drive(root / parts[1], CAMERAS[parts[3]])
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        if int(parts[2]) not in pictures(drive):
            raise InputError(
                f"{place}: {drive.folder} has no picture {parts[2]} of camera {drive.camera}; complete the drive, or "
                "take the line out."
            )
        found.append((drive, int(parts[2]), place))
    if not found:
        raise InputError(f"{file} names no frame; write lines <date>/<drive> <frame> <l or r>.")
    return found


def frame_name(drive: KittiDrive, frame: int) -> str:
    """A frame as a line of a split has it."""
    side = next(side for side, camera in CAMERAS.items() if camera == drive.camera)
    return f"{drive.folder.parent.name}/{drive.folder.name} {frame} {side}"


def make_frames(images: Tensor, K: Tensor, name: str, augment: Augment) -> Frames:
    """An item from images (1 + N, 3, H, W), changed or not: ``KittiSequences`` says how."""
    K = K.clone()
    if augment and torch.rand(()) < 0.5:
        images = images.flip(-1)
        K[0, 2] = images.shape[-1] - 1 - K[0, 2]
    change = augment is True and bool(torch.rand(()) < 0.5)
    return Frames(images, CHANGE(images) if change else images, K, name)


def check_offsets(offsets: Sequence[int]) -> tuple[int, ...]:
    """Offsets of sources from their target; raises InputError unless they are distinct integers, none of them 0."""
    whole = all(isinstance(o, int | np.integer) and not isinstance(o, bool) for o in offsets)
    if not whole or not len(offsets) or 0 in offsets or len(set(offsets)) < len(offsets):
        raise InputError(f"offsets is {offsets}; give distinct integers other than 0, at least one, such as (-1, 1).")
    return tuple(int(offset) for offset in offsets)


def _pictures(drive: KittiDrive) -> frozenset[int]:
    return frozenset(drive.frames)
