"""Encoder and decoder put together in other ways than from a preset."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from hybrid_encoder import HybridDepthConfig, HybridDepthEncoder, HybridDepthModel, HybridEncoderConfig, PromptConfig
from hybrid_encoder.language import bin_centers


def test_bins_are_even_in_log_depth_from_end_to_end() -> None:
    centers = bin_centers(5, 0.1, 100.0)
    torch.testing.assert_close(centers[[0, -1]], torch.tensor([0.1, 100.0]))
    steps = centers.log().diff()
    torch.testing.assert_close(steps, torch.full((4,), math.log(1000) / 4))


def test_a_given_encoder_is_used_itself() -> None:
    torch.manual_seed(0)
    encoder = HybridDepthEncoder("tiny", pretrained=False)
    model = HybridDepthModel("tiny", encoder=encoder)
    assert model.encoder is encoder
    assert model.config.encoder == encoder.config
    words = HybridEncoderConfig.preset("tiny").replace(prompts=PromptConfig(words=("near", "far")))
    other = HybridDepthModel("tiny", encoder=HybridDepthEncoder(words, pretrained=False))
    assert other.config.encoder.prompts == words.prompts
    assert other(torch.rand(1, 3, 64, 64)).shape == (1, 1, 64, 64)


def test_the_decoder_follows_the_towers() -> None:
    tiny, paper = HybridDepthConfig.preset("tiny"), HybridDepthConfig.preset("paper")
    without = tiny.encoder.replace(prompts=None)
    assert HybridDepthConfig.for_encoder(without) == tiny.replace(encoder=without)
    assert HybridDepthConfig.for_encoder(paper.encoder) == paper
    other = paper.encoder.replace(spatial=dataclasses.replace(paper.encoder.spatial, name="vit_large_patch14_dinov2"))
    assert HybridDepthConfig.for_encoder(other).decoder == paper.decoder


def test_words_say_a_depth_of_their_own() -> None:
    torch.manual_seed(0)
    model = HybridDepthModel("tiny", pretrained=False).eval()
    count = model.config.encoder.prompts.num_tokens  # type: ignore[union-attr]
    logits = torch.full((1, count, 2, 3), -1e4)
    logits[:, 0, 0], logits[:, -1, 1] = 1e4, 1e4
    depth = model.language_depth([logits, logits])
    torch.testing.assert_close(depth[0, 0, 0], torch.full((3,), model.config.min_depth))
    torch.testing.assert_close(depth[0, 0, 1], torch.full((3,), model.config.max_depth))
    features = model.encoder.forward_features(torch.rand(2, 3, 56, 84))
    assert features.logits is not None
    assert model.language_depth(features.logits).shape == (2, 1, *features.logits[0].shape[-2:])


@pytest.mark.parametrize("scales", [(1,), (2, 3)])
def test_disparity_has_the_size_of_the_images_whatever_the_scales(scales: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    config = HybridDepthConfig.preset("tiny")
    config = config.replace(decoder=dataclasses.replace(config.decoder, scales=scales))
    model = HybridDepthModel(config, pretrained=False).eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        outputs, disparity = model.forward_scales(images), model(images)
    assert disparity.shape == (1, 1, 64, 96)
    finest = outputs[scales[0]]
    assert finest.shape[-2:] == (64 >> scales[0], 96 >> scales[0])
    shrunk = torch.nn.functional.interpolate(disparity, finest.shape[-2:], mode="area")
    torch.testing.assert_close(shrunk, finest, atol=0.01, rtol=0.1)
    torch.testing.assert_close(model.infer(images).disparity, disparity)
