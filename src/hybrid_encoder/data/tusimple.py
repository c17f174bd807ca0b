"""TuSimple lane labels as ordered patches: along a lane on the road, lower in the picture is nearer.

TuSimple lane detection challenge, 2017. The layout is the one that it ships::

    <root>/label_data_*.json    one JSON object a line: raw_file, h_samples (rows from top to bottom),
                                lanes (a column for each row and lane, -2 where absent)
    <root>/<raw_file>           the pictures

Reading an order off lanes is the coarse stage of Hybrid-depth, ICCV 2025; there it is far to near, here near to far.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from hybrid_encoder.data.ordered import OrderedPatches, check_group, check_size, fit
from hybrid_encoder.errors import InputError

if TYPE_CHECKING:
    from hybrid_encoder.data.synthetic import RenderedDrive


class TuSimpleLanes(Dataset[OrderedPatches]):
    """Pictures with points along their lanes, from near to far; batches are made by ``collate``.

    Points stand at equal steps of a lane's labelled rows, as whole rows allow, the first and the last included. Lanes
    with fewer labelled rows than points are left out; a picture may have none.

    Args:
        root: folder with the label files.
        size: (H, W) of the items.
        points: P, in a lane.
        flip: mirror half of the items, drawn by torch's own generator.
        labels: pattern of the label files' names.

    Raises:
        InputError: an option out of its range, no label file, a line that is no label, a picture that is missing;
            later, a picture that cannot be read or is smaller than its labels.
    """

    def __init__(
        self,
        root: str | Path,
        size: tuple[int, int] = (224, 224),
        points: int = 7,
        flip: bool = False,
        labels: str = "label_data_*.json",
    ) -> None:
        check_size(size)
        check_group(points)
        self.root, self.size, self.flip = Path(root).expanduser(), size, flip
        self.items: list[tuple[Path, Tensor]] = []  # picture, points (L, P, 2) in its pixels
        files = sorted(self.root.glob(labels))
        if not files:
            raise InputError(f"{self.root} holds no {labels}; give the folder with TuSimple's label files.")
        for file in files:
            for number, line in enumerate(file.read_bytes().splitlines(), start=1):
                if line.strip():
                    self.items.append(self._parse(line, points, f"{file}, line {number}"))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> OrderedPatches:
        from hybrid_encoder.data.images import read_image

        picture, points = self.items[index]
        image = read_image(picture)
        height, width = image.shape[-2:]
        if (points >= points.new_tensor([width, height])).any():
            x, y = points.flatten(0, 1).amax(0).tolist()
            raise InputError(
                f"{picture} is {height} x {width}, but its labels reach x = {x:g}, y = {y:g}; "
                "labels are in pixels of the original picture: restore it."
            )
        flip = self.flip and bool(torch.rand(()) < 0.5)
        return fit(image, points, (height, width), self.size, flip, str(picture))

    def _parse(self, line: bytes, count: int, place: str) -> tuple[Path, Tensor]:
        try:
            label = json.loads(line)
            picture = self.root / label["raw_file"]
            rows = np.asarray(label["h_samples"], np.float32)
            lanes = np.asarray(label["lanes"], np.float32).reshape(len(label["lanes"]), len(rows))
            if not (np.diff(rows) > 0).all():
                raise ValueError("h_samples do not rise")
        except KeyError as error:
            raise InputError(f"{place}: {error} is missing; a label has raw_file, h_samples and lanes.") from None
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{place}: no label ({error}); a line is one JSON object with raw_file, rising h_samples, "
                "and lanes of as many columns: mend the line or take it out."
            ) from None
        if not picture.is_file():
            raise InputError(f"{place}: {picture} does not exist; unpack the pictures beside the labels.")
        return picture, lane_points(lanes, rows, count)


class SyntheticLanes(Dataset[OrderedPatches]):
    """Rendered frames with points along the lane lines of their street, as ``TuSimpleLanes`` has them.

    Args:
        drives: sequences of frames; a ``SyntheticDrive`` renders them on demand, a list holds them.
        points: P, in a lane.
        flip: mirror half of the items, drawn by torch's own generator.

    Raises:
        InputError: fewer than 2 points.
    """

    def __init__(self, drives: Sequence[RenderedDrive], points: int = 7, flip: bool = False) -> None:
        check_group(points)
        self.drives, self.points, self.flip = drives, points, flip
        self.items = [(drive, frame) for drive in range(len(drives)) for frame in range(len(drives[drive]))]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> OrderedPatches:
        drive, number = self.items[index]
        frame = self.drives[drive][number]
        size = (frame.image.shape[1], frame.image.shape[2])
        points = lane_points(frame.lanes, frame.h_samples, self.points)
        flip = self.flip and bool(torch.rand(()) < 0.5)
        return fit(torch.from_numpy(frame.image), points, size, size, flip, f"drive {drive}, frame {number}")


def lane_points(lanes: NDArray[Any], rows: NDArray[Any], count: int) -> Tensor:
    """Points at equal steps along lanes, from near to far.

    Args:
        lanes: a column for each lane and row, negative where absent, (L, R).
        rows: from top to bottom, (R,).
        count: P, points in a lane; a lane with fewer labelled rows is left out.

    Returns:
        (x, y) in pixels, float32, (L', P, 2).
    """
    steps = np.arange(count)
    chosen = [
        np.stack([lane[seen], rows[seen]], -1)[::-1][steps * (len(seen) - 1) // (count - 1)]
        for lane in lanes
        if len(seen := np.flatnonzero(lane >= 0)) >= count
    ]
    return torch.from_numpy(np.array(chosen, np.float32).reshape(-1, count, 2))
