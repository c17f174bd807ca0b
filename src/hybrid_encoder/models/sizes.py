"""The size that a model works at: what it was fitted at, or as many pixels at another aspect."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from hybrid_encoder.config import MIN_SIZE
from hybrid_encoder.config.checking import shown
from hybrid_encoder.errors import InputError
from hybrid_encoder.models.base import check_working_size

Size: TypeAlias = tuple[int, int]
WorkingSize: TypeAlias = "Size | Literal['native'] | None"

NEAR = 1.25  # ratio of two aspects up to which a picture is stretched to the fitted size
UNKNOWN_PIXELS = 192 * 640  # of the published method, where the weights do not say what they were fitted at


def working_size(asked: WorkingSize, image_size: Size, fitted: Size | None, patch: int) -> Size:
    """Return the height and the width to work at.

    Args:
        asked: None for the right size, ``"native"`` for the image's own, or (H, W).
        image_size: (H, W) of the image.
        fitted: (H, W) that the weights were fitted at, None where they do not say.
        patch: pixels per grid cell of the encoder.

    Raises:
        InputError: something else is asked for; or ``"native"`` of an image that is too large.
    """
    if asked is None:
        return right_size(image_size, fitted, patch)
    if isinstance(asked, str):
        if asked != "native":
            raise InputError(f"size is {shown(asked)}; it must be 'native', (H, W), or None for the right one.")
        asked = image_size
    check_working_size(asked)
    return asked[0], asked[1]


def right_size(image_size: Size, fitted: Size | None, patch: int) -> Size:
    """Return the size at which weights see a picture as they saw those that they were fitted on.

    It is the fitted size where the two aspects are within 25 % of each other, else as many pixels at the picture's own
    aspect, in whole patches. Where weights do not say their size, it is the picture's own, or 122,880 pixels at its
    aspect where it has more.

    Example:
        >>> right_size((375, 1242), (192, 640), 14), right_size((3000, 4000), (192, 640), 14)
        ((192, 640), (308, 406))
    """
    height, width = image_size
    if fitted is None:
        if height * width <= UNKNOWN_PIXELS:
            return height, width
        pixels = UNKNOWN_PIXELS
    else:
        ratio = (width * fitted[0]) / (height * fitted[1])
        if max(ratio, 1 / ratio) <= NEAR:
            return fitted[0], fitted[1]
        pixels = fitted[0] * fitted[1]
    scale = math.sqrt(pixels / (height * width))
    rows, columns = round(height * scale / patch), round(width * scale / patch)
    fewest = -(-MIN_SIZE // patch)
    if min(rows, columns) < fewest:  # a panorama, which gives up some of its aspect
        most = max(fewest, round(pixels / patch**2 / fewest))
        rows, columns = (min(max(side, fewest), most) for side in (rows, columns))
    return rows * patch, columns * patch
