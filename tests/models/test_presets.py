"""The presets as they are built: what their parts are, and that a single image and several frames go through."""

from __future__ import annotations

import pytest
import torch

from hybrid_encoder import HybridDepthConfig, HybridDepthModel
from hybrid_encoder.cli._training import fitting_recipe
from hybrid_encoder.config import PRESETS, BevConfig, DecoderConfig, HybridMatchingDepthConfig
from hybrid_encoder.models.decoder import DPTDecoder
from hybrid_encoder.models.matching import HybridMatchingModel


def size_of(model: HybridDepthModel) -> dict[str, int]:
    encoder = model.encoder
    parts = {"semantic": encoder.semantic, "spatial": encoder.spatial, "decoder": model.decoder}
    return {name: round(sum(p.numel() for p in part.parameters()) / 1e6) for name, part in parts.items() if part}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "millions", "channels"),
    [
        ("small", {"semantic": 24, "spatial": 22, "decoder": 3}, [384 + 64 + 64] * 4),
        ("paper", {"semantic": 24, "spatial": 87, "decoder": 30}, [768 + 256 + 256] * 4),
        ("large", {"semantic": 66, "spatial": 304, "decoder": 31}, [1024 + 320 + 256] * 4),
    ],
)
def test_a_preset_has_the_towers_that_it_names(name: str, millions: dict[str, int], channels: list[int]) -> None:
    model = HybridDepthModel(name, pretrained=False).eval()
    assert size_of(model) == millions
    assert model.encoder.feature_info.channels() == channels  # DINO's, CLIP's, and a logit for every prompt
    config = model.config
    assert config.encoder.spatial.blocks == ((4, 11, 17, 23) if name == "large" else (2, 5, 8, 11))
    assert isinstance(model.decoder, DPTDecoder)
    with torch.inference_mode():
        disparity = model(torch.rand(1, 3, 56, 84))
    assert disparity.shape == (1, 1, 56, 84) and disparity.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "large"])
def test_several_frames_are_matched_in_every_preset(name: str) -> None:
    config = HybridMatchingDepthConfig.preset(name)
    assert config.encoder.encoder.prompts is not None
    assert config.encoder.encoder.prompts.num_tokens == {"small": 64, "large": 128}[name]
    assert HybridMatchingModel(config, pretrained=False).encoder.feature_info.channels()[0] > 0


def test_every_preset_of_real_towers_takes_the_published_recipe_and_its_own_decoder() -> None:
    for name, preset in PRESETS.items():
        assert fitting_recipe(name) == ("small" if name == "tiny" else "published")
        assert HybridDepthConfig.for_encoder(preset.encoder) == preset
        assert (BevConfig.preset(name).channels == 32) == (name == "tiny")
        assert BevConfig.preset(name).encoder == preset
    assert isinstance(PRESETS["small"].decoder, DecoderConfig) and PRESETS["small"].decoder.features == 64
