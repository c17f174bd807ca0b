"""What a machine without CUDA, network and old libraries lacks, for code that takes it for granted.

Stand-ins for tests that look at our networks inside other people's trainers, and for nothing else: no loss computed on
what is made here means anything. None of them touches this library.
"""

from __future__ import annotations

import collections
import functools
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import timm
import torch
import torchvision
from torch import nn
from torch.utils import model_zoo

ABSENT = ("mmcv", "mmseg", "albumentations", "torch_sparse", "wandb")  # too old for current Python, or log to the web
FACTORIES = ("zeros", "ones", "tensor", "arange", "linspace", "rand", "randn", "eye", "full", "empty")


def stand_in() -> None:
    """Let trainers that need CUDA, weights from the web and absent packages run on this machine's CPU."""
    os.environ.update(MPLBACKEND="Agg", RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(20000 + os.getpid() % 20000)
    _keep_on_cpu()
    _load_what_is_there()
    _run_alone()
    sys.meta_path.insert(0, _Absent())


def _on_cpu(device: Any) -> Any:
    """Return the CPU for a CUDA device, however it is named, and anything else as it is."""
    if isinstance(device, int) and not isinstance(device, bool):
        return torch.device("cpu")
    return torch.device("cpu") if str(device).startswith("cuda") and isinstance(device, str | torch.device) else device


def _keep_on_cpu() -> None:
    def to_cpu(own: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(own)
        def to(self: Any, *args: Any, **kwargs: Any) -> Any:
            return own(self, *map(_on_cpu, args), **{name: _on_cpu(value) for name, value in kwargs.items()})

        return to

    def made_on_cpu(own: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(own)
        def make(*args: Any, **kwargs: Any) -> Any:
            return own(*args, **(kwargs | {"device": _on_cpu(kwargs["device"])} if "device" in kwargs else kwargs))

        return make

    for kind in (torch.Tensor, nn.Module):
        kind.to = to_cpu(kind.to)  # type: ignore[method-assign]
        kind.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
    for name in (*FACTORIES, "zeros_like", "ones_like"):
        setattr(torch, name, made_on_cpu(getattr(torch, name)))
    for name in ("set_device", "synchronize", "manual_seed", "manual_seed_all", "empty_cache"):
        setattr(torch.cuda, name, lambda *args, **kwargs: None)
    torch.cuda.is_available = lambda: False
    torch.cuda.device_count = lambda: 1
    torch.cuda.Event = _Event  # type: ignore[assignment, misc]


class _Event:
    """A CUDA event of a machine on which everything is done at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record(self, *args: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: _Event) -> float:
        return 0.0


def _load_what_is_there() -> None:
    """Read absent weight files as empty ones, and take fresh networks for downloaded ones."""
    own_load, own_fill = torch.load, nn.Module.load_state_dict

    def load(file: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, str) and not os.path.exists(file):
            return collections.defaultdict(dict)
        return own_load(file, *args, **(kwargs | {"map_location": "cpu"}))

    def fill(self: nn.Module, state: Any, *args: Any, **kwargs: Any) -> Any:
        if not state and type(self).__module__.partition(".")[0] != "hybrid_encoder":
            return None  # what was absent
        return own_fill(self, state, *args, **kwargs)

    def fresh(url: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        names = [name for name in ("resnet18", "resnet34", "resnet50") if name in url]
        return getattr(torchvision.models, names[0])(weights=None).state_dict() if names else {}

    torch.load, nn.Module.load_state_dict = load, fill  # type: ignore[assignment, method-assign]
    torch.hub.load_state_dict_from_url = model_zoo.load_url = fresh  # type: ignore[attr-defined]
    own_create = timm.create_model
    timm.create_model = lambda *args, **kwargs: own_create(*args, **(kwargs | {"pretrained": False}))
    torchvision.models._api.WeightsEnum.get_state_dict = lambda self, *args, **kwargs: fresh(self.url)


def _run_alone() -> None:
    """Let one process on a CPU be all of a distributed training."""
    own_init, own_wrapper = torch.distributed.init_process_group, nn.parallel.DistributedDataParallel

    class OnCPU(own_wrapper):  # type: ignore[misc, valid-type]
        def __init__(self, module: nn.Module, *args: Any, **kwargs: Any) -> None:
            super().__init__(module, **{k: v for k, v in kwargs.items() if k not in ("device_ids", "output_device")})

    OnCPU.__name__ = OnCPU.__qualname__ = own_wrapper.__name__
    torch.distributed.init_process_group = lambda *args, **kwargs: own_init("gloo", rank=0, world_size=1)
    nn.parallel.DistributedDataParallel = OnCPU  # type: ignore[misc]
    nn.SyncBatchNorm.convert_sync_batchnorm = classmethod(lambda cls, module, *args: module)  # type: ignore[assignment]


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the absent packages: modules of nothing, whose decorators leave what they decorate alone."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        found = name.partition(".")[0] in ABSENT
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if found else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        vars(module)["__getattr__"] = functools.partial(_nothing, spec.name)
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Nothing:
    """An object of an absent package: made of anything, and any call of it gives back what it was given last."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return kwargs or (args[-1] if args else self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing()


def _nothing(module: str, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"{module} is a stand-in, which has no {name}")
    return _Nothing if name[0].isupper() and not name.isupper() else _Nothing()
