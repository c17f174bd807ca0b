"""The ceiling that a network's speed is compared with: nothing here is timed, times are given."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("benchmarks", reason="benchmarks are in the repository, not in an installed package")

from benchmarks import ceiling, measure  # after the check that they are there


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 16, 5, padding=2, groups=1)
        self.grouped = nn.Conv2d(16, 16, 3, stride=2, groups=4)
        self.linear = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.linear(self.grouped(self.wide(x)).flatten(2).transpose(1, 2))
        return result


def test_operations_are_those_that_torch_counts() -> None:
    network, images = Network(), torch.rand(2, 3, 20, 24)
    layers = ceiling.largest_layers(network, images, torch.float32, number=3)
    assert list(layers) == ["wide", "grouped", "linear"]  # the largest first
    works = ceiling.ceiling(network, images, torch.float32, tiny=True).works
    for name, work in {**works, **layers}.items():
        with FlopCounterMode(display=False) as counter:
            work.call()
        assert counter.get_total_flops() == work.operations, name
    with FlopCounterMode(display=False) as counter:
        network(images)
    assert sum(work.operations for work in layers.values()) == counter.get_total_flops()


def test_the_best_of_all_works_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the machine where convolutions ran at 1.31 of the rate of one product; the first look is undisturbed."""
    network, images = Network(), torch.rand(1, 3, 16, 16)
    found = ceiling.ceiling(network, images, torch.float32, tiny=True)
    speeds = {name: 1.0e9 if name.startswith("product") else 1.31e9 for name in found.works}
    speeds["wide"] = 1.5e9
    disturbed = 1.0

    def seconds(call: object, device: str) -> float:
        name, work = next((name, work) for name, work in found.works.items() if work.call is call)
        return work.operations / speeds[name] * disturbed

    monkeypatch.setattr(measure, "seconds", seconds)
    assert found.look() == pytest.approx(1.5e9)
    disturbed = 4.0
    assert found.look() == pytest.approx(1.5e9)
    assert found.best == "wide"
    # The network's own rate is a mean over its layers, whatever else is fast.
    layers = [found.works[name] for name in ("wide", "grouped", "linear")]
    spent = sum(work.operations / speeds[name] for name, work in found.works.items() if work in layers)
    assert sum(work.operations for work in layers) / spent <= found.rate


def test_works_are_of_the_type_that_the_network_multiplies() -> None:
    for work in ceiling.ceiling(Network(), torch.rand(1, 3, 16, 16), torch.bfloat16, tiny=True).works.values():
        assert work.call().dtype == torch.bfloat16


def test_the_clock_can_leave_out_other_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10))
    monkeypatch.setitem(measure.CLOCKS, "processor", lambda: float(next(ticks)))
    monkeypatch.setattr(measure, "_clock", measure._clock)
    measure.use_clock("processor")
    assert measure.seconds(lambda: None, "cpu") == 1.0
