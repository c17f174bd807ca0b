"""How far an image seems to have moved from one frame to another, told from small grey copies."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from hybrid_encoder.data.sources.base import Array
from hybrid_encoder.data.transforms import resize_images

THUMBNAIL = (48, 128)  # whatever the aspect: averaged over so many pixels, the noise of a sensor is small
TILES = (6, 16)  # rows and columns


def thumbnail(image: Array) -> Array:
    """Return a small grey copy of RGB in [0, 1], (3, H, W): 0 to 255, float16, (48, 128)."""
    grey = torch.as_tensor(image).float().mean(0, keepdim=True)
    small: Array = (resize_images(grey[None], THUMBNAIL)[0, 0] * 255).half().numpy()
    return small


class Thumbnail:
    """A small grey copy of a frame, to be compared with others.

    Args:
        grey: as :func:`thumbnail` returns it.
    """

    def __init__(self, grey: Array) -> None:
        self.grey = grey.astype(np.float32)

    @cached_property
    def gradients(self) -> Array:
        """Mean absolute difference between pixels beside each other, in every tile."""
        down, right = np.gradient(self.grey)
        return _tiles((np.abs(down) + np.abs(right)) / 2)

    def motion_to(self, other: Thumbnail) -> float:
        """Return how far the image seems to have moved, in pixels of the thumbnails (1/128 of the width).

        What is compared are tiles, 6 x 16 of them: the mean absolute difference of the two images in a tile, over the
        mean gradient there, is about the length of its shift, up to some pixels. The median over tiles with texture
        counts, those whose gradient is at least half of the mean of all: a car that passes by a standing camera moves
        a smaller part. The other image is brought to the same contrast first, and the median difference taken away,
        so that another exposure is no motion.
        """
        textured = self.gradients >= self.gradients.mean() / 2
        own, others = self.gradients[textured], other.gradients[textured]
        if not own.min() > 0:  # without any texture
            return 0.0
        contrast = float(np.median(others / own))
        difference = self.grey - other.grey / contrast if contrast > 0 else self.grey
        shifts = _tiles(np.abs(difference - np.median(difference)))[textured] / own
        return float(np.median(shifts))


def _tiles(values: Array) -> Array:
    rows, columns = TILES
    height, width = THUMBNAIL
    tiles: Array = values.reshape(rows, height // rows, columns, width // columns).mean((1, 3))
    return tiles
