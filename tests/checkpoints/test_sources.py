"""What a source of weights is, and what is said where it is another thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm

from hybrid_encoder.downloading.names import explain_backbone
from hybrid_encoder.errors import CheckpointError
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.models.matching import HybridMatchingEncoder, HybridMatchingModel

from helpers.command_line import call
from helpers.fake_hub import cache_at, fake_hub, put_into_cache
from helpers.traps import closed_network

BACKBONES = {
    "ViT-B/32": "SemanticConfig(name='ViT-B-32-quickgelu')",
    "ViT-L/14@336px": "SemanticConfig(name='ViT-L-14-336-quickgelu')",
    "RN50": "SemanticConfig(name='RN50-quickgelu')",
    "rn50x4": "SemanticConfig(name='RN50x4-quickgelu')",
    "convnext_base": "SemanticConfig(name='convnext_base', pretrained='laion400m_s13b_b51k')",
    "openai/clip-vit-base-patch32": "SemanticConfig(name='ViT-B-32-quickgelu')",
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": "SemanticConfig(name='ViT-B-32', pretrained='laion2b_s34b_b79k')",
    "timm/resnet50_clip.openai": "SemanticConfig(name='RN50-quickgelu', pretrained='openai')",
    "google/siglip-base-patch16-224": "SemanticConfig(name='ViT-B-16-SigLIP', pretrained='webli')",
    "google/siglip2-base-patch16-256": "SemanticConfig(name='ViT-B-16-SigLIP2-256', pretrained='webli')",
    "facebook/dinov2-small": "SpatialConfig(name='hf:facebook/dinov2-small')",
    "hf:facebook/dinov3-vits16-pretrain-lvd1689m": "SpatialConfig(name='hf:facebook/dinov3-vits16-pretrain-lvd1689m')",
    "dinov2_vits14": "SpatialConfig(name='vit_small_patch14_dinov2')",
    "dinov2_vitg14_reg": "SpatialConfig(name='vit_giant_patch14_reg4_dinov2')",
    "dinov3_vits16plus": "SpatialConfig(name='vit_small_plus_patch16_dinov3')",
    "dinov3_vit7b16": "SpatialConfig(name='vit_7b_patch16_dinov3')",
    "dinov3_convnext_tiny": "SpatialConfig(name='convnext_tiny.dinov3_lvd1689m')",
    "dino_vitb8": "SpatialConfig(name='vit_base_patch8_224.dino')",
    "vit_base_patch14_dinov2": "SpatialConfig(name='vit_base_patch14_dinov2')",
    "timm/vit_base_patch14_dinov2.lvd142m": "SpatialConfig(name='vit_base_patch14_dinov2.lvd142m')",
    "vit_base_patch14_dino2": "nearly the name of a backbone, vit_base_patch14_dinov2",
    "resnet18": "SpatialConfig(name=...) takes those that are DINO's",
}
OTHERS = {
    "paper": "'paper' is a preset, .* no trained weights; name 'tiny', .* HybridDepthModel\\('paper'\\)",
    "https://huggingface.co/org/name": "is an address; name the Hub id alone: 'org/name'\\.",
    "huggingface.co/org/name/tree/v1": "name the Hub id alone: 'org/name', revision='v1'\\.",
    "https://hf.co/org/name/blob/main/model.safetensors?x=1": "name the Hub id alone: 'org/name', revision='main'",
}


class TestNames:
    @pytest.mark.parametrize("name", BACKBONES)
    def test_a_backbone_says_what_takes_it(self, name: str) -> None:
        asked: list[str] = []
        with closed_network(asked), pytest.raises(CheckpointError) as told:
            HybridDepthModel.from_pretrained(name)
        assert BACKBONES[name] in str(told.value) and str(told.value).startswith(repr(name))
        assert asked == []

    @pytest.mark.parametrize("said", [said for said in BACKBONES.values() if "..." not in said])
    def test_what_is_named_exists(self, said: str) -> None:
        names = [part for part in said.split("'")[1::2] if not part.startswith("hf:")]
        if said.startswith("SemanticConfig"):
            assert names[0] in open_clip.list_models()
            assert open_clip.get_pretrained_cfg(names[0], names[1] if len(names) > 1 else "openai")
        elif names:
            assert timm.is_model(names[0].partition(".")[0]) and timm.get_pretrained_cfg(names[0])

    @pytest.mark.parametrize(
        "name", ["me/dinov2-mine", "vit/of-mine", "gone", "clip", "resnet/18", "WenyaoZhang/Hybrid-depth"]
    )
    def test_other_names_are_none(self, name: str) -> None:
        assert explain_backbone(name) is None

    @pytest.mark.parametrize("name", OTHERS)
    def test_what_else_is_no_weights(self, name: str) -> None:
        with closed_network([]), pytest.raises(CheckpointError, match=OTHERS[name]):
            HybridDepthModel.from_pretrained(name)

    def test_a_folder_of_that_name_is_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("paper", "RN50", "facebook/dinov2-small"):
            (tmp_path / name).mkdir(parents=True)
            with pytest.raises(CheckpointError, match="holds no checkpoint"):
                HybridDepthModel.from_pretrained(name)

    def test_a_name_that_is_nearly_right(self, tmp_path: Path) -> None:
        with fake_hub(tmp_path):
            put_into_cache(tmp_path, "Org/My-Roads", "x").write_text("")
            for name, meant in {
                "org/my-roads": "Org/My-Roads",
                "wenyaozhang/hybrid_depth": "WenyaoZhang/Hybrid-depth",
            }.items():
                with pytest.raises(CheckpointError, match=f"check the name, .* name '{meant}' if that was meant"):
                    HybridDepthModel.from_pretrained(name)
            with pytest.raises(CheckpointError) as told:
                HybridDepthModel.from_pretrained("someone/else")
        assert "if that was meant" not in str(told.value)

    @pytest.mark.parametrize("content", [{"model_type": "dinov2"}, {"architecture": "vit_base_patch14_dinov2"}])
    def test_a_configuration_of_another_library(self, content: dict[str, str], tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=r"it is of another library's model, '(dinov2|vit_base_.*)'; name"):
            HybridDepthModel.from_pretrained(tmp_path)

    def test_a_configuration_of_ours_without_its_class(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "hybrid_depth", "config": {}}))
        with pytest.raises(CheckpointError, match="it has no 'class'"):
            HybridDepthModel.from_pretrained(tmp_path)

    @pytest.mark.parametrize(
        ("command", "says"),
        [
            (("info", "paper"), "'paper' is a preset"),
            (("train-coarse", "synthetic", "--encoder", "ViT-B/32"), "SemanticConfig(name='ViT-B-32-quickgelu')"),
            (
                ("train-fine", "synthetic", "--encoder", "facebook/dinov2-small"),
                "SpatialConfig(name='hf:facebook/dinov2-small')",
            ),
        ],
    )
    def test_on_the_command_line(self, command: tuple[str, ...], says: str, tmp_path: Path) -> None:
        ended = call(*command, *(() if command[0] == "info" else ("--output", tmp_path / "out")))
        assert (ended.status, says in ended.err) == (2, True), ended.err


@pytest.mark.parametrize("kind", [HybridDepthModel, HybridDepthEncoder, HybridMatchingModel, HybridMatchingEncoder])
@pytest.mark.parametrize("source", ["tiny", "a folder", "a file.ckpt", "org/name"])
def test_options_that_do_not_exist_are_refused_alike(kind: Any, source: str, tmp_path: Path) -> None:
    asked: list[str] = []
    with (
        cache_at(tmp_path),
        closed_network(asked),
        pytest.raises(TypeError, match=r"there is no option 'device'; those of the Hub are revision, token, "),
    ):
        kind.from_pretrained(source, device="cuda")
    assert asked == []
