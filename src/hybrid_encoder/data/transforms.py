"""How images of a data set are resized, and how their colours are changed at random."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import ColorJitter
from torchvision.transforms.v2.functional import adjust_brightness, adjust_contrast, adjust_saturation

from hybrid_encoder.config import MIN_SIZE
from hybrid_encoder.errors import InputError

Size = tuple[int, int] | int
Resample = Literal["bilinear", "lanczos"]
Jitter = Literal["per_item", "per_frame"]

PATCH = 14  # pixels; sizes that keep the aspect are multiples of it, as DINOv2's grid needs
# Says what is drawn, once for all images of a call.
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
    parts = images.split(1) if jitter == "per_frame" else (images,)
    return torch.cat([_jittered(part) for part in parts])


def _jittered(images: Tensor) -> Tensor:
    drawn = COLOUR_JITTER.make_params([])
    changes = (
        (adjust_brightness, drawn["brightness_factor"]),
        (adjust_contrast, drawn["contrast_factor"]),
        (adjust_saturation, drawn["saturation_factor"]),
        (turn_hue, drawn["hue_factor"]),
    )
    for number in drawn["fn_idx"].tolist():  # in an order that is drawn, too
        change, amount = changes[number]
        images = change(images, amount)
    return images


def turn_hue(images: Tensor, turn: float) -> Tensor:
    """Turn the hue of RGB in [0, 1], (..., 3, H, W), and keep value and saturation, as torchvision's ``adjust_hue``.

    It needs half of the time: value and chroma stay, so that a channel follows from the hue alone.

    Args:
        images: RGB in [0, 1].
        turn: in circles.
    """
    red, green, blue = images.unbind(-3)
    value = images.amax(-3)
    chroma = value - images.amin(-3)
    other, third = value != red, (value != red) & (value != green)  # which channel is the largest
    away = torch.where(third, red - green, torch.where(other, blue - red, green - blue))
    # In sixths of the circle; a grey pixel has no hue, and no chroma to show it.
    hue = away.div_(chroma.clamp(min=1e-12)).add_(other, alpha=2).add_(third, alpha=2).add_(6 * turn)
    turned = torch.empty_like(images)
    for channel, shift in zip(turned.unbind(-3), (5, 3, 1), strict=True):
        # It lacks all of the chroma where its own hue is 1 to 3 sixths ahead, and none of it beyond 4.
        lacks = (hue + shift).remainder_(6).sub_(2).abs_().neg_().add_(2).clamp_(0, 1)
        torch.sub(value, lacks.mul_(chroma), out=channel)
    return turned


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
