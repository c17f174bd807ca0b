"""The shims: old names of torch, torchvision, Pillow and numpy, and what stands in for each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from . import stand_ins


@dataclass(frozen=True)
class Shim:
    """One old name and what it stands for.

    Args:
        name: full dotted name.
        reason: why old code needs it.
        make: gives the stand-in.
        supplies: True for a name that was removed (left alone where the library has it), False for one that
            behaves differently today.
    """

    name: str
    reason: str
    make: Callable[[], Any]
    supplies: bool = True

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def library(self) -> str:
        return self.name.partition(".")[0]

    @property
    def attribute(self) -> str:
        return self.name.rpartition(".")[2]


_NUMPY_ALIASES: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "object": object,
    "complex": complex,
    "str": str,
    "long": int,
    "unicode": str,
    "float_": np.float64,
    "complex_": np.complex128,
    "unicode_": np.str_,
    "string_": np.bytes_,
    "Inf": np.inf,
    "infty": np.inf,
    "PINF": np.inf,
    "NINF": -np.inf,
    "NaN": np.nan,
    "product": np.prod,
    "alltrue": np.all,
    "sometrue": np.any,
}

SHIMS: tuple[Shim, ...] = (
    Shim(
        "PIL.Image.ANTIALIAS",
        "removed in Pillow 10; it was LANCZOS",
        lambda: Image.Resampling.LANCZOS,
    ),
    Shim(
        "PIL.Image.LINEAR",
        "removed in Pillow 10; it was BILINEAR",
        lambda: Image.Resampling.BILINEAR,
    ),
    Shim(
        "PIL.Image.CUBIC",
        "removed in Pillow 10; it was BICUBIC",
        lambda: Image.Resampling.BICUBIC,
    ),
    Shim(
        "torch.utils.data.DataLoader",
        "its iterators had .next() until torch 1.12",
        lambda: stand_ins.DataLoader,
        supplies=False,
    ),
    Shim(
        "torchvision.transforms.ColorJitter",
        "get_params gave a callable until torchvision 0.8, a tuple of numbers since",
        lambda: stand_ins.ColorJitter,
        supplies=False,
    ),
    Shim(
        "torchvision.models.resnet.model_urls",
        "removed in torchvision 0.15 in favour of weights enums",
        stand_ins.resnet_urls,
    ),
    Shim(
        "torchvision.models.utils",
        "removed in torchvision 0.13; its one function is torch.hub's",
        stand_ins.models_utils,
    ),
    Shim(
        "torch._six",
        "removed in torch 1.13; it held names of both Python 2 and 3",
        stand_ins.six,
    ),
    Shim(
        "torch.load",
        "weights of our own networks say what they are, and a patch builds the networks accordingly",
        lambda: stand_ins.torch_load,
        supplies=False,
    ),
    Shim(
        "numpy.array",
        "arrays of different shapes gave an array of arrays until numpy 1.23",
        lambda: stand_ins.array,
        supplies=False,
    ),
    Shim(
        "numpy.load",
        "read arrays of arrays without being asked to until numpy 1.16.2",
        lambda: stand_ins.load,
        supplies=False,
    ),
    Shim(
        "tensorboardX.SummaryWriter",
        "add_image took a single image with a batch axis before it; shapes are checked today",
        stand_ins.summary_writer,
        supplies=False,
    ),
    Shim(
        "torch.nn.functional.grid_sample",
        "align_corners left out meant True until torch 1.3, False since",
        lambda: stand_ins.grid_sample,
        supplies=False,
    ),
    Shim(
        "torch.nn.functional.affine_grid",
        "align_corners left out meant True until torch 1.3, False since",
        lambda: stand_ins.affine_grid,
        supplies=False,
    ),
    *(
        Shim(
            f"numpy.{name}",
            "alias removed in numpy 1.24 or 2.0",
            functools.partial(lambda value: value, value),
        )
        for name, value in _NUMPY_ALIASES.items()
    ),
)
