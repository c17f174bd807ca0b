"""The fused AdamW takes the same steps as torch's plain one, however weights, gradients and moments lie in memory."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from hybrid_encoder.training.optimizing import fused_adamw


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor) -> None:
    optimizer.zero_grad()
    network(images).square().mean().backward()
    optimizer.step()


def test_steps_are_those_of_the_plain_one_after_loading_and_with_other_strides() -> None:
    torch.manual_seed(0)
    fused = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    plain = copy.deepcopy(fused)
    fused.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ours = fused_adamw([{"params": list(fused.parameters())}], lr=1e-2, weight_decay=0.1)
    theirs = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.1, foreach=False)
    images = torch.rand(3, 2, 3, 12, 12)
    _step(fused, ours, images[0])
    _step(plain, theirs, images[0])
    # As a checkpoint holds them: contiguous.
    state = ours.state_dict()
    for moments in state["state"].values():
        moments.update({name: value.contiguous().clone() for name, value in moments.items()})
    again = fused_adamw([{"params": list(fused.parameters())}], lr=1e-2, weight_decay=0.1)
    again.load_state_dict(state)
    _step(fused, again, images[1])
    _step(plain, theirs, images[1])
    for own, other in zip(fused.parameters(), plain.parameters(), strict=True):
        assert other.grad is not None
        own.grad = other.grad = torch.linspace(-1, 1, other.numel()).view(other.shape)  # contiguous
    again.step()
    theirs.step()
    assert next(fused.parameters()).stride() != next(plain.parameters()).stride()
    for own, other in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-5)


def test_a_weight_without_gradient_stays() -> None:
    still, moves = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = fused_adamw([{"params": [still, moves]}], lr=0.1, weight_decay=0.0)
    moves.grad = torch.tensor([1.0, -1.0])
    optimizer.step()
    assert still.tolist() == [1, 1]
    torch.testing.assert_close(moves.detach(), torch.tensor([0.9, 1.1]))
