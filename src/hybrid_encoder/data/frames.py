"""A frame with its neighbours in time: an item of the data that depth and motion are learned from without labels.

Pixel centres are at integers, so that resizing by s takes x to (x + 0.5) s - 0.5. ``K`` is in pixels of the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybrid_encoder.data.transforms import Jitter, Resample, jitter_colours, resize_images
from hybrid_encoder.errors import InputError

Augment = bool | Literal["flip"]


class Frames(NamedTuple):
    """A frame (the target) with its neighbours (the sources); torch's default collate makes batches."""

    images: Tensor  # (1 + N, 3, H, W), RGB in [0, 1]: the target, its N neighbours in time, then the right view, if any
    augmented: Tensor  # the same with changed colours, for networks; losses take `images`
    K: Tensor  # (3, 3), intrinsics in pixels of these images
    name: str  # says in error messages which frame it is; a tuple in a batch
    camera: int = 0  # which camera of the data set has taken it: those with the same number have the same intrinsics
    mirrored: bool = False  # whether images and K are mirrored
    baseline: float = 0.0  # metres along x from the target's camera to that of the right view; 0 where there is none


def make_frames(
    images: Tensor,
    K: Tensor,
    name: str,
    augment: Augment,
    jitter: Jitter = "per_item",
    camera: int = 0,
    baseline: float = 0.0,
) -> Frames:
    """Make an item from images (1 + N, 3, H, W), augmented at random by torch's own generator.

    With probability 1/2 each, images, ``K`` and baseline are mirrored, and the colours of ``augmented`` are changed:
    brightness, contrast and saturation times 0.8 to 1.2, hue turned by up to 0.1 of the circle.

    Args:
        images, K, name, camera, baseline: of :class:`Frames`, as they were recorded.
        augment: ``"flip"`` mirrors only.
        jitter: whose colours change alike: ``"per_item"`` draws once for a frame and its neighbours, as Monodepth2
            does; ``"per_frame"`` for each of them, as the published Hybrid-depth does.
    """
    K = K.clone()
    mirrored = bool(augment) and bool(torch.rand(()) < 0.5)
    if mirrored:
        images = images.flip(-1)
        K[0, 2] = images.shape[-1] - 1 - K[0, 2]
        baseline = -baseline
    changes = augment is True and bool(torch.rand(()) < 0.5)
    augmented = jitter_colours(images, jitter) if changes else images
    return Frames(images, augmented, K, name, camera, mirrored, baseline)


def resized(image: NDArray[Any], size: tuple[int, int], resample: Resample) -> Tensor:
    """Return an image (3, h, w) at the size of the items of a data set, (1, 3, H, W), as a copy.

    Args:
        image: RGB in [0, 1]; one of that size already is left as it is.
        size: (H, W).
        resample: see :func:`hybrid_encoder.data.transforms.resize_images`.
    """
    images = torch.tensor(image)[None]
    return images if (images.shape[-2], images.shape[-1]) == size else resize_images(images, size, resample)


def check_offsets(offsets: Sequence[int]) -> tuple[int, ...]:
    """Return offsets of sources from their target as a tuple.

    Raises:
        InputError: no offset, or offsets that are not distinct integers other than 0.
    """
    integers = all(isinstance(o, int | np.integer) and not isinstance(o, bool) for o in offsets)
    if not integers or not len(offsets) or 0 in offsets or len(set(offsets)) < len(offsets):
        raise InputError(f"offsets is {offsets}; give distinct integers other than 0, at least one, such as (-1, 1).")
    return tuple(int(offset) for offset in offsets)
