from . import (
    construction,
    hook,
    legacy,
    methods,
    names,
    optimizers,
    proxies,
    replacing,
    repository,
    seams,
    shims,
    stand_ins,
    watching,
)
from .construction import Call
from .legacy import Legacy, active_shims, apply_shims, cuda_means_cpu
from .replacing import Builder, Patch, Replacement, install
from .seams import Interface
from .watching import Watch

__all__ = [
    "Builder",
    "Call",
    "Interface",
    "Legacy",
    "Patch",
    "Replacement",
    "Watch",
    "active_shims",
    "apply_shims",
    "construction",
    "cuda_means_cpu",
    "hook",
    "install",
    "legacy",
    "methods",
    "names",
    "optimizers",
    "proxies",
    "replacing",
    "repository",
    "seams",
    "shims",
    "stand_ins",
    "watching",
]
