from . import hook, legacy, methods, names, proxies, replacing, repository, shims, stand_ins
from .legacy import Legacy, active_shims, apply_shims, cuda_means_cpu
from .replacing import Builder, Call, Patch, Replacement, install

__all__ = [
    "Builder",
    "Call",
    "Legacy",
    "Patch",
    "Replacement",
    "active_shims",
    "apply_shims",
    "cuda_means_cpu",
    "hook",
    "install",
    "legacy",
    "methods",
    "names",
    "proxies",
    "replacing",
    "repository",
    "shims",
    "stand_ins",
]
