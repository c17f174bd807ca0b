"""How images of a data set are resized, and how their colours are changed at random."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import ColorJitter

from hybrid_encoder.config import MIN_SIZE
from hybrid_encoder.errors import InputError

Size = tuple[int, int] | int
Resample = Literal["bilinear", "lanczos"]
Jitter = Literal["per_item", "per_frame"]

PATCH = 14  # pixels; sizes that keep the aspect are multiples of it, as DINOv2's grid needs
# Draws once for all images of a call.
COLOUR_JITTER = ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1)


def item_size(size: Size, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return the (H, W) that an image is resized to.

    Args:
        size: (H, W); or the least that the shorter side may have. Then the image keeps its aspect, up to rounding: both
            sides become the nearest multiples of 14, and none is less than that.
        image_size: (H, W) of the image.

    Example:
        >>> item_size(224, (720, 1280))
        (224, 392)
    """
    if not isinstance(size, int):
        return size
    scale = size / min(image_size)
    sides = []
    for side in image_size:
        nearest = PATCH * round(side * scale / PATCH)
        sides.append(nearest if nearest >= size else PATCH * -(-size // PATCH))
    return sides[0], sides[1]


def resize_images(images: Tensor, size: tuple[int, int], resample: Resample = "bilinear") -> Tensor:
    """Resize RGB in [0, 1], (N, 3, h, w), to (N, 3, H, W).

    Args:
        images: of 8 bits where ``resample`` is ``"lanczos"``; more are rounded away.
        size: (H, W).
        resample: ``"bilinear"`` with antialias, or ``"lanczos"``, which is Pillow's, on bytes as it does it.
    """
    if resample == "lanczos":
        return torch.stack([_lanczos(image, size) for image in images])
    resized = F.interpolate(images.float(), size, mode="bilinear", align_corners=False, antialias=True)
    return resized.clamp(0, 1)


def _lanczos(image: Tensor, size: tuple[int, int]) -> Tensor:
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    resized = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float().div_(255)


def jitter_colours(images: Tensor, jitter: Jitter = "per_item") -> Tensor:
    """Change the colours of images (N, 3, H, W) in [0, 1] at random, by torch's own generator.

    Brightness, contrast and saturation are multiplied by 0.8 to 1.2, and hue is turned by up to 0.1 of the circle.

    Args:
        images: the frames of one item.
        jitter: ``"per_item"`` changes all of them alike; ``"per_frame"`` draws anew for each.
    """
    if jitter == "per_frame":
        return torch.stack([COLOUR_JITTER(image) for image in images])
    changed: Tensor = COLOUR_JITTER(images)
    return changed


def check_size(size: Size, shorter: bool = False) -> None:
    """Raise InputError unless a model takes images of this size.

    Args:
        size: (H, W).
        shorter: the shorter side alone may stand for it.
    """
    if shorter and isinstance(size, int):
        if size < MIN_SIZE:
            raise InputError(f"size is {size}; the shorter side must have at least {MIN_SIZE} pixels: raise it.")
    elif isinstance(size, int) or len(size) != 2 or min(size) < MIN_SIZE:
        raise InputError(f"size is {size}; it must be (H, W) with at least {MIN_SIZE} pixels each: raise it.")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise InputError unless a value is one of the choices."""
    if value not in choices:
        raise InputError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}.")
