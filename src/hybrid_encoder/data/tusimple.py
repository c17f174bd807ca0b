"""TuSimple lane labels as ordered patches: of two points on a lane, the lower one in the image is nearer.

TuSimple lane detection challenge, 2017. The layout is the one of its archives::

    <root>/label_data_*.json    one JSON object a line: raw_file, h_samples (rows from top to bottom),
                                lanes (a column for each row and lane, -2 where absent)
    <root>/<raw_file>           the images

The coarse stage of Hybrid-depth, ICCV 2025, learns from this order; its points go from far to near, here they go from
near to far.
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

from hybrid_encoder.data.opening import expanded, is_file, is_there, listed
from hybrid_encoder.data.ordered import OrderedPatches, check_group, resize_item
from hybrid_encoder.data.transforms import Size, check_size
from hybrid_encoder.errors import InputError

if TYPE_CHECKING:
    from hybrid_encoder.data.synthetic import RenderedDrive


class TuSimpleLanes(Dataset[OrderedPatches]):
    """Images with points along their lanes, from near to far; ``collate`` makes batches.

    Points are spread evenly over a lane's labelled rows, from the first to the last, rounded to whole rows. Labels
    outside of the image count as absent, on all sides. Lanes with fewer labelled rows than points are left out, so an
    image may have no lanes.

    Args:
        root: folder with the label files.
        size: (H, W) of the items; or the least that their shorter side may have, at the aspect of each image.
        points: P, number of points in a lane.
        flip: mirror half of the items, drawn by torch's own generator.
        labels: pattern of the label files' names.
        jitter: change the colours of all items, as :func:`hybrid_encoder.data.transforms.jitter_colours` does.

    Raises:
        InputError: an option out of its range, no label file, a line that is not a label, an image that does not
            exist; later, an image that cannot be read, or that most of its labels are outside of.
    """

    def __init__(
        self,
        root: str | Path,
        size: Size = (224, 224),
        points: int = 7,
        flip: bool = False,
        labels: str = "label_data_*.json",
        jitter: bool = False,
    ) -> None:
        check_size(size, shorter=True)
        check_group(points)
        self.root, self.size, self.flip = expanded(root), size, flip
        self.points, self.jitter = points, jitter
        # Image file, lanes (L, R) and rows (R,) in its pixels.
        self.items: list[tuple[Path, NDArray[np.float32], NDArray[np.float32]]] = []
        for file in self._label_files(labels):
            for number, line in enumerate(file.read_bytes().splitlines(), start=1):
                if line.strip():
                    self.items.append(self._parse(line, f"{file}, line {number}"))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> OrderedPatches:
        from hybrid_encoder.data.images import read_image

        file, lanes, rows = self.items[index]
        image = read_image(file)
        size = (image.shape[1], image.shape[2])
        labelled = lanes >= 0
        # A few points past the edges are absent, as on the left; most of them are so in an image that was made smaller.
        if 2 * (labelled & ~_inside(lanes, rows, size)).sum() > labelled.sum():
            x, y = lanes[labelled].max(), np.broadcast_to(rows, lanes.shape)[labelled].max()
            raise InputError(
                f"{file} is {size[0]} x {size[1]}, but its labels reach x = {x:g}, y = {y:g}; "
                "labels are in pixels of the original image: restore it."
            )
        points = lane_points(lanes, rows, self.points, size)
        flip = self.flip and bool(torch.rand(()) < 0.5)
        return resize_item(image, points, size, self.size, flip, str(file), self.jitter)

    def _label_files(self, pattern: str) -> list[Path]:
        if not is_there(self.root):
            raise InputError(f"{self.root} does not exist; give the folder with TuSimple's label files.")
        try:
            files = listed(self.root.glob(pattern))
        except (OSError, ValueError, IndexError, NotImplementedError) as error:
            raise InputError(f"{self.root} cannot be searched for {pattern!r} ({error}); check the path.") from None
        if not files:
            raise InputError(f"{self.root} holds no {pattern}; give the folder with TuSimple's label files.")
        return files

    def _parse(self, line: bytes, place: str) -> tuple[Path, NDArray[np.float32], NDArray[np.float32]]:
        """Read one line of a label file, which errors name as ``place``: the image's file, lanes, and rows."""
        try:
            label = json.loads(line)
            image = self.root / label["raw_file"]
            with np.errstate(over="ignore"):  # to infinity, which is outside of every image
                rows = np.asarray(label["h_samples"], np.float32)
                lanes = np.asarray(label["lanes"], np.float32).reshape(len(label["lanes"]), len(rows))
            if not (np.diff(rows) > 0).all():
                raise ValueError("h_samples do not ascend")
        except KeyError as error:
            raise InputError(f"{place}: {error} is missing; a label has raw_file, h_samples and lanes.") from None
        except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise InputError(
                f"{place}: not a label ({error}); a line is one JSON object with raw_file, ascending h_samples, "
                "and lanes with one column for each of them: correct the line or remove it."
            ) from None
        if not is_file(image):
            raise InputError(f"{place}: {image} does not exist; unpack the images beside the labels.")
        return image, lanes, rows


class SyntheticLanes(Dataset[OrderedPatches]):
    """Rendered frames with points along the lane lines of their street, spread as by ``TuSimpleLanes``.

    Args:
        drives: sequences of frames; a ``SyntheticDrive`` renders them on demand, a list holds them.
        points: P, number of points in a lane.
        flip: mirror half of the items, drawn by torch's own generator.
        jitter: as in ``TuSimpleLanes``.

    Raises:
        InputError: fewer than 2 points.
    """

    def __init__(
        self, drives: Sequence[RenderedDrive], points: int = 7, flip: bool = False, jitter: bool = False
    ) -> None:
        check_group(points)
        self.drives, self.points, self.flip, self.jitter = drives, points, flip, jitter
        self.items = [(drive, frame) for drive in range(len(drives)) for frame in range(len(drives[drive]))]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> OrderedPatches:
        drive, number = self.items[index]
        frame = self.drives[drive][number]
        size = (frame.image.shape[1], frame.image.shape[2])
        points = lane_points(frame.lanes, frame.h_samples, self.points, size)
        flip = self.flip and bool(torch.rand(()) < 0.5)
        name = f"drive {drive}, frame {number}"
        return resize_item(torch.from_numpy(frame.image), points, size, size, flip, name, self.jitter)


def lane_points(lanes: NDArray[Any], rows: NDArray[Any], num_points: int, size: tuple[int, int]) -> Tensor:
    """Spread points evenly along lanes, from near to far.

    Args:
        lanes: a column for each lane and row, outside of the image where absent, (L, R).
        rows: labelled rows from top to bottom, (R,).
        num_points: P, number of points in a lane; a lane with fewer labelled rows is left out.
        size: (H, W) of the image.

    Returns:
        (x, y) in pixels, float32, (L', P, 2).
    """
    steps = np.arange(num_points)
    chosen = [
        np.stack([lane[seen], rows[seen]], -1)[::-1][steps * (len(seen) - 1) // (num_points - 1)]
        for lane, inside in zip(lanes, _inside(lanes, rows, size), strict=True)
        if len(seen := np.flatnonzero(inside)) >= num_points
    ]
    return torch.from_numpy(np.array(chosen, np.float32).reshape(-1, num_points, 2))


def _inside(lanes: NDArray[Any], rows: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Say which points of lanes, (L, R), are in the image: by pixel centres, from 0 up to the last one on each side."""
    height, width = size
    inside: NDArray[np.bool_] = (lanes >= 0) & (lanes <= width - 1) & (rows >= 0) & (rows <= height - 1)
    return inside
