"""The fastest that this machine was seen to multiply and add: what a network's share of it can be measured against.

One large matrix product is no ceiling: a library may be tuned better for convolutions than for products, or for another
size, and a network then seems to be faster than the machine. The ceiling is therefore the best of many: products and
convolutions of several sizes, and the largest layers of the network itself, alone, with the inputs that they get in
it. As a network's rate is a mean over its operators, it exceeds that only where the machine got faster meanwhile.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import measure

PRODUCTS = ((1024, 1024, 1024), (3072, 3072, 3072), (768, 768, 3072))  # rows, inner, columns
CONVOLUTIONS = ((256, 64, 192, 3), (128, 128, 384, 3), (1024, 16, 48, 1))  # channels, height, width, kernel
LAYERS = 4  # of the network


class Work(NamedTuple):
    """Something to do whose floating-point operations are known.

    Attributes:
        call: does it once.
        operations: of one call; a multiplication and an addition count as two.
    """

    call: Callable[[], Tensor]
    operations: int


@dataclass
class Ceiling:
    """The best rate of some works so far, in operations a second; ``look`` again after whatever is compared with it."""

    works: dict[str, Work]
    device: str
    rate: float = 0.0
    best: str = ""

    @torch.no_grad()
    def look(self) -> float:
        """Time every work once more, and return the best rate that any had in any look."""
        for name, work in self.works.items():
            if not self.best:  # the first look
                work.call()
            rate = work.operations / measure.seconds(work.call, self.device)
            if rate > self.rate:
                self.rate, self.best = rate, name
        return self.rate


def ceiling(network: nn.Module, images: Tensor, dtype: torch.dtype, tiny: bool = False) -> Ceiling:
    """Return the works whose best rate is the ceiling of a network.

    Args:
        network: its largest layers are among the works.
        images: that it takes, on its device.
        dtype: of the numbers that are multiplied.
        tiny: make the works small, for a smoke test.
    """
    device = images.device.type
    part = 8 if tiny else 1
    scale = 2 if device == "cuda" else 1  # a GPU needs larger ones to be busy
    works = {}
    for sizes in PRODUCTS:
        rows, inner, columns = (size * scale // part for size in sizes)
        a, b = (torch.rand(size, device=device, dtype=dtype) for size in ((rows, inner), (inner, columns)))
        works[f"product {rows} x {inner} x {columns}"] = Work(_call(torch.mm, a, b), 2 * rows * inner * columns)
    for channels, height, width, kernel in CONVOLUTIONS:
        c, h, w = channels // part, height * scale // part, width * scale // part
        x, weight = (torch.rand(*size, device=device, dtype=dtype) for size in ((1, c, h, w), (c, c, kernel, kernel)))
        for layout in (torch.contiguous_format, torch.channels_last):
            given = (tensor.contiguous(memory_format=layout) for tensor in (x, weight))
            name = f"convolution {kernel} x {kernel}, {c} channels, {h} x {w}, {str(layout)[6:]}"
            works[name] = Work(_call(F.conv2d, *given, padding="same"), 2 * h * w * c * c * kernel**2)
    return Ceiling(works | largest_layers(network, images, dtype), device)


@torch.no_grad()
def largest_layers(network: nn.Module, images: Tensor, dtype: torch.dtype, number: int = LAYERS) -> dict[str, Work]:
    """Return the layers with the most operations, each alone, on inputs as large and laid out as in the network."""
    found: dict[str, tuple[int, nn.Module, Tensor]] = {}
    names = {layer: name for name, layer in network.named_modules()}

    def note(layer: nn.Module, given: tuple[Any, ...], result: Tensor) -> None:
        operations = layer_operations(layer, given[0], result)
        if operations > found.get(names[layer], (0,))[0]:
            found[names[layer]] = operations, layer, given[0]

    hooks = [layer.register_forward_hook(note) for layer in names if isinstance(layer, nn.Conv2d | nn.Linear)]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    largest = sorted(found.items(), key=lambda item: -item[1][0])[:number]
    return {
        name: Work(_call(copy.deepcopy(layer).to(dtype), given.to(dtype, copy=True)), operations)
        for name, (operations, layer, given) in largest
    }


def layer_operations(layer: nn.Module, given: Tensor, result: Tensor) -> int:
    """Return the operations of a ``Conv2d`` or ``Linear`` that gave a result."""
    if isinstance(layer, nn.Linear):
        return 2 * result.numel() * layer.in_features
    assert isinstance(layer, nn.Conv2d)
    return 2 * result.numel() * given.shape[1] // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]


def _call(function: Callable[..., Tensor], *given: Any, **options: Any) -> Callable[[], Tensor]:
    return lambda: function(*given, **options)
