"""What code of 2018 to 2021 needs to run on today's torch, torchvision, Pillow and numpy.

The shims reach the modules of one repository only: where such a module holds ``np``, ``F``, ``Image``,
``DataLoader`` and the like, it gets a stand-in that passes everything else through. The libraries
themselves stay as they are for the rest of the process, and ``undo()`` puts every name back.

Modules imported before are served at once, modules imported later right after they ran. Out of reach are
names that a module uses while it is being imported, and imports inside functions.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image

from hybrid_encoder.errors import AdapterError

from .repository import ModuleProxy, Patch, Repository, StandsFor


def grid_sample(
    input: torch.Tensor,
    grid: torch.Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> torch.Tensor:
    """``F.grid_sample`` where align_corners left out means True."""
    return F.grid_sample(
        input,
        grid,
        mode,
        padding_mode,
        True if align_corners is None else align_corners,
    )


def affine_grid(theta: torch.Tensor, size: list[int], align_corners: bool | None = None) -> torch.Tensor:
    """``F.affine_grid`` where align_corners left out means True."""
    return F.affine_grid(theta, size, True if align_corners is None else align_corners)


class JitterDraw(tuple[Any, ...]):
    """One draw of a colour jitter, ``(order, brightness, contrast, saturation, hue)``, that can be called.

    Calling it applies the drawn operations in the drawn order, so that all frames of a training item get
    the very same jitter. Holds numbers only and can be pickled.
    """

    def __call__(self, image: Any) -> Any:
        """A PIL image, or a tensor (..., 3, H, W) in [0, 1], to the same kind."""
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
    """torchvision's, with draws that can be called."""

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
    """torch's, with iterators that answer to ``.next()``."""

    stands_for = torch.utils.data.DataLoader

    def __iter__(self) -> Any:
        return NextIterator(super().__iter__())


def resnet_urls() -> dict[str, str]:
    """``{"resnet18": URL, ...}`` of the ImageNet weights, as torchvision names them today."""
    models = torchvision.models
    resnet = models.resnet.__name__
    names = [name for name in models.list_models() if models.get_model_builder(name).__module__ == resnet]
    return {name: models.get_model_weights(name)["IMAGENET1K_V1"].url for name in names}


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
        lambda: DataLoader,
        supplies=False,
    ),
    Shim(
        "torchvision.transforms.ColorJitter",
        "get_params gave a callable until torchvision 0.8, a tuple of numbers since",
        lambda: ColorJitter,
        supplies=False,
    ),
    Shim(
        "torchvision.models.resnet.model_urls",
        "removed in torchvision 0.15 in favour of weights enums",
        resnet_urls,
    ),
    Shim(
        "torch.nn.functional.grid_sample",
        "align_corners left out meant True until torch 1.3, False since",
        lambda: grid_sample,
        supplies=False,
    ),
    Shim(
        "torch.nn.functional.affine_grid",
        "align_corners left out meant True until torch 1.3, False since",
        lambda: affine_grid,
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


class Legacy(Patch):
    """Shims at work in one repository, and the way back. Made by :func:`apply`."""

    def __init__(self, repository: Repository, shims: tuple[Shim, ...]) -> None:
        super().__init__(f"old idioms in {repository.root}", repository)
        self.shims = shims
        names: dict[str, dict[str, Any]] = {}
        for shim in shims:
            present = vars(sys.modules[shim.module]).get(shim.attribute)
            if shim.supplies and present is not None:
                continue
            stand_in = names.setdefault(shim.module, {})[shim.attribute] = shim.make()
            if not shim.supplies:
                self._replace(present, stand_in)
        # From the innermost module outwards, so that torch holds torch.nn holds torch.nn.functional.
        while names:
            path = max(names, key=lambda name: name.count("."))
            proxy = ModuleProxy(sys.modules[path], names.pop(path))
            self._replace(sys.modules[path], proxy)
            parent, _, attribute = path.rpartition(".")
            if parent:
                names.setdefault(parent, {})[attribute] = proxy
        self._start()
        _ACTIVE[repository.root] = self

    def undo(self) -> None:
        """Put every name back and stop watching imports; a second call does nothing."""
        if self.active:
            del _ACTIVE[self.repository.root]
        super().undo()


_ACTIVE: dict[str, Legacy] = {}


def apply(repository: str | Path, *, shims: Iterable[str] | None = None) -> Legacy:
    """Serve the modules of one repository, those imported already and those still to come.

    Args:
        repository: the folder of its code.
        shims: names out of ``SHIMS``; None takes all.

    Raises:
        AdapterError: an unknown shim, or the repository is served already with other shims.
    """
    known = {shim.name: shim for shim in SHIMS}
    wanted = tuple(known) if shims is None else tuple(shims)
    for name in wanted:
        if name not in known:
            raise AdapterError(f"unknown shim {name!r}; the shims are {', '.join(known)}.")
    chosen = tuple(shim for shim in SHIMS if shim.name in wanted)
    code = Repository(repository)
    if not Path(code.root).is_dir():
        raise AdapterError(f"{code.root} is not a folder; give the folder of the repository's code.")
    if code.owns(torch.__file__):
        raise AdapterError(
            f"{code.root} holds torch itself; shims are for the folder of one repository: "
            "keep its code apart from installed packages, or go without them (legacy=False)."
        )
    active = _ACTIVE.get(code.root)
    if active is None:
        return Legacy(code, chosen)
    if active.shims != chosen:
        raise AdapterError(f"{code.root} is served already with other shims; undo() that first.")
    return active


def active(repository: str | Path) -> Legacy | None:
    """The shims at work in a repository, if any."""
    return _ACTIVE.get(Repository(repository).root)
