"""Configurations: presets, JSON both ways, files of older versions, and wrong settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_encoder import (
    CheckpointError,
    ConfigError,
    HybridDepthConfig,
    HybridDepthModel,
    HybridEncoderConfig,
    HybridMatchingConfig,
    HybridMatchingDepthConfig,
)
from hybrid_encoder.checkpoints import read_config
from hybrid_encoder.config import (
    DEPTH_WORDS,
    FORMAT_VERSION,
    PRESETS,
    DecoderConfig,
    FusionConfig,
    PromptConfig,
    SpatialConfig,
    migrate,
)

VERSION_0 = Path(__file__).with_name("version_0.json")  # as the first release wrote it, without a version


@pytest.mark.parametrize("name", PRESETS)
def test_presets_go_to_json_and_back(name: str) -> None:
    config = HybridDepthConfig.preset(name)
    assert HybridDepthConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert HybridEncoderConfig.from_dict(json.loads(json.dumps(config.encoder.to_dict()))) == config.encoder
    multi = HybridMatchingDepthConfig.preset(name)
    assert HybridMatchingDepthConfig.from_dict(json.loads(json.dumps(multi.to_dict()))) == multi
    assert HybridMatchingConfig.from_dict(json.loads(json.dumps(multi.encoder.to_dict()))) == multi.encoder


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
            "unknown preset 'huge'; the presets are 'paper', 'small', 'large', 'tiny'",
        ),
        (lambda: HybridEncoderConfig(towers="none"), "towers is 'none'"),  # type: ignore[arg-type]
        (lambda: FusionConfig(method="sum"), "fusion.method is 'sum'"),  # type: ignore[arg-type]
        (lambda: FusionConfig(channels=0), "fusion.channels is 0"),
        (lambda: PromptConfig(template="no place"), "exactly one {}"),
        (lambda: PromptConfig(num_tokens=1), "at least 2"),
        (
            lambda: SpatialConfig(blocks=(1, 2)),  # type: ignore[arg-type]
            "spatial.blocks is .* a list of 4, each a whole number from 0 to 255",
        ),
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


class TestVersions:
    def test_a_file_without_a_version_is_read(self, tmp_path: Path) -> None:
        content = json.loads(VERSION_0.read_text())
        assert "format_version" not in content
        (tmp_path / "config.json").write_text(VERSION_0.read_text())
        config = read_config(tmp_path)
        words = PromptConfig(words=DEPTH_WORDS, train_text=True)
        tiny = PRESETS["tiny"].encoder
        random = tiny.replace(semantic=tiny.semantic.without_weights(), spatial=tiny.spatial.without_weights())
        assert config.encoder == random.replace(prompts=words)
        assert config.decoder.scales == (1,) and config.size == (96, 320)

    def test_fields_that_were_renamed(self) -> None:
        prompts = {"count": 5, "align": "logits", "template": "{}"}
        for config in ({"prompts": dict(prompts)}, {"encoder": {"prompts": dict(prompts)}}):
            before = json.dumps(config)
            moved = migrate({"class": "X", "config": config})
            assert moved["format_version"] == FORMAT_VERSION
            assert json.dumps(config) == before, "what was read stays as it is"
            found: Any = moved["config"].get("encoder", moved["config"])
            expected = {"num_tokens": 5, "decoder_input": "logits", "template": "{}", "train_text": False}
            assert found["prompts"] == expected
        assert migrate({"config": {"prompts": None}})["config"] == {"prompts": None}

    def test_before_version_3_a_text_tower_was_frozen_where_a_file_does_not_say(self) -> None:
        for said, trains in ({}, False), ({"train_text": True}, True), ({"train_text": False}, False):
            for nested in range(3):
                config: Any = {"prompts": said}
                for _ in range(nested):
                    config = {"encoder": config}
                moved = migrate({"format_version": 2, "class": "X", "config": config})["config"]
                for _ in range(nested):
                    moved = moved["encoder"]
                assert moved == {"prompts": {"train_text": trains}}
        new: dict[str, Any] = {"format_version": 3, "config": {"prompts": {}}}
        assert migrate(new) == new
        assert HybridEncoderConfig.from_dict(new["config"]).prompts == PromptConfig(train_text="all_but_blocks")

    def test_this_version_passes_unchanged(self) -> None:
        content = {"format_version": FORMAT_VERSION, "class": "X", "config": {"prompts": {"count": 5}}}
        assert migrate(content) == content

    @pytest.mark.parametrize(
        ("version", "says"),
        [
            (FORMAT_VERSION + 1, f"format_version is {FORMAT_VERSION + 1}.*reads up to {FORMAT_VERSION}; upgrade it"),
            ("1", "format_version is '1'; it must be a whole number"),
            (-1, "format_version is -1"),
            (True, "format_version is True"),
            (None, "format_version is None"),
        ],
    )
    def test_a_version_that_cannot_be_read_is_named(self, version: Any, says: str, tmp_path: Path) -> None:
        content = {**json.loads(VERSION_0.read_text()), "format_version": version}
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=says):
            read_config(tmp_path)

    def test_what_is_saved_says_its_version(self, tiny_model: HybridDepthModel, tmp_path: Path) -> None:
        tiny_model.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["format_version"] == FORMAT_VERSION
        assert read_config(tmp_path) == tiny_model.config

    @pytest.mark.parametrize("config", ["text", 3, None, [1]])
    def test_a_config_that_is_not_an_object_is_named(self, config: Any, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"class": "HybridDepthModel", "config": config}))
        with pytest.raises(CheckpointError, match=r"HybridDepthConfig is .*; a JSON object is needed"):
            read_config(tmp_path)
