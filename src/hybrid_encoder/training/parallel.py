"""Several processes that train as one process would on all their batches together."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn


def process_state(cpu: bool = False) -> PartialState:
    """Join the other processes of the launcher, if there are any, and return which of them this one is.

    accelerate keeps one state for a whole program, and whatever creates it first decides the device: call this before
    anything else uses accelerate. Each call starts anew, since the next run of a program may ask for another precision
    or device; only a process group that was joined stays. A single process never starts ``torch.distributed``.

    Args:
        cpu: stay on the CPU even where there is an accelerator.
    """
    AcceleratorState._reset_state(reset_partial_state=not is_parallel())
    # An Accelerator obeys the launcher's variable; a PartialState alone does not.
    state = PartialState(cpu=cpu or parse_flag_from_env("ACCELERATE_USE_CPU"))
    if state.num_processes > 1:
        leave_at_exit()
    return state


def is_main_process() -> bool:
    """Return whether this is the process that writes files; :func:`process_state` has been called before."""
    return bool(PartialState().is_main_process)


def is_parallel() -> bool:
    """Return whether this is one of several processes that train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def any_process(here: bool) -> bool:
    """Return whether this holds in any of the processes; all of them have to ask."""
    if not is_parallel():
        return here
    count = torch.tensor([float(here)], device=PartialState().device)
    dist.all_reduce(count)
    return bool(count.item() > 0)


def leave_at_exit() -> None:
    """End gloo's threads before Python ends.

    A thread that still releases a tensor after the interpreter has gone would abort a process whose work was done.
    NCCL has no such threads, and would wait here for processes that have failed.
    """
    atexit.unregister(_leave)
    atexit.register(_leave)


def _leave() -> None:
    if is_parallel() and dist.get_backend() == "gloo":
        gc.collect()  # a wrapped model holds the group, too
        dist.destroy_process_group()


def shares_of(counts: Sequence[int], device: torch.device) -> Tensor:
    """Return the factors that turn means over batches into their parts of the mean over all batches of a step.

    Args:
        counts: how many terms, such as lanes, each of this process's batches is a mean over.
        device: of the result.

    Returns:
        One factor for each batch, count x batches / total with the batches and counts of all processes, so that the
        average over batches is the mean over all terms; 1 where no batch has any.
    """
    own = torch.tensor(counts, dtype=torch.float32, device=device)
    sums = torch.stack([own.sum(), own.new_tensor(len(counts))])
    if is_parallel():
        dist.all_reduce(sums)
    total, batches = sums
    return torch.where(total > 0, own * batches / total, 1.0)


def synchronize_batch_norm(module: nn.Module, device: torch.device) -> None:
    """Make batch norm use the statistics of all processes, in place; parameters stay the same objects."""
    # torch's own conversion drops the activation that timm's batch norm may carry.
    from timm.layers.norm_act import convert_sync_batchnorm

    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d) and not isinstance(child, SyncedBatchNorm):
            on_cpu = device.type == "cpu"  # torch's own works on accelerators only
            made: Any = SyncedBatchNorm.of(child) if on_cpu else convert_sync_batchnorm(child)
            setattr(module, name, made)
        else:
            synchronize_batch_norm(child, device)


class _Sum(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient.contiguous())


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm over all processes on a CPU, followed by the activation that timm's batch norm may carry."""

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> SyncedBatchNorm:
        """Return one that shares the parameters, statistics and child modules of another."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made._parameters, made._buffers, made._modules = norm._parameters, norm._buffers, norm._modules
        return made.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        x = self._normalise(x)
        for module in self.children():
            x = module(x)
        return x

    def _normalise(self, x: Tensor) -> Tensor:
        if not (self.training and is_parallel()) or self.running_mean is None or self.running_var is None:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = torch.full((1,), x.numel() / x.shape[1], dtype=wide.dtype)
        sums = torch.cat([wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3)), count])
        sums = _Sum.apply(sums)  # type: ignore[no-untyped-call]
        total, squares = (sums[:-1] / sums[-1]).chunk(2)
        mean, variance, count = total, squares - total.square(), sums[-1].detach()
        with torch.no_grad():
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
            momentum = 0.1 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), momentum)
        scale = (variance.clamp(min=0) + self.eps).rsqrt()
        weight = 1.0 if self.weight is None else self.weight
        bias = 0.0 if self.bias is None else self.bias
        scaled = (wide - mean[:, None, None]) * (scale * weight)[:, None, None]
        result: Tensor = (scaled + torch.as_tensor(bias).view(-1, 1, 1)).to(x.dtype)
        return result
