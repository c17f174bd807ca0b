"""``torch.compile`` takes the whole of each network as one graph, and one graph serves every size."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybrid_encoder import HybridDepthEncoder, HybridDepthModel, HybridMatchingEncoder

# Multiples of the patch in both directions, in one, in none; upright and not.
SIZES = ((70, 98), (84, 112), (70, 106), (101, 133), (128, 96))


class CountingBackend:
    """Runs graphs as they are, and counts how many it was given."""

    def __init__(self) -> None:
        self.compiled = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.compiled += 1
        return graph.forward


@pytest.fixture(autouse=True)
def _forget_compilations() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _pictures(height: int, width: int) -> tuple[Tensor]:
    return (torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)),)


def _sequence(height: int, width: int) -> tuple[Tensor, ...]:
    """Two pictures, a lookup frame of each, and the geometry."""
    K = torch.eye(4).repeat(2, 1, 1)
    K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2] = width / 8, width / 8, width / 8, height / 8
    poses = torch.eye(4).repeat(2, 1, 1, 1)
    poses[..., 0, 3] = 0.1
    (current,) = _pictures(height, width)
    return current, current.roll(2, dims=3)[:, None], poses, K, K.inverse()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int], tuple[Tensor, ...]]]] = {
    "encoder": (lambda: HybridDepthEncoder("tiny", pretrained=False), _pictures),
    "model": (lambda: HybridDepthModel("tiny", pretrained=False), _pictures),
    "matching": (lambda: HybridMatchingEncoder("tiny", pretrained=False, num_depth_bins=4), _sequence),
}


def _build(name: str, training: bool) -> tuple[nn.Module, Callable[[int, int], tuple[Tensor, ...]]]:
    torch.manual_seed(0)
    make, inputs = NETWORKS[name]
    return make().train(training), inputs


def _first(output: Any) -> Tensor:
    while not isinstance(output, Tensor):
        output = output[0]
    return output


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", NETWORKS)
def test_one_graph_without_breaks_and_two_compilations_for_five_sizes(name: str, training: bool) -> None:
    network, inputs = _build(name, training)
    backend = CountingBackend()
    with torch.set_grad_enabled(training):
        if not training:
            network(*inputs(*SIZES[0]))  # what the prompts and positions kept must not break the graph
        # fullgraph turns a graph break into an error; the second size opens height and width for all that follow.
        compiled = torch.compile(network, backend=backend, fullgraph=True)
        counts = []
        for size in SIZES:
            output = _first(compiled(*inputs(*size)))
            counts.append(backend.compiled)
            if not training:
                torch.testing.assert_close(output, _first(network(*inputs(*size))), rtol=1e-4, atol=1e-4)
    assert counts == [1, 2, 2, 2, 2]
    assert output.requires_grad == training


@pytest.mark.parametrize("name", NETWORKS)
def test_no_graph_breaks(name: str) -> None:
    network, inputs = _build(name, training=True)
    found = torch._dynamo.explain(network)(*inputs(70, 106))
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


@pytest.mark.slow
def test_gradients_of_a_compiled_model(tiny_model: HybridDepthModel) -> None:
    images = _pictures(70, 106)[0]
    compiled = torch.compile(tiny_model, backend="aot_eager", fullgraph=True)
    gradients = []
    for network in (tiny_model.train(), compiled):
        tiny_model.zero_grad()
        network(images).square().mean().backward()
        gradients.append({n: p.grad.clone() for n, p in tiny_model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles C++ on a CPU: g++ is absent")
def test_inductor_gives_the_same_numbers() -> None:
    model = HybridDepthModel.from_pretrained("tiny")
    images = _pictures(70, 106)[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(images), model(images), rtol=0, atol=1e-4)
