"""What images a network takes: their kind and shape, and the range of their values."""

from __future__ import annotations

import torch
from torch import Tensor

from hybrid_encoder.config import MIN_SIZE
from hybrid_encoder.data.conversion import FLOATS
from hybrid_encoder.errors import InputError


def check_images(images: Tensor) -> None:
    """Raise InputError unless these are floating-point images (B, 3, H, W) of at least 32 x 32."""
    if not isinstance(images, Tensor):
        raise InputError(f"images is a {type(images).__name__}; a tensor (B, 3, H, W) is needed.")
    shape = tuple(images.shape)
    if images.ndim != 4 or shape[1] != 3:
        raise InputError(f"images has the shape {shape}; (B, 3, H, W) is needed, RGB with three channels.")
    if shape[2] < MIN_SIZE or shape[3] < MIN_SIZE:  # not min(): a compiler would tie its graph to the smaller one
        raise InputError(
            f"images are {shape[2]} x {shape[3]}; height and width must be at least {MIN_SIZE}: resize them up."
        )
    if shape[0] == 0:
        raise InputError("images is an empty batch; at least one image is needed.")
    if not images.is_floating_point():
        raise InputError(f"images have the type {images.dtype}; floats in [0, 1] are needed: divide bytes by 255.")
    if images.dtype not in FLOATS or images.layout is not torch.strided:
        raise InputError(f"images are {images.layout} of {images.dtype}; dense float32 is needed: convert them.")


def check_value_range(images: Tensor) -> None:
    """Raise InputError unless all values are in [0, 1], give or take what resampling overshoots."""
    low, high = (float(x) for x in torch.aminmax(images.detach()))
    if not (low >= -0.25 and high <= 1.25):  # NaN fails too
        raise InputError(
            f"images hold values from {low:.4g} to {high:.4g}; RGB in [0, 1] is needed: "
            "divide bytes by 255, and leave normalisation to the encoder."
        )
