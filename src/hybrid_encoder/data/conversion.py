"""Pictures in whatever form a person holds them, as tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hybrid_encoder.config import MIN_SIZE
from hybrid_encoder.data.images import convert_image, read_image
from hybrid_encoder.data.opening import expanded
from hybrid_encoder.errors import InputError

ImageLike: TypeAlias = "str | Path | Image.Image | NDArray[Any] | Tensor"
WHITE = {"uint8": 255, "uint16": 65535}
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
HELD = "a path, a PIL image, an array (H, W, 3) or (H, W), or a tensor (3, H, W)"


def to_image(image: ImageLike, name: str = "images") -> Tensor:
    """Convert one picture to RGB in [0, 1], (3, H, W).

    Args:
        image: the path of a file, as for ``read_image``; a PIL image, turned upright as its EXIF data say; an array
            (H, W, 3), (H, W, 4), whose fourth channel is left out, or (H, W), which is grey; or a tensor (3, H, W).
            Arrays and tensors hold uint8, uint16 or floats in [0, 1], in the order RGB (OpenCV reads BGR).
        name: what errors call it.

    Returns:
        A tensor of floats as it is, on its device; anything else as float32 on the CPU.

    Raises:
        InputError: none of these, a file that cannot be read, less than 32 pixels high or wide, or values out of range.
    """
    if isinstance(image, (str, Path)):
        return read_image(expanded(image))
    if isinstance(image, Image.Image):
        return convert_image(image)
    if isinstance(image, np.ndarray):
        return _from_array(image, name)
    if isinstance(image, Tensor):
        return _from_tensor(image, name)
    raise InputError(f"{name} is a {type(image).__name__}; {HELD} is needed.")


def _from_array(array: NDArray[Any], name: str) -> Tensor:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        advice = ": transpose it" if array.ndim == 3 and array.shape[0] in (1, 3) else ""
        raise InputError(f"{name} is an array of shape {array.shape}; (H, W, 3) or (H, W) is needed{advice}.")
    white = WHITE.get(array.dtype.name)
    if white is None and array.dtype.kind != "f":
        raise InputError(f"{name} holds {array.dtype}; uint8, uint16, or floats in [0, 1] are needed: convert it.")
    channels = array[..., None] if array.ndim == 2 else array[..., :3]
    planes = np.ascontiguousarray(channels.transpose(2, 0, 1), np.float32)
    tensor = torch.from_numpy(planes if planes is not array.base else planes.copy())
    tensor = tensor if white is None else tensor / white
    return _checked(tensor.expand(3, -1, -1) if len(tensor) == 1 else tensor, name)


def _from_tensor(tensor: Tensor, name: str) -> Tensor:
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise InputError(f"{name} has the shape {tuple(tensor.shape)}; (3, H, W) is needed, RGB with three channels.")
    white = WHITE.get(str(tensor.dtype).removeprefix("torch."))
    if tensor.layout is not torch.strided or (white is None and tensor.dtype not in FLOATS):
        raise InputError(
            f"{name} is {tensor.layout} of {tensor.dtype}; dense float32 in [0, 1], or uint8, is needed: convert it."
        )
    return _checked(tensor if white is None else tensor.float() / white, name)


def _checked(image: Tensor, name: str) -> Tensor:
    height, width = image.shape[-2:]
    if min(height, width) < MIN_SIZE:
        raise InputError(f"{name} is {height} x {width}; height and width must be at least {MIN_SIZE}: resize it up.")
    return image
