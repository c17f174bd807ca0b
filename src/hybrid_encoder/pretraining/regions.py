"""Rendered frames with sentences about their parts: what is where, of which colour, and how far away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from hybrid_encoder.data.street.captions import SIDES, describe, distance_word, patch_caption, region_captions
from hybrid_encoder.data.street.frame import StreetFrame
from hybrid_encoder.errors import InputError

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, the ends excluded
LEAST_PIXELS = 40  # of an object that is told
PATCHES = (16, 32)  # sides of patches in pixels


class CaptionedFrame(NamedTuple):
    """A frame, and regions with a caption each: ``boxes``, seen in the whole frame, then ``crops``, seen alone."""

    image: Tensor  # (3, H, W), RGB in [0, 1]
    boxes: Tensor  # (R, 4), left, top, right, bottom in pixels
    crops: Tensor  # (C, 3, S, S), RGB in [0, 1]
    captions: tuple[str, ...]  # R and then C
    name: str = ""


class CaptionBatch(NamedTuple):
    """Frames with all of their regions, and the different captions of these."""

    images: Tensor  # (B, 3, H, W)
    boxes: Tensor  # (sum of R, 5), the number of the frame and then the box, as RoIAlign takes them
    crops: Tensor  # (sum of C, 3, S, S)
    captions: tuple[str, ...]  # M different ones
    which: Tensor  # (sum of R + sum of C,), int64, the boxes' captions and then the crops'
    names: tuple[str, ...] = ()


class CaptionedRegions(Dataset[CaptionedFrame]):
    """Frames of streets with regions, drawn anew at every read from torch's own generator.

    Half of the regions are objects, half patches. Among a frame's objects, every distance word that occurs is as likely
    as any other, and a patch is that of four whose caption is the rarest: near things are rare.

    Args:
        drives: frames, as ``render_streets`` returns them.
        regions: how many boxes of a frame.
        crops: how many regions are cut out and seen alone.
        crop_size: S, side of these in pixels.
        seed: return the same regions whenever a frame is read.

    Raises:
        InputError: no frames, or a number below 1.
    """

    rendered = True  # no recording that depth is tested on

    def __init__(
        self,
        drives: Sequence[Sequence[StreetFrame]],
        regions: int = 12,
        crops: int = 3,
        crop_size: int = 64,
        seed: int | None = None,
    ) -> None:
        self.frames = [frame for drive in drives for frame in drive]
        if not self.frames:
            raise InputError("there are no frames; give at least one drive.")
        for name, value in (("regions", regions), ("crops", crops), ("crop_size", crop_size)):
            if value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1.")
        self.regions, self.crops, self.crop_size, self.seed = regions, crops, crop_size, seed
        self._known = [_objects_by_word(frame) for frame in self.frames]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> CaptionedFrame:
        frame, image = self.frames[index], torch.from_numpy(self.frames[index].image)
        generator = None if self.seed is None else torch.Generator().manual_seed(self.seed + index)
        drawn = [self._draw(index, generator) for _ in range(self.regions)]
        cut: list[Tensor] = []
        told: list[str] = []
        for _ in range(self.crops):
            box, _ = self._draw(index, generator)
            box = _widened(box, frame.depth.shape[-1], frame.depth.shape[-2])
            captions = region_captions(frame, box, where=False)
            told.append(captions[_choice(len(captions), generator)])
            part = image[None, :, box[1] : box[3], box[0] : box[2]]
            size = (self.crop_size, self.crop_size)
            cut.append(F.interpolate(part, size, mode="bilinear", antialias=True, align_corners=False)[0].clamp(0, 1))
        boxes = torch.tensor([box for box, _ in drawn], dtype=torch.float32)
        captions = (*(caption for _, caption in drawn), *told)
        return CaptionedFrame(image, boxes, torch.stack(cut), captions, f"frame {index}")

    def _draw(self, index: int, generator: torch.Generator | None) -> tuple[Box, str]:
        """Return a region and what it shows."""
        frame, words = self.frames[index], self._known[index]
        if words and _choice(2, generator):
            several = list(words.values())[_choice(len(words), generator)]
            return several[_choice(len(several), generator)]
        side = PATCHES[_choice(len(PATCHES), generator)]
        height, width = frame.depth.shape[-2:]
        boxes = [_patch(side, height, width, generator) for _ in range(4)]
        captions = [patch_caption(frame, box) for box in boxes]
        # The rarest of a few: most of a street is far away.
        rarest = min(range(len(boxes)), key=lambda k: captions.count(captions[k]))
        box, caption = boxes[rarest], captions[rarest]
        return (box, caption) if _choice(2, generator) else (box, region_captions(frame, box)[0])


def collate_captions(items: Sequence[CaptionedFrame]) -> CaptionBatch:
    """Join items into one batch, for ``DataLoader(..., collate_fn=collate_captions)``."""
    boxes = [F.pad(item.boxes, (1, 0), value=float(number)) for number, item in enumerate(items)]
    told = [item.captions[: len(item.boxes)] for item in items] + [item.captions[len(item.boxes) :] for item in items]
    captions = [caption for several in told for caption in several]
    different = tuple(dict.fromkeys(captions))
    places = {caption: place for place, caption in enumerate(different)}
    return CaptionBatch(
        torch.stack([item.image for item in items]),
        torch.cat(boxes),
        torch.cat([item.crops for item in items]),
        different,
        torch.tensor([places[caption] for caption in captions]),
        tuple(item.name for item in items),
    )


def shuffled_captions(batch: CaptionBatch, generator: torch.Generator | None = None) -> CaptionBatch:
    """Return a batch whose captions are permuted among its regions: the control.

    How frequent each caption is can still be learned, as every region is as likely to have it; what it says of a region
    cannot.
    """
    return batch._replace(which=batch.which[torch.randperm(len(batch.which), generator=generator)])


def _objects_by_word(frame: StreetFrame) -> dict[str, list[tuple[Box, str]]]:
    found: dict[str, list[tuple[Box, str]]] = {}
    for obj in frame.objects:
        if obj.pixels >= LEAST_PIXELS:
            word = distance_word(obj.distance)
            left, top, right, bottom = (int(edge) for edge in obj.box)
            found.setdefault(word, []).append(((left, top, right, bottom), f"{describe(obj)} {word} {SIDES[obj.side]}"))
    return found


def _patch(side: int, height: int, width: int, generator: torch.Generator | None) -> Box:
    side = min(side, height, width)
    left, top = _choice(width - side + 1, generator), _choice(height - side + 1, generator)
    return left, top, left + side, top + side


def _widened(box: Box, width: int, height: int) -> Box:
    """Return a box with a margin, a fifth of its longer side at least on each side, inside the frame."""
    middle, centre = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half = 0.7 * max(box[2] - box[0], box[3] - box[1], 8)
    return (
        max(int(middle - half), 0),
        max(int(centre - half), 0),
        min(int(middle + half) + 1, width),
        min(int(centre + half) + 1, height),
    )


def _choice(count: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(count, (), generator=generator))
