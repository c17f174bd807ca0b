"""``torch.compile`` takes the whole of each network as one graph, and one graph serves every size."""

from __future__ import annotations

import copy
import pickle
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybrid_encoder import HybridDepthEncoder, HybridDepthModel, HybridMatchingEncoder
from hybrid_encoder.deploy import export_program

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


def _images(height: int, width: int) -> tuple[Tensor]:
    return (torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)),)


def _sequence(height: int, width: int) -> tuple[Tensor, ...]:
    """Two images, a lookup frame of each, and the geometry."""
    K = torch.eye(4).repeat(2, 1, 1)
    K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2] = width / 8, width / 8, width / 8, height / 8
    poses = torch.eye(4).repeat(2, 1, 1, 1)
    poses[..., 0, 3] = 0.1
    (current,) = _images(height, width)
    return current, current.roll(2, dims=3)[:, None], poses, K, K.inverse()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int], tuple[Tensor, ...]]]] = {
    "encoder": (lambda: HybridDepthEncoder("tiny", pretrained=False), _images),
    "model": (lambda: HybridDepthModel("tiny", pretrained=False), _images),
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
@pytest.mark.parametrize(
    ("name", "training"), [("encoder", True), ("model", False), ("model", True), ("matching", False)]
)
def test_one_graph_without_breaks_and_two_compilations_for_five_sizes(name: str, training: bool) -> None:
    network, inputs = _build(name, training)
    backend = CountingBackend()
    with torch.set_grad_enabled(training):
        if not training:
            network(*inputs(*SIZES[0]))  # cached prompts and positions must not break the graph
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
    images = _images(70, 106)[0]
    compiled = torch.compile(tiny_model, backend="aot_eager", fullgraph=True)
    gradients = []
    for network in (tiny_model.train(), compiled):
        tiny_model.zero_grad()
        network(images).square().mean().backward()
        gradients.append({n: p.grad.clone() for n, p in tiny_model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def _compiled_prompts() -> tuple[HybridDepthEncoder, Callable[[], Tensor], list[int]]:
    """An encoder, its prompts compiled, and a list that grows whenever they are encoded."""
    encoder = HybridDepthEncoder("tiny", pretrained=False).eval()
    prompts, encoded = encoder.prompts, list[int]()
    assert prompts is not None
    held = prompts._encode

    def counted() -> Tensor:
        encoded.append(1)
        return held()

    prompts._encode = counted  # type: ignore[method-assign]
    return encoder, torch.compile(prompts, backend="aot_eager", fullgraph=True), encoded


@torch.no_grad()
def test_compiled_prompts_are_encoded_when_something_changed() -> None:
    encoder, compiled, encoded = _compiled_prompts()
    first = compiled()
    torch.testing.assert_close(compiled(), first, rtol=0, atol=0)
    assert len(encoded) == 1
    compiled().zero_()  # a caller may change its own copy
    torch.testing.assert_close(compiled(), first, rtol=0, atol=0)
    state = {name: value.clone() for name, value in encoder.state_dict().items()}

    encoder.prompts.text_projection.neg_()  # type: ignore[union-attr]
    torch.testing.assert_close(compiled(), -first)
    assert len(encoded) == 2
    encoder.load_state_dict(state)
    torch.testing.assert_close(compiled(), first, rtol=0, atol=0)
    assert len(encoded) == 3
    encoder.double()
    torch.testing.assert_close(compiled(), first.double(), rtol=1e-4, atol=1e-6)


def test_compiled_prompts_carry_gradients_where_something_trains() -> None:
    encoder, compiled, encoded = _compiled_prompts()
    encoder.prompts.text_projection.requires_grad_(True)  # type: ignore[union-attr]
    for _ in range(2):
        compiled().sum().backward()
    assert encoder.prompts.text_projection.grad is not None  # type: ignore[union-attr]
    encoder.prompts.requires_grad_(False)  # type: ignore[union-attr]
    encoded.clear()
    assert not compiled().requires_grad
    compiled()
    assert len(encoded) == 1


@torch.no_grad()
def test_copies_share_a_graph_and_no_prompts() -> None:
    backend, images = CountingBackend(), _images(70, 106)[0]
    model = HybridDepthModel("tiny", pretrained=False).eval()
    other = copy.deepcopy(model)
    other.encoder.prompts.positional_embedding.neg_()  # type: ignore[union-attr]
    for network in (model, other, pickle.loads(pickle.dumps(other))):
        torch.testing.assert_close(torch.compile(network, backend=backend)(images), network(images))
    assert backend.compiled == 1
    assert (model(images) - other(images)).abs().max() > 1e-5


@torch.no_grad()
def test_an_exported_copy_leaves_the_compiled_model_its_prompts() -> None:
    """The copy that is exported has folded prompts, and shares buffers with the model."""
    model, images = HybridDepthModel("tiny", pretrained=False).eval(), _images(70, 106)[0]
    compiled = torch.compile(model, backend=CountingBackend())
    expected = compiled(images)
    program = export_program(model, (70, 98))
    torch.testing.assert_close(compiled(images), expected, rtol=0, atol=0)
    folded = copy.deepcopy(model)
    folded.fold_prompts()
    folded.encoder.prompts.index = model.encoder.prompts.index  # type: ignore[union-attr]
    torch.testing.assert_close(compiled(images), expected, rtol=0, atol=0)
    assert program.module()(images[..., :98]).shape == (2, 1, 70, 98)


@torch.no_grad()
def test_compiled_prompts_with_other_parameters_in_their_place() -> None:
    encoder, _, _ = _compiled_prompts()
    prompts = encoder.prompts
    assert prompts is not None
    before, others = prompts().clone(), {name: value + 0.1 for name, value in prompts.named_parameters()}
    called = torch.compile(lambda given: torch.func.functional_call(prompts, given), backend="aot_eager")
    swapped = called(others)
    torch.testing.assert_close(swapped, torch.func.functional_call(prompts, others))
    assert (swapped - before).abs().max() > 1e-3
    torch.testing.assert_close(prompts(), before, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles C++ on a CPU: g++ is absent")
def test_inductor_gives_the_same_numbers() -> None:
    model = HybridDepthModel.from_pretrained("tiny")
    images = _images(70, 106)[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(images), model(images), rtol=0, atol=1e-4)
