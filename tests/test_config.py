from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_encoder import ConfigError, HybridDepthConfig, HybridEncoderConfig
from hybrid_encoder.config import DEPTH_WORDS, DecoderConfig, FusionConfig, PromptConfig, SpatialConfig


@pytest.mark.parametrize("name", ["paper", "tiny"])
def test_presets_go_to_json_and_back(name: str) -> None:
    config = HybridDepthConfig.preset(name)
    assert HybridDepthConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert HybridEncoderConfig.from_dict(json.loads(json.dumps(config.encoder.to_dict()))) == config.encoder


@given(
    towers=st.sampled_from(["both", "semantic", "spatial"]),
    method=st.sampled_from(["interp_conv1x1", "convs2_interp"]),
    count=st.integers(2, 500),
    words=st.none() | st.just(DEPTH_WORDS),
    size=st.none() | st.tuples(st.integers(32, 999), st.integers(32, 999)),
    blocks=st.none() | st.just((0, 1, 2, 3)),
    trainable=st.integers(0, 12) | st.just("all"),
)
def test_any_config_goes_to_json_and_back(towers, method, count, words, size, blocks, trainable) -> None:  # type: ignore[no-untyped-def]
    config = HybridDepthConfig(
        encoder=HybridEncoderConfig(
            towers=towers,
            spatial=SpatialConfig(blocks=blocks, trainable_blocks=trainable),
            fusion=FusionConfig(method=method),
            prompts=PromptConfig(num_tokens=count, words=words),
        ),
        size=size,
    )
    back = HybridDepthConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert back == config
    assert hash(back.encoder.fusion) == hash(config.encoder.fusion)
    assert back.encoder.prompts is not None
    assert back.encoder.prompts.num_prompts == (count if words is None else 7)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: HybridEncoderConfig.preset("huge"),
            "unknown preset 'huge'; the presets are 'paper', 'tiny'",
        ),
        (lambda: HybridEncoderConfig(towers="none"), "towers is 'none'"),  # type: ignore[arg-type]
        (lambda: FusionConfig(method="sum"), "fusion.method is 'sum'"),  # type: ignore[arg-type]
        (lambda: FusionConfig(channels=0), "fusion.channels is 0"),
        (lambda: PromptConfig(template="no place"), "exactly one {}"),
        (lambda: PromptConfig(num_tokens=1), "at least 2"),
        (lambda: SpatialConfig(blocks=(1, 2)), "four block numbers"),
        (lambda: SpatialConfig(trainable_blocks=-1), "trainable_blocks is -1"),
        (lambda: DecoderConfig(scales=(4,)), "one or more of 0, 1, 2, 3"),
        (lambda: HybridDepthConfig(min_depth=2, max_depth=1), "min_depth < max_depth"),
        (lambda: HybridDepthConfig.from_dict({"encodre": {}}), "unknown field 'encodre'"),
        (lambda: HybridDepthConfig.from_dict({"encoder": {"fusion": {"method": 3}}}), "fusion.method is 3"),
        (lambda: HybridDepthConfig.from_dict({"encoder": 3}), "a JSON object is needed"),
        (lambda: HybridDepthConfig.from_dict({"decoder": {"channels": 4}}), "a list is needed"),
    ],
)
def test_a_wrong_setting_is_named(make, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=says.replace("{}", r"\{\}")):
        make()
