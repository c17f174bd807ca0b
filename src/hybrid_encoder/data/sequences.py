"""Recordings as data sets of frames with their neighbours in time."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hybrid_encoder.data.frames import Augment, Frames, check_offsets, make_frames, resized
from hybrid_encoder.data.kitti import KittiDrive
from hybrid_encoder.data.kitti_splits import find_drives, frames_of, read_split
from hybrid_encoder.data.sources.base import Array, FrameSource
from hybrid_encoder.data.sources.kitti_raw import KittiSource
from hybrid_encoder.data.sources.rendered import RenderedSource
from hybrid_encoder.data.synthetic.drive import RenderedDrive
from hybrid_encoder.data.transforms import Jitter, Resample, check_choice, check_size
from hybrid_encoder.errors import InputError
from hybrid_encoder.geometry.camera import resized_intrinsics


class Item(NamedTuple):
    """Which frames make an item."""

    source: int  # position in the list of sources
    frame: int  # the target
    neighbours: tuple[int, ...]  # in the order of the offsets


class SourceSequences(Dataset[Frames]):
    """Frames of recordings with their neighbours, resized to one size.

    Args:
        sources: recordings; those that share a camera have its number in ``Frames.camera``.
        size: (H, W) of the items; None keeps that of the sources, which must then be the same for all.
        offsets: of the neighbours from the target, in frames; not 0. May be empty with ``stereo``.
        items: which frames are used; by default all that have all their neighbours, source by source.
        stereo: append the right view to the images of every item.
        augment: change items at random, as :func:`hybrid_encoder.data.frames.make_frames` says.
        jitter: whose colours change alike, ``"per_item"`` or ``"per_frame"``, as there.
        resample: ``"bilinear"`` with antialias, or ``"lanczos"``, as Monodepth2 and Hybrid-depth resize.

    Attributes:
        cameras: what each number in ``Frames.camera`` stands for.

    Raises:
        InputError: an option out of its range, a source without intrinsics or without the right view that is asked
            for, or no frame with all its neighbours.
    """

    def __init__(
        self,
        sources: Sequence[FrameSource],
        size: tuple[int, int] | None = (192, 640),
        offsets: Sequence[int] = (-1, 1),
        items: Sequence[Item] | None = None,
        *,
        stereo: bool = False,
        augment: Augment = False,
        jitter: Jitter = "per_item",
        resample: Resample = "bilinear",
    ) -> None:
        if size is not None:
            check_size(size)
        check_choice("jitter", jitter, ("per_item", "per_frame"))
        check_choice("resample", resample, ("bilinear", "lanczos"))
        self.sources, self.offsets = list(sources), () if stereo and not offsets else check_offsets(offsets)
        self.stereo, self.augment, self.jitter, self.resample = stereo, augment, jitter, resample
        self.items = list(items) if items is not None else list(self._complete_items())
        if not self.items:
            lengths = [len(source.frames) for source in self.sources]
            raise InputError(
                f"the recordings ({', '.join(source.name for source in self.sources[:3])}) are {lengths} frames long, "
                f"and none has a frame with neighbours at {self.offsets}; give longer ones, or other offsets."
            )
        self.size = size or self.sources[0].size
        self.cameras = list(dict.fromkeys(source.camera or source.name for source in self.sources))
        self._K = [self._intrinsics(source) for source in self.sources]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Frames:
        item = self.items[index]
        source = self.sources[item.source]
        images = [source.image(frame) for frame in (item.frame, *item.neighbours)]
        if self.stereo:
            images.append(source.right(item.frame))
        return make_frames(
            torch.cat([resized(image, self.size, self.resample) for image in images]),
            self._K[item.source],
            source.frame_name(item.frame),
            self.augment,
            self.jitter,
            self.cameras.index(source.camera or source.name),
            float(source.baseline or 0) if self.stereo else 0.0,
        )

    def depth(self, index: int) -> Array | None:
        """Return the depth of an item's target, as :meth:`FrameSource.depth`; it is not mirrored."""
        item = self.items[index]
        return self.sources[item.source].depth(item.frame)

    def split(self, fraction: float, whole: bool = False) -> tuple[SourceSequences, SourceSequences]:
        """Hold out the end of every recording; those that show the same moments, as two cameras do, are cut at one.

        No frame is in both parts, neighbours included: what has frames on both sides of the cut is in neither. The end
        of a recording is at least as long as one item; where nothing would be left before it, all of it is trained on.

        Args:
            fraction: of the frames of every recording that is held out, between 0 and 1.
            whole: hold out whole recordings instead, the last ones: that fraction of them, but one at least.

        Returns:
            What is trained on, and what is held out, which is not augmented.

        Raises:
            InputError: a fraction out of its range, or recordings that are all too short.
        """
        if not 0 < fraction < 1:
            raise InputError(f"fraction is {fraction}; it must be between 0 and 1, such as 0.1.")
        by_source: dict[int, list[Item]] = {}
        for item in self.items:
            by_source.setdefault(item.source, []).append(item)
        training, held_out = set[Item](), set[Item]()
        groups = self._of_one_time(list(by_source))
        if whole:
            kept = max(0, len(groups) - max(1, round(fraction * len(groups))))
            for position, together in enumerate(groups):
                part = training if position < kept else held_out
                part.update(item for number in together for item in by_source[number])
            if not training:
                raise InputError(
                    f"{fraction:g} of {len(groups)} recordings leaves none to train on; give more of them, or validate "
                    "on others."
                )
            return self._with(training, self.augment), self._with(held_out, False)
        for together in groups:
            spans: dict[Item, tuple[int, int]] = {}  # the first and the last moment of an item
            cuts = []
            for number in together:
                frames = self.sources[number].frames
                for item in by_source[number]:
                    used = (item.frame, *item.neighbours)
                    spans[item] = self._moment(number, min(used))[1], self._moment(number, max(used))[1]
                end = self._moment(number, frames[-max(1, round(fraction * len(frames)))])[1]
                cuts.append(min(end, max(spans[item][0] for item in by_source[number])))
            before = {item for item, (_, last) in spans.items() if last < min(cuts)}
            training.update(before or spans)
            held_out.update(item for item, (first, _) in spans.items() if before and first >= min(cuts))
        if not held_out:
            raise InputError(
                f"no recording is long enough to hold out {fraction:g} of it; give longer ones, or validate on others."
            )
        return self._with(training, self.augment), self._with(held_out, False)

    def _moment(self, number: int, frame: int) -> tuple[str, int]:
        """Return what a frame of a source has in common with the frames of others that show the same moment."""
        recorded = self.sources[number].recorded(frame)
        return recorded[:2] if recorded else (str(number), frame)

    def _of_one_time(self, numbers: Sequence[int]) -> list[list[int]]:
        """Group sources by the moments that they show."""
        group_of, first_of = {number: [number] for number in numbers}, dict[tuple[str, int], int]()
        for number in numbers:
            for frame in self.sources[number].frames:
                group = group_of[first_of.setdefault(self._moment(number, frame), number)]
                if (own := group_of[number]) is not group:
                    group += own
                    group_of |= dict.fromkeys(own, group)
        return list({id(group): group for group in group_of.values()}.values())

    def _with(self, chosen: set[Item], augment: Augment) -> SourceSequences:
        part = copy.copy(self)
        part.items, part.augment = [item for item in self.items if item in chosen], augment
        return part

    def _complete_items(self) -> Iterator[Item]:
        for number, source in enumerate(self.sources):
            there = frozenset(source.frames)
            for frame in source.frames:
                neighbours = tuple(frame + offset for offset in self.offsets)
                if there.issuperset(neighbours):
                    yield Item(number, frame, neighbours)

    def _intrinsics(self, source: FrameSource) -> Tensor:
        if source.K is None:
            raise InputError(f"{source.name} has no intrinsics; give --intrinsics fx,fy,cx,cy or learn, or --fov.")
        if self.stereo and not source.baseline:
            raise InputError(f"{source.name} has no right view; leave stereo out, or give recordings of two cameras.")
        return resized_intrinsics(torch.as_tensor(source.K).float(), source.size, self.size)


class KittiSequences(SourceSequences):
    """Frames of KITTI raw with their neighbours, resized.

    Items are in the order of the split or, without one, by drive, then camera as given, then frame.

    Args:
        root: of KITTI raw, the folder with the dates; without a split, also the folder of one drive.
        size: (H, W) of the items.
        offsets: of the neighbours from the target, in frames; not 0.
        split: a text file with one frame a line, ``<date>/<drive> <frame> <l or r>``, as Monodepth2's splits. By
            default every frame that has all its neighbours is an item.
        cameras: 2 (left), 3 (right) or both; frames of other cameras are left out, also of a split.
        augment, jitter, resample, stereo: of :class:`SourceSequences`.

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
        stereo: bool = False,
    ) -> None:
        check_size(size)
        offsets = () if stereo and not offsets else check_offsets(offsets)
        if sorted(cameras) not in ([2], [3], [2, 3]):
            raise InputError(f"cameras is {cameras}; give 2 (left), 3 (right) or both, each once.")
        found = list(_kitti_frames(root, offsets, split, cameras))
        if not found:
            raise InputError(
                f"{root if split is None else split} has no frame of cameras {tuple(cameras)} with neighbours at "
                f"{offsets}; give longer drives, or other offsets or cameras."
            )
        drives = {drive: number for number, drive in enumerate(dict.fromkeys(drive for drive, _ in found))}
        items = [Item(drives[drive], frame, tuple(frame + o for o in offsets)) for drive, frame in found]
        sources = [KittiSource(drive) for drive in drives]
        super().__init__(
            sources, size, offsets, items, stereo=stereo, augment=augment, jitter=jitter, resample=resample
        )


class SyntheticSequences(SourceSequences):
    """Rendered frames with their neighbours, at their own size: one item for every frame that has all of them.

    Args:
        drives: sequences of frames; a ``SyntheticDrive`` renders them on demand, a list holds them.
        offsets: of the neighbours from the target, in frames; not 0.
        augment, jitter, stereo: of :class:`SourceSequences`; drives rendered with a baseline have a right view.

    Raises:
        InputError: offsets out of their range, or no frame with all its neighbours.
    """

    def __init__(
        self,
        drives: Sequence[RenderedDrive],
        offsets: Sequence[int] = (-1, 1),
        augment: Augment = False,
        jitter: Jitter = "per_item",
        stereo: bool = False,
    ) -> None:
        sources = [RenderedSource(drive, f"drive {number}") for number, drive in enumerate(drives) if len(drive)]
        super().__init__(sources, None, offsets, stereo=stereo, augment=augment, jitter=jitter)


def _kitti_frames(
    root: str | Path, offsets: Sequence[int], split: str | Path | None, cameras: Sequence[int]
) -> Iterator[tuple[KittiDrive, int]]:
    """Give the frames of KITTI raw that have all their neighbours; those of a split must have them."""
    frames = cache(frames_of)
    if split is None:
        for drive in (KittiDrive(folder, camera) for folder in find_drives(root) for camera in cameras):
            there = frames(drive)
            yield from ((drive, f) for f in sorted(there) if there.issuperset(f + offset for offset in offsets))
        return
    for drive, frame, place in read_split(root, split):
        if drive.camera not in cameras:
            continue
        for neighbour in (frame + offset for offset in offsets):
            if neighbour not in frames(drive):
                raise InputError(
                    f"{place}: frame {frame} has no neighbour {neighbour} in {drive.folder}, camera "
                    f"{drive.camera}; complete the drive, or remove the line."
                )
        yield drive, frame
