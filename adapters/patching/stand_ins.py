"""Old behaviour of torch, torchvision and numpy; :mod:`~hybrid_encoder.adapters.patching.legacy` puts it in place."""

from __future__ import annotations

import collections.abc
import importlib
import pickle
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
import torchvision

from hybrid_encoder.geometry.camera import read_grid

from .proxies import StandsFor


def grid_sample(
    input: torch.Tensor,
    grid: torch.Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> torch.Tensor:
    """Call ``F.grid_sample``, where align_corners left out means True, and a grid that is not finite gives NaN."""
    corners = True if align_corners is None else align_corners
    return read_grid(input, grid, mode=mode, padding_mode=padding_mode, align_corners=corners)


FILES_READ: list[Callable[[Any], None]] = []
"""Called with whatever a repository's module reads by ``torch.load``."""


def torch_load(*args: Any, **kwargs: Any) -> Any:
    """Call ``torch.load``, and tell what was read."""
    loaded = torch.load(*args, **kwargs)
    for listener in FILES_READ:
        listener(loaded)
    return loaded


def affine_grid(theta: torch.Tensor, size: list[int], align_corners: bool | None = None) -> torch.Tensor:
    """Call ``F.affine_grid``, where align_corners left out means True."""
    return F.affine_grid(theta, size, True if align_corners is None else align_corners)


class JitterDraw(tuple[Any, ...]):
    """One draw of a colour jitter, ``(order, brightness, contrast, saturation, hue)``, that can be called.

    Calling it applies the drawn operations in the drawn order, so that all frames of a training item get
    the very same jitter. Holds numbers only and can be pickled.
    """

    def __call__(self, image: Any) -> Any:
        """Return the jittered image, of the same kind: PIL, or a tensor (..., 3, H, W) in [0, 1]."""
        order, *factors = self
        adjust = torchvision.transforms.functional
        operations = (
            adjust.adjust_brightness,
            adjust.adjust_contrast,
            adjust.adjust_saturation,
            adjust.adjust_hue,
        )
        for index in order.tolist():
            if factors[index] is not None:
                image = operations[index](image, factors[index])
        return image


class ColorJitter(torchvision.transforms.ColorJitter, metaclass=StandsFor):  # type: ignore[misc]
    """torchvision's ``ColorJitter``, with draws that can be called."""

    stands_for = torchvision.transforms.ColorJitter

    @staticmethod
    def get_params(*args: Any, **kwargs: Any) -> Any:
        order, *factors = torchvision.transforms.ColorJitter.get_params(*args, **kwargs)
        return JitterDraw((order, *factors))


class NextIterator:
    """An iterator that also answers to ``.next()``."""

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._iterator)

    next = __next__

    def __len__(self) -> int:
        return len(self._iterator)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)


class DataLoader(torch.utils.data.DataLoader[Any], metaclass=StandsFor):
    """torch's ``DataLoader``, with iterators that answer to ``.next()``."""

    stands_for = torch.utils.data.DataLoader

    def __iter__(self) -> Any:
        return NextIterator(super().__iter__())


def resnet_urls() -> dict[str, str]:
    """Return ``{"resnet18": URL, ...}`` of the ImageNet weights, as torchvision names them today."""
    models = torchvision.models
    resnet = models.resnet.__name__
    names = [name for name in models.list_models() if models.get_model_builder(name).__module__ == resnet]
    return {name: models.get_model_weights(name)["IMAGENET1K_V1"].url for name in names}


def summary_writer() -> type:
    """Return a ``tensorboardX.SummaryWriter`` that takes the batch axis off a single image."""
    real = importlib.import_module("tensorboardX").SummaryWriter  # the repository's own requirement, not ours

    class SummaryWriter(real, metaclass=StandsFor):  # type: ignore[misc,valid-type]
        stands_for = real

        def add_image(self, tag: str, img_tensor: Any, *args: Any, **kwargs: Any) -> Any:
            if getattr(img_tensor, "ndim", 3) == 4 and len(img_tensor) == 1 and "dataformats" not in kwargs:
                img_tensor = img_tensor[0]
            return super().add_image(tag, img_tensor, *args, **kwargs)

    return SummaryWriter


def models_utils() -> ModuleType:
    """Return a module in the place of ``torchvision.models.utils``."""
    module = ModuleType("torchvision.models.utils")
    vars(module)["load_state_dict_from_url"] = torch.hub.load_state_dict_from_url
    return module


def six() -> ModuleType:
    """Return a module in the place of ``torch._six``."""
    module = ModuleType("torch._six")
    names = {"container_abcs": collections.abc, "string_classes": (str, bytes), "int_classes": int, "inf": float("inf")}
    vars(module).update(names)
    return module


def array(object: Any, *args: Any, **kwargs: Any) -> Any:
    """Call ``np.array``, where arrays of different shapes give an array of arrays."""
    try:
        return np.array(object, *args, **kwargs)
    except ValueError as error:
        if args or "dtype" in kwargs or "inhomogeneous" not in str(error):
            raise
    ragged = np.empty(len(object), dtype=np.object_)
    for index, item in enumerate(object):  # one assignment of all would try to broadcast
        ragged[index] = item
    return ragged


class ArrayUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays and refuses everything else: a pickle of anything else can run code."""

    known: ClassVar[set[str]] = {"ndarray", "dtype", "_reconstruct", "_frombuffer", "_codecs.encode"}

    def find_class(self, module: str, name: str) -> Any:
        if (module.partition(".")[0] == "numpy" and name in self.known) or f"{module}.{name}" in self.known:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"the file holds a {module}.{name} beside arrays; load it with allow_pickle=True.")


class ArrayArchive(np.lib.npyio.NpzFile):
    """An ``.npz`` whose arrays of arrays are read, but no other objects."""

    def __getitem__(self, key: str) -> Any:
        try:
            return super().__getitem__(key)
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
        with self.zip.open(f"{key}.npy") as stream:  # type: ignore[union-attr]
            major, _ = np.lib.format.read_magic(stream)
            read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            read_header(stream)
            return ArrayUnpickler(stream).load()


def load(file: Any, *args: Any, **kwargs: Any) -> Any:
    """Call ``np.load``, where an ``.npz`` may hold arrays of arrays, as it might when allow_pickle was the default."""
    loaded = np.load(file, *args, **kwargs)
    if type(loaded) is np.lib.npyio.NpzFile:
        loaded.__class__ = ArrayArchive
    return loaded
