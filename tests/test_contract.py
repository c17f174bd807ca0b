"""The towers, the encoder and the adapters' networks, held to the contract that users get."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from hybrid_encoder import HybridDepthEncoder, PyramidNeck
from hybrid_encoder.adapters.networks import DepthEncoder
from hybrid_encoder.testing import EncoderContract
from hybrid_encoder.towers.semantic import SemanticTower, build_clip
from hybrid_encoder.towers.spatial import build_spatial

from helpers.small_models import small_clip, small_dino


class TestHybridDepthEncoder(EncoderContract):
    channels = (HybridDepthEncoder("tiny", pretrained=False).feature_info.channels()[0],) * 4
    strides = (14,) * 4

    def make(self) -> nn.Module:
        return HybridDepthEncoder("tiny", pretrained=False)


class TestResNetTower(EncoderContract):
    channels = (256, 512, 1024, 2048)
    strides = (4, 8, 16, 32)

    def make(self) -> nn.Module:
        config = small_clip("RN50", layers=[1, 1, 1, 1])
        return SemanticTower(build_clip(config, True).visual, config)


class TestDINOTower(EncoderContract):
    channels = (48,) * 4
    strides = (14,) * 4

    def make(self) -> nn.Module:
        return build_spatial(small_dino("vit_small_patch14_reg4_dinov2"), True)

    def features(self, encoder: nn.Module, images: Tensor) -> Sequence[Tensor]:
        maps: Sequence[Tensor] = encoder(images)[0]
        return maps


class TestDepthEncoder(EncoderContract):
    """As the decoder of this library reads it: the image size, then the maps on one grid."""

    channels = (0, *TestHybridDepthEncoder.channels)
    strides = (1, 14, 14, 14, 14)

    def make(self) -> nn.Module:
        return DepthEncoder(HybridDepthEncoder("tiny", pretrained=False))


class TestDepthEncoderWithNeck(EncoderContract):
    """As the decoder of a codebase reads it."""

    channels = (48, 80, 128)
    strides = (4, 8, 16)

    def make(self) -> nn.Module:
        encoder = HybridDepthEncoder("tiny", pretrained=False)
        return DepthEncoder(encoder, PyramidNeck(encoder.feature_info.channels(), self.channels, self.strides))


class TestEncoderOfAnyCodebase(EncoderContract):
    """As ``adapters.generic`` puts it before a codebase's decoder, with images that the caller normalised."""

    channels = (64, 64, 128, 256, 512)
    strides = (2, 4, 8, 16, 32)

    def make(self) -> nn.Module:
        encoder = HybridDepthEncoder("tiny", pretrained=False)
        neck = PyramidNeck(encoder.feature_info.channels(), self.channels, self.strides)
        return DepthEncoder(encoder, neck, mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))

    def features(self, encoder: nn.Module, images: Tensor) -> Sequence[Tensor]:
        maps: Sequence[Tensor] = encoder((images - 0.45) / 0.225)
        return maps


# -- what the contract catches ----------------------------------------------------------------------------


class Broken(nn.Module):
    """One map at stride 2, with the fault that a test asks for."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.unused = nn.Parameter(torch.zeros(1)) if fault == "silent" else None
        self.shift = torch.zeros(1, 4, 1, 1)  # no buffer: it stays behind
        self.hidden = [nn.Conv2d(4, 4, 1)]  # not registered either
        self.num_ch_enc = [5 if fault == "told" else 4]
        self.seen = 0

    def train(self, mode: bool = True) -> Broken:
        super().train(mode)
        if self.fault != "moves" and not any(p.requires_grad for p in self.named_parameters_only()):
            self.norm.eval()
        return self

    def named_parameters_only(self) -> list[nn.Parameter]:
        return [parameter for _, parameter in self.named_parameters()]

    def forward(self, images: Tensor) -> list[Tensor]:
        self.seen += 1
        x: Tensor = self.norm(self.conv(images))
        if self.fault == "stays":
            x = x + self.shift
        if self.fault == "hidden":
            x = self.hidden[0](x)
        if self.fault == "batch":
            x = x - x.mean(0, keepdim=True)
        if self.fault == "state":
            x = x + self.seen
        if self.fault == "channels":
            x = x[:, :3]
        return [x]


class _Contract(EncoderContract):
    channels = (4,)
    strides = (2,)
    fault = ""

    def make(self) -> nn.Module:
        return Broken(self.fault)


CAUGHT = {
    "channels": ("test_channels_and_strides_are_as_declared_for_any_size", "channels are declared as 4"),
    "told": ("test_its_attributes_give_the_declared_channels_and_strides", r"it says \[5\]"),
    "batch": ("test_images_of_a_batch_do_not_see_each_other", "differs by"),
    "state": ("test_another_size_in_between_changes_nothing", "differs by 2"),
    "moves": ("test_a_frozen_encoder_does_not_change_in_training_mode", "norm.running_mean changed"),
    "silent": ("test_the_gradient_reaches_every_parameter_that_trains", "no gradient reaches unused"),
    "hidden": ("test_a_state_dict_holds_everything", "differs by"),
}


def _tests(contract: EncoderContract) -> list[str]:
    return [name for name in dir(contract) if name.startswith("test_")]


@pytest.mark.parametrize("fault", CAUGHT)
def test_a_fault_is_caught_and_named(fault: str) -> None:
    contract = _Contract()
    contract.fault = fault
    name, message = CAUGHT[fault]
    with pytest.raises(AssertionError, match=message):
        getattr(contract, name)()


def test_what_stays_behind_is_caught() -> None:
    contract = _Contract()
    contract.fault = "stays"
    with pytest.raises(RuntimeError, match="device"):
        contract.test_it_moves_with_its_module()


def test_a_sound_encoder_passes_and_every_promise_has_a_fault_that_breaks_it() -> None:
    contract = _Contract()
    for name in _tests(contract):
        getattr(contract, name)()
    assert {name for name, _ in CAUGHT.values()} | {"test_it_moves_with_its_module"} == set(_tests(contract))


def test_a_contract_without_make_says_so() -> None:
    with pytest.raises(TypeError, match=r"EncoderContract defines no make\(\)"):
        EncoderContract().make()
