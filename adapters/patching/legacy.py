"""Run code of 2018 to 2021 on today's torch, torchvision, Pillow and numpy.

The shims reach the modules of one repository only: where such a module holds ``np``, ``F``, ``Image``,
``DataLoader`` and the like, it gets a stand-in that passes everything else through. The libraries
themselves stay as they are for the rest of the process, and ``undo()`` puts every name back.

Modules that have been imported are served at once, later ones right after they ran; modules that the libraries have
removed can be imported from while the repository's modules run. Out of reach are names that a module uses while it is
being imported, and imports inside functions.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from hybrid_encoder.errors import AdapterError

from .names import ReplacedNames
from .proxies import ModuleProxy
from .repository import Repository
from .shims import SHIMS, Shim


class Legacy(ReplacedNames):
    """Shims at work in one repository, and the way back: ``undo()``, or leave the ``with`` block.

    Made by :func:`apply_shims`.
    """

    def __init__(self, repository: Repository, shims: tuple[Shim, ...]) -> None:
        super().__init__(f"old idioms in {repository.root}", repository)
        self.shims = shims
        self.removed_modules: dict[str, ModuleType] = {}
        self._add_proxies(self._add_shims())

    def _add_shims(self) -> dict[str, dict[str, Any]]:
        """Return the names that a proxy of each library module has of its own; note which objects are replaced."""
        names: dict[str, dict[str, Any]] = {}
        for shim in self.shims:
            if importlib.util.find_spec(shim.library) is None:
                continue  # what is not installed, the repository cannot use
            present = vars(importlib.import_module(shim.module)).get(shim.attribute)
            if shim.supplies and present is not None:
                continue
            stand_in = names.setdefault(shim.module, {})[shim.attribute] = shim.make()
            if not shim.supplies:
                self.replace(present, stand_in)
            if isinstance(stand_in, ModuleType):
                self.removed_modules[shim.name] = stand_in
        return names

    def _add_proxies(self, names: dict[str, dict[str, Any]]) -> None:
        # From the innermost module outwards, so that torch holds torch.nn holds torch.nn.functional.
        while names:
            path = max(names, key=lambda name: name.count("."))
            proxy = ModuleProxy(sys.modules[path], names.pop(path))
            self.replace(sys.modules[path], proxy)
            parent, _, attribute = path.rpartition(".")
            if parent:
                names.setdefault(parent, {})[attribute] = proxy

    @contextlib.contextmanager
    def importing(self) -> Iterator[None]:
        """Let modules that the libraries have removed be imported from."""
        added = [name for name in self.removed_modules if name not in sys.modules]
        sys.modules.update({name: self.removed_modules[name] for name in added})
        try:
            yield
        finally:
            for name in added:
                del sys.modules[name]

    def start(self) -> None:
        super().start()
        _ACTIVE[self.repository.root] = self

    def undo(self) -> None:
        if self.active:
            del _ACTIVE[self.repository.root]
        super().undo()


_ACTIVE: dict[str, Legacy] = {}  # by the root of the repository


def apply_shims(repository: str | Path, *, shims: Iterable[str] | None = None) -> Legacy:
    """Serve the modules of one repository, those imported already and those still to come.

    Args:
        repository: the folder of its code.
        shims: names out of ``shims.SHIMS``; None takes all.

    Returns:
        The handle. The same call again returns the same one.

    Raises:
        AdapterError: an unknown shim, a folder that is not one repository's, or a repository that is served with
            other shims.
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
        legacy = Legacy(code, chosen)
        legacy.start()
        return legacy
    if active.shims != chosen:
        raise AdapterError(f"{code.root} is served already with other shims; undo() that first.")
    return active


def active_shims(repository: str | Path) -> Legacy | None:
    """Return the shims at work in a repository, if any."""
    return _ACTIVE.get(Repository(repository).root)


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
