"""Scripts that read weights of ours need not be told what they are of: the weights say it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from hybrid_encoder import HybridEncoderConfig
from hybrid_encoder.adapters import encoders, monodepth2
from hybrid_encoder.adapters.networks import DepthDecoder, DepthEncoder
from hybrid_encoder.config import PRESETS, DecoderConfig, HybridDepthConfig
from hybrid_encoder.errors import CheckpointError

from helpers.toy_repository import Repo

TINY = HybridEncoderConfig.preset("tiny")
OTHER = HybridDepthConfig(dataclasses.replace(TINY, towers="semantic", prompts=None), DecoderConfig(features=16))
# As Monodepth2's two scripts do it: one builds the networks first, the other reads first.
SCRIPTS = {
    "scripts.py": """
        import torch
        import networks

        def load(encoder, depth, weights, folder):
            kept = {k: v for k, v in weights.items() if k in encoder.state_dict()}
            encoder.load_state_dict(kept)
            depth = depth or networks.DepthDecoder(encoder.num_ch_enc, range(4))
            depth.load_state_dict(torch.load(f"{folder}/depth.pth", map_location="cpu"))
            return encoder.eval(), depth.eval()

        def build_first(folder):
            encoder = networks.ResnetEncoder(18, False)
            weights = torch.load(f"{folder}/encoder.pth", map_location="cpu")
            return load(encoder, None, weights, folder)

        def read_first(folder):
            weights = torch.load(f"{folder}/encoder.pth", map_location="cpu")
            encoder = networks.ResnetEncoder(18, False)
            return load(encoder, networks.DepthDecoder(encoder.num_ch_enc), weights, folder)

        def go_on(folder):
            encoder = networks.ResnetEncoder(18, False)
            optimizer = torch.optim.SGD(encoder.parameters(), 0.1)
            load(encoder, None, torch.load(f"{folder}/encoder.pth"), folder)
    """
}
WIDE = DecoderConfig(features=24, channels=(8, 8, 16, 16), head_channels=8)


@pytest.fixture(autouse=True)
def small_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another small encoder as the default: the paper's takes seconds to build."""
    monkeypatch.setattr(encoders, "PRESETS", {**PRESETS, "paper": OTHER})


def _train(repo: Repo, decoder: Any, config: DecoderConfig | None) -> tuple[DepthEncoder, Any]:
    """Write the weights of a training, as Monodepth2's trainer does."""
    with monodepth2.patch(TINY, decoder=decoder, decoder_config=config):
        networks = repo.load("networks")
        encoder = networks.ResnetEncoder(18, False)
        depth = networks.DepthDecoder(encoder.num_ch_enc, range(4))
    torch.save({**encoder.state_dict(), "height": 64, "width": 96, "use_stereo": False}, repo.root / "encoder.pth")
    torch.save(depth.state_dict(), repo.root / "depth.pth")
    return encoder.eval(), depth.eval()


@pytest.mark.parametrize("script", ["build_first", "read_first"])
@pytest.mark.parametrize("config", [None, WIDE])
def test_what_was_trained_is_read_without_a_word_about_it(repo: Repo, script: str, config: Any) -> None:
    repo.write(SCRIPTS)
    trained = _train(repo, None, config)
    with monodepth2.patch():
        encoder, depth = getattr(repo.load("scripts"), script)(repo.root)
    assert isinstance(encoder, DepthEncoder) and isinstance(depth, DepthDecoder)
    assert encoder.model.config == trained[0].model.config
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        got, expected = depth(encoder(images)), trained[1](trained[0](images))
    assert all(torch.equal(got["disp", s], expected["disp", s]) for s in range(4))
    with monodepth2.patch() as handle:
        del encoder, depth
        assert isinstance(handle.builder, monodepth2.Monodepth2Builder)
        assert handle.builder._adoption.description("DepthEncoder") is None, "only while the weights are read"


def test_an_encoder_that_was_named_is_not_changed(repo: Repo) -> None:
    repo.write(SCRIPTS)
    _train(repo, None, None)
    with (
        monodepth2.patch("paper"),
        pytest.raises(CheckpointError, match=r"the weights are of the encoder 'tiny', and this is an encoder of"),
    ):
        repo.load("scripts").build_first(repo.root)


def test_another_decoder_is_one_sentence(repo: Repo) -> None:
    repo.write(SCRIPTS)
    _train(repo, "repository", None)
    with monodepth2.patch("tiny"), pytest.raises(CheckpointError, match=r"decoder='repository'") as error:
        repo.load("scripts").read_first(repo.root)
    assert "\n" not in str(error.value)


def test_a_network_that_trains_is_not_built_anew(repo: Repo) -> None:
    repo.write(SCRIPTS)
    _train(repo, None, None)
    says = r"the weights are of the encoder 'tiny'.*patch\('tiny'\)"
    with monodepth2.patch(), pytest.raises(CheckpointError, match=says):
        repo.load("scripts").go_on(repo.root)
