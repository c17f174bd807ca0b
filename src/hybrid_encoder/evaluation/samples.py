"""What is evaluated: the images of a test set with their ground truth, read on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One image of a test set, its ground truth, and what a predictor may look at besides the image.

    Args:
        name: as its split or its file names it, unique in the test set.
        index: place in the test set, from 0; saved predictions are in this order.
        read_image: returns RGB, uint8, (H, W, 3).
        read_truth: returns depth in metres, float32, (H', W'), 0 where unknown; its size is what is compared at.
        read_lookup: returns the frame before, RGB, uint8, (H, W, 3), or None where there is none; None where the test
            set is not made of videos.
        K: intrinsics of the image in pixels, (3, 3); None where unknown.
        drive: the recording that it belongs to, such as ``2011_09_26_drive_0001_sync``; empty where there is none.
        frame: number in the recording; None where there is none.
        file: of the image, for the report; None where there is none.
    """

    name: str
    index: int
    read_image: Callable[[], NDArray[np.uint8]]
    read_truth: Callable[[], NDArray[np.float32]]
    read_lookup: Callable[[], NDArray[np.uint8] | None] | None = None
    K: Tensor | None = None
    drive: str = ""
    frame: int | None = None
    file: Path | None = None
