"""What code of 2018 to 2021 needs to run on today's torch, torchvision, Pillow and numpy.

The shims reach the modules of one repository only: where such a module holds ``np``, ``F``, ``Image``,
``DataLoader`` and the like, it gets a stand-in that passes everything else through. The libraries
themselves stay as they are for the rest of the process, and ``undo()`` puts every name back.

Modules imported before are served at once, modules imported later right after they ran; libraries' modules that are
gone can be imported from while they run. Out of reach are names that a module uses while it is being imported, and
imports inside functions.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

from hybrid_encoder.errors import AdapterError

from . import stand_ins
from .repository import ModuleProxy, Patch, Repository


@contextlib.contextmanager
def cuda_means_cpu() -> Iterator[None]:
    """Let code that calls ``.cuda()`` run on a machine that has none.

    While this lasts, for the whole process: ``.cuda()`` leaves tensors and modules where they are, and
    ``torch.load`` brings to the CPU what was saved elsewhere. Where there is CUDA, nothing changes.
    """
    if torch.cuda.is_available():
        yield
        return

    def stay(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self

    held = torch.Tensor.cuda, torch.nn.Module.cuda, torch.load
    torch.Tensor.cuda = torch.nn.Module.cuda = stay  # type: ignore[method-assign]
    torch.load = functools.partial(held[2], map_location="cpu")
    try:
        yield
    finally:
        torch.Tensor.cuda, torch.nn.Module.cuda, torch.load = held  # type: ignore[method-assign]


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


class Legacy(Patch):
    """Shims at work in one repository, and the way back. Made by :func:`apply`."""

    def __init__(self, repository: Repository, shims: tuple[Shim, ...]) -> None:
        super().__init__(f"old idioms in {repository.root}", repository)
        self.shims = shims
        self.modules: dict[str, ModuleType] = {}
        names: dict[str, dict[str, Any]] = {}
        for shim in shims:
            if importlib.util.find_spec(shim.library) is None:
                continue  # what is not installed, the repository cannot use
            present = vars(importlib.import_module(shim.module)).get(shim.attribute)
            if shim.supplies and present is not None:
                continue
            stand_in = names.setdefault(shim.module, {})[shim.attribute] = shim.make()
            if not shim.supplies:
                self._replace(present, stand_in)
            if isinstance(stand_in, ModuleType):
                self.modules[shim.name] = stand_in
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

    @contextlib.contextmanager
    def importing(self) -> Iterator[None]:
        """The modules that are gone can be imported from."""
        added = [name for name in self.modules if name not in sys.modules]
        sys.modules.update({name: self.modules[name] for name in added})
        try:
            yield
        finally:
            for name in added:
                del sys.modules[name]

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
