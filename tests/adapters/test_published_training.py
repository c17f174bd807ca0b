"""The published multi-frame training: gradients clipped at norm 10, and Adam that decays weights as AdamW does."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from hybrid_encoder.adapters.published_training import PublishedTraining


def _layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


@pytest.mark.parametrize("scale", [0.01, 1000.0])
def test_three_steps_of_adam_are_three_of_adamw_with_clipped_gradients(scale: float) -> None:
    ours, theirs = _layer(), _layer()
    adam = torch.optim.Adam(ours.parameters(), 1e-2)
    adamw = torch.optim.AdamW(theirs.parameters(), 1e-2)
    training = PublishedTraining()
    for seed in range(3):
        images = torch.rand(2, 4, generator=torch.Generator().manual_seed(seed))
        for layer, optimizer in ((ours, adam), (theirs, adamw)):
            optimizer.zero_grad()
            (scale * layer(images)).sum().backward()
        assert theirs.weight.grad is not None
        training.before_step(adam)
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 10.0)
        adam.step()
        adamw.step()
    for got, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)
    assert not torch.equal(ours.weight, _layer().weight)


def test_adamw_is_not_decayed_twice_and_the_rate_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    layer, training = _layer(), PublishedTraining()
    optimizer = torch.optim.AdamW(layer.parameters(), 1e-4)
    layer(torch.rand(1, 4)).sum().backward()
    with caplog.at_level(logging.WARNING, "hybrid_encoder.adapters"):
        training.before_step(optimizer)
        training.before_step(optimizer)
    assert torch.equal(layer.weight, _layer().weight)
    assert caplog.text.count("the learning rate is 0.0001; the published one is --learning_rate 1e-5") == 1
