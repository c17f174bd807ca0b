"""Freezing is a two-way door, and what the configuration froze stays frozen and out of every optimizer."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hybrid_encoder import HybridDepthEncoder, HybridEncoderConfig, HybridMatchingEncoder, PyramidNeck
from hybrid_encoder.adapters.networks import DepthEncoder, Features, MatchingEncoder, PoseEncoder
from hybrid_encoder.config import PromptConfig

TINY = HybridEncoderConfig.preset("tiny")
PARTLY_FROZEN = TINY.replace(
    spatial=dataclasses.replace(TINY.spatial, trainable_blocks=1),
    prompts=PromptConfig(num_tokens=16, train_text=False),
)


def _depth(config: HybridEncoderConfig) -> Features:
    encoder = HybridDepthEncoder(config, pretrained=False)
    return DepthEncoder(encoder, PyramidNeck(encoder.feature_info.channels()))


def _matching(config: HybridEncoderConfig) -> Features:
    return MatchingEncoder(HybridMatchingEncoder(config, pretrained=False, num_depth_bins=4))


def _by_method(module: nn.Module, trains: bool) -> None:
    module.requires_grad_(trains)


def _by_loop(module: nn.Module, trains: bool) -> None:
    for parameter in module.parameters():
        parameter.requires_grad = trains


def _training(module: nn.Module) -> list[str]:
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize("freeze", [_by_method, _by_loop], ids=["requires_grad_", "loop"])
@pytest.mark.parametrize("config", [TINY, PARTLY_FROZEN], ids=["tiny", "partly frozen"])
@pytest.mark.parametrize("make", [_depth, _matching], ids=["depth", "matching"])
def test_what_was_frozen_and_released_trains_as_before(
    make: Callable[[HybridEncoderConfig], Features],
    config: HybridEncoderConfig,
    freeze: Callable[[nn.Module, bool], None],
) -> None:
    module = make(config)
    before = _training(module)
    assert before and (len(before) < len(list(module.named_parameters()))) is (config is PARTLY_FROZEN)
    handed_over = [id(parameter) for parameter in module.parameters()]

    freeze(module, False)
    assert _training(module) == []
    assert [id(parameter) for parameter in module.parameters()] == handed_over

    freeze(module, True)
    assert _training(module) == before
    assert [id(parameter) for parameter in module.parameters()] == handed_over


@pytest.mark.parametrize("make", [_depth, _matching], ids=["depth", "matching"])
def test_optimizers_get_what_the_configuration_trains(make: Callable[[HybridEncoderConfig], Features]) -> None:
    module = make(PARTLY_FROZEN)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    for _ in range(2):  # also where the module is frozen and released in between
        optimizer = torch.optim.Adam(module.parameters(), 1e-4)
        held = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
        assert set(held) == set(_training(module)) and len(held) == len(set(held))
        assert not [name for name in held if "spatial" in name and "blocks.3." not in name], "DINO's early blocks"
        assert not [name for name in held if "prompts" in name and not name.endswith("tokens")], "the text tower"
        module.requires_grad_(False).requires_grad_(True)


@pytest.mark.parametrize("make", [_depth, _matching], ids=["depth", "matching"])
def test_set_trainable_says_anew_what_is_frozen(make: Callable[[HybridEncoderConfig], Features]) -> None:
    module = make(TINY)
    model: Any = module.model
    whole = len(list(module.parameters()))
    model.set_trainable(semantic=False)
    module.requires_grad_(False).requires_grad_(True)
    trains = _training(module)
    assert len(list(module.parameters())) == len(trains) < whole
    assert not [name for name in trains if ".semantic." in name]
    model.set_trainable(semantic=True)
    assert len(list(module.parameters())) == whole


def test_frozen_and_released_it_is_in_training_mode_again() -> None:
    module = _depth(PARTLY_FROZEN)
    module.train()
    modes = [child.training for child in module.modules()]
    assert True in modes and False in modes
    module.requires_grad_(False).train()
    assert not any(child.training for child in module.model.modules())
    module.requires_grad_(True).train()
    assert [child.training for child in module.modules()] == modes


@pytest.mark.parametrize("freeze", [_by_method, _by_loop], ids=["requires_grad_", "loop"])
def test_the_tower_of_the_pose_encoder_is_the_depth_encoders_to_freeze(
    freeze: Callable[[nn.Module, bool], None],
) -> None:
    encoder = _depth(PARTLY_FROZEN)
    assert isinstance(encoder, DepthEncoder)
    pose_encoder = PoseEncoder(encoder.encoder)
    before, of_tower = _training(encoder), _training(pose_encoder)
    assert of_tower and len(of_tower) < len(list(pose_encoder.named_parameters()))
    for trains in (False, True):  # alone it changes nothing
        freeze(pose_encoder, trains)
        assert _training(encoder) == before and _training(pose_encoder) == of_tower
    freeze(encoder, False)
    freeze(pose_encoder, True)
    assert _training(pose_encoder) == []
    freeze(encoder, True)
    assert _training(encoder) == before and _training(pose_encoder) == of_tower
    held = [*encoder.parameters(), *pose_encoder.parameters()]
    assert len(held) == len({id(parameter) for parameter in held}), "an optimizer refuses a parameter given twice"


@pytest.mark.parametrize("freeze", [_by_method, _by_loop], ids=["requires_grad_", "loop"])
def test_what_was_frozen_by_hand_before_stays_out_of_optimizers(freeze: Callable[[nn.Module, bool], None]) -> None:
    encoder = HybridDepthEncoder(TINY, pretrained=False)
    assert encoder.semantic is not None
    encoder.semantic.requires_grad_(False)
    module = DepthEncoder(encoder)
    before = _training(module)
    assert before and not [name for name in before if name.startswith("encoder.semantic.")]
    assert [name for name, p in module.named_parameters() if any(p is q for q in module.parameters())] == before
    freeze(module, False)
    freeze(module, True)
    assert _training(module) == before
    encoder.set_trainable(semantic=True)  # a choice made later counts
    assert {id(p) for p in encoder.semantic.parameters()} <= {id(p) for p in module.parameters()}


@pytest.mark.parametrize("make", [_depth, _matching], ids=["encoder", "matching"])
def test_replicas_of_data_parallel_have_every_parameter(
    make: Callable[[HybridEncoderConfig], Features], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DataParallel looks up each parameter in the list of ``parameters()``; here copies stand in for other devices."""
    replicate = importlib.import_module("torch.nn.parallel.replicate")

    def broadcast(tensors: list[torch.Tensor], devices: list[int], detach: bool = False) -> list[list[torch.Tensor]]:
        return [[tensor.clone() for tensor in tensors] for _ in devices]

    monkeypatch.setattr(replicate, "_broadcast_coalesced_reshape", broadcast)
    network = make(PARTLY_FROZEN)
    for module in (network, PoseEncoder(network.encoder) if isinstance(network, DepthEncoder) else network):
        first, second = replicate.replicate(module, [0, 1])
        names = dict(module.named_parameters())
        for replica in (first, second):
            assert type(replica) is type(module)
            held = {
                f"{path}.{name}" if path else name: value
                for path, part in replica.named_modules()
                for name, value in getattr(part, "_former_parameters", {}).items()
            }
            assert held.keys() == names.keys() and all(torch.equal(held[name], names[name]) for name in names)
    assert len(list(network.parameters())) < len(dict(network.named_parameters())), "an optimizer still gets fewer"
