"""Weights of towers that this library has trained itself: by their tag, by a file, and in a model that was saved."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hybrid_encoder import HybridDepthEncoder, HybridDepthModel, HybridEncoderConfig
from hybrid_encoder.cli._training import fitting_recipe
from hybrid_encoder.config import HybridDepthConfig, PromptConfig
from hybrid_encoder.config.parts import STREET, TOWER_KIND
from hybrid_encoder.errors import CheckpointError, ConfigError
from hybrid_encoder.pretraining import ClipStage, DinoStage, save_clip, save_dino
from hybrid_encoder.towers import own_weights
from hybrid_encoder.towers.own_weights import ARCHITECTURE, SHIPPED, TOKENS, load_own, read_notes

TINY = HybridEncoderConfig.preset("tiny")
WORDS = ("close", "distant")


def starting_from(semantic: str | None, spatial: str | bool, **changes: Any) -> HybridEncoderConfig:
    """Return the tiny encoder with two words, and towers that start from these weights."""
    return TINY.replace(
        semantic=dataclasses.replace(TINY.semantic, pretrained=semantic),
        spatial=dataclasses.replace(TINY.spatial, pretrained=spatial),
        prompts=PromptConfig(words=WORDS),
        **changes,
    )


STREETS = starting_from(STREET, STREET)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights as the package has one, of towers that were not trained."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    save_clip(ClipStage(TINY.semantic), folder / "tiny_clip", "Nothing was trained.", {})
    save_dino(DinoStage(TINY.spatial, prototypes=16), folder / "tiny_dino", "Nothing was trained.", {})
    return folder


@pytest.fixture
def street(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(own_weights, "WEIGHTS", installed)
    return installed


class TestTag:
    def test_it_names_the_weights_that_ship(self, street: Path) -> None:
        torch.manual_seed(1)
        encoder = HybridDepthEncoder(STREETS)
        assert encoder.semantic is not None and encoder.spatial is not None and encoder.prompts is not None
        clip, dino = (load_file(street / SHIPPED[kind]) for kind in ("clip", "dino"))
        assert torch.equal(encoder.semantic.visual.conv1.weight, clip["visual.conv1.weight"].float())
        assert encoder.prompts.text_projection is not None
        assert torch.equal(encoder.prompts.text_projection, clip["text_projection"].float())
        for name, value in encoder.spatial.model.state_dict().items():
            assert torch.equal(value, dino[name].float()), name
        assert encoder.prompts().isfinite().all()

    @pytest.mark.parametrize("kind", ["clip", "dino"])
    def test_an_installation_without_them_says_so(self, kind: str, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr(own_weights, "WEIGHTS", tmp_path)
        config = starting_from(STREET, False) if kind == "clip" else starting_from(None, STREET)
        with pytest.raises(CheckpointError, match=rf"this installation lacks .*'street' .*tiny_{kind}/model.safet"):
            HybridDepthEncoder(config)
        HybridDepthEncoder(config, pretrained=False)

    def test_it_is_no_tag_of_open_clip(self) -> None:
        import open_clip

        assert STREET not in {tag for _, tag in open_clip.list_pretrained()}

    def test_towers_of_other_sizes_are_refused(self, street: Path) -> None:
        deep = {**TINY.spatial.overrides, "depth": 5}
        spatial = dataclasses.replace(STREETS.spatial, overrides=deep, blocks=(0, 1, 3, 4))
        with pytest.raises(CheckpointError, match="they are not of one kind"):
            HybridDepthEncoder(STREETS.replace(spatial=spatial))
        wide = {**TINY.spatial.overrides, "embed_dim": 48}
        with pytest.raises(CheckpointError, match=r"the model needs .*, those of the preset 'tiny'"):
            HybridDepthEncoder(STREETS.replace(spatial=dataclasses.replace(STREETS.spatial, overrides=wide)))


def test_a_file_without_what_it_must_hold_is_refused(street: Path, tmp_path: Path) -> None:
    file, notes = street / SHIPPED["clip"], read_notes(street / SHIPPED["clip"])
    tensors = load_file(file)
    module = ClipStage(TINY.semantic).clip
    broken = tmp_path / "broken.safetensors"
    save_file({k: v for k, v in tensors.items() if k != "token_embedding.weight"}, broken, notes)
    with pytest.raises(CheckpointError, match=r"differ in token_embedding.weight"):
        load_own(module, broken, "clip", TINY.semantic)
    save_file(tensors, broken, {TOWER_KIND: "clip"})
    with pytest.raises(CheckpointError, match="does not say which tokens it knows"):
        load_own(module, broken, "clip", TINY.semantic)
    broken.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_own(module, broken, "clip", TINY.semantic)
    known = json.loads(notes[TOKENS])
    save_file(tensors, broken, {**notes, TOKENS: json.dumps([*known[:-1], known[0]])})
    with pytest.raises(CheckpointError, match=r"which tokens it knows .one is named twice"):
        load_own(module, broken, "clip", TINY.semantic)
    save_file(tensors, broken, {**notes, TOKENS: json.dumps(known[:-1])})
    with pytest.raises(CheckpointError, match=rf"names {len(known) - 1} tokens, and has {len(known)} rows"):
        load_own(module, broken, "clip", TINY.semantic)
    save_file({**tensors, "visual.conv1.weight": tensors["visual.conv1.weight"] * torch.nan}, broken, notes)
    with pytest.raises(CheckpointError, match=r"has numbers in visual.conv1.weight that are not finite"):
        load_own(module, broken, "clip", TINY.semantic)
    save_file(tensors, broken, {name: note for name, note in notes.items() if name != ARCHITECTURE})
    with pytest.raises(CheckpointError, match="does not say of which architecture it is"):
        load_own(module, broken, "clip", TINY.semantic)


class TestArchitecture:
    """Tensors of the same sizes may be meant for another model, which would load them and compute something else."""

    @pytest.mark.parametrize("shipped", [True, False])
    def test_another_activation_is_refused(self, shipped: bool, street: Path) -> None:
        start = STREET if shipped else str(street / SHIPPED["clip"])
        semantic = dataclasses.replace(TINY.semantic, name="RN50", pretrained=start)
        with pytest.raises(CheckpointError, match=r"trained with semantic.name = 'RN50-quickgelu', .* has 'RN50'"):
            HybridDepthEncoder(STREETS.replace(semantic=semantic))

    @pytest.mark.parametrize("shipped", [True, False])
    def test_another_number_of_heads_is_refused(self, shipped: bool, street: Path) -> None:
        start = STREET if shipped else str(street / SHIPPED["dino"])
        heads = {**TINY.spatial.overrides, "num_heads": 6}
        spatial = dataclasses.replace(TINY.spatial, overrides=heads, pretrained=start)
        with pytest.raises(CheckpointError, match=r"trained with spatial.overrides = .*'num_heads': 3"):
            HybridDepthEncoder(STREETS.replace(spatial=spatial))

    def test_what_ships_is_of_the_preset(self) -> None:
        """The files say nothing of their own, and are known by their place."""
        HybridDepthEncoder("tiny")
        with pytest.raises(CheckpointError, match=r"trained with semantic.name"):
            HybridDepthEncoder(TINY.replace(semantic=dataclasses.replace(TINY.semantic, name="RN50")))

    def test_the_input_may_be_normalised_otherwise(self, street: Path) -> None:
        raw = dataclasses.replace(STREETS.spatial, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        HybridDepthEncoder(STREETS.replace(spatial=raw))

    def test_a_model_of_transformers_is_told_what_is_wrong(self, street: Path) -> None:
        spatial = dataclasses.replace(STREETS.spatial, name="hf:some/model", overrides={})
        with pytest.raises(ConfigError, match=r"spatial.pretrained is 'street', weights of a model of timm"):
            HybridDepthEncoder(STREETS.replace(spatial=spatial))

    def test_a_file_of_something_else_is_told_in_a_sentence(self, tmp_path: Path) -> None:
        save_file({"clip.visual.conv1.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
        semantic = dataclasses.replace(TINY.semantic, pretrained=str(tmp_path / "model.safetensors"))
        with pytest.raises(CheckpointError, match=r"does not fit RN50-quickgelu .* give final/model.safetensors"):
            HybridDepthEncoder(TINY.replace(semantic=semantic))
        with pytest.raises(ConfigError, match=r"neither a file .* give the path of final/model.safetensors"):
            HybridDepthEncoder(TINY.replace(semantic=dataclasses.replace(semantic, pretrained=str(tmp_path))))


@pytest.mark.parametrize(("kind", "config"), [("clip", "SemanticConfig"), ("dino", "SpatialConfig")])
def test_a_tower_is_not_taken_for_a_model(kind: Any, config: str, street: Path, tmp_path: Path) -> None:
    file = shutil.copy(street / SHIPPED[kind], tmp_path)
    for source in (tmp_path, Path(file)):
        with pytest.raises(CheckpointError, match=rf"holds one tower.*{config}\(\.\.\., pretrained="):
            HybridDepthModel.from_pretrained(source)


class TestSavedModel:
    """What was saved brings its own weights, wherever its towers started from."""

    @pytest.mark.parametrize("by", ["tag", "file"])
    def test_it_loads_where_the_files_are_not(self, by: str, street: Path, tmp_path: Path, monkeypatch: Any) -> None:
        config = STREETS
        if by == "file":
            shutil.copytree(street, tmp_path / "mine")
            config = starting_from(*(str(tmp_path / "mine" / SHIPPED[kind]) for kind in ("clip", "dino")))
        encoder = HybridDepthEncoder(config)
        encoder.save_pretrained(tmp_path / "saved")
        shutil.rmtree(tmp_path / "mine", ignore_errors=True)
        monkeypatch.setattr(own_weights, "WEIGHTS", tmp_path / "absent")
        loaded = HybridDepthEncoder.from_pretrained(tmp_path / "saved")
        for (name, value), other in zip(encoder.state_dict().items(), loaded.state_dict().values(), strict=True):
            assert torch.equal(value, other), name
        kept = {"tag": STREET, "file": "model.safetensors"}[by]
        assert (loaded.config.semantic.pretrained, loaded.config.spatial.pretrained) == (kept, kept)
        with pytest.raises((CheckpointError, ConfigError)):  # it does not start from anything else in silence
            HybridDepthEncoder(loaded.config)

    def test_no_folder_of_a_machine_is_in_its_files(self, street: Path, tmp_path: Path) -> None:
        config = starting_from(*(str(street / SHIPPED[kind]) for kind in ("clip", "dino")))
        model = HybridDepthModel(HybridDepthConfig.for_encoder(config))
        for folder in (tmp_path / "once", tmp_path / "twice"):
            model.save_pretrained(folder)
            for file in folder.iterdir():
                assert os.fsencode(str(street)) not in file.read_bytes(), file.name
            stored = json.loads((folder / "config.json").read_text())["config"]["encoder"]
            assert stored["semantic"]["pretrained"] == stored["spatial"]["pretrained"] == "model.safetensors"
            assert (folder / "README.md").read_text().count("see the card of the weights that it started from") == 2
            model = HybridDepthModel.from_pretrained(folder)

    def test_words_that_it_has_not_kept_are_refused(self, street: Path, tmp_path: Path) -> None:
        HybridDepthEncoder(STREETS).save_pretrained(tmp_path)
        encoder = HybridDepthEncoder.from_pretrained(tmp_path)
        for words in (("near", "far"), ("close", "blurry"), ("close", "slightly close")):
            with pytest.raises(ConfigError, match="words that this checkpoint's text tower has not kept"):
                encoder.set_prompts(PromptConfig(words=words))
        assert encoder.prompts is not None
        encoder.set_prompts(PromptConfig(words=("distant", "close")))
        assert encoder.prompts().isfinite().all()

    def test_words_of_another_configuration_do_not_take_the_place_of_its_own(
        self, street: Path, tmp_path: Path
    ) -> None:
        """As many words as before, whose tokens would be read off the rows of others."""
        encoder = HybridDepthEncoder(STREETS)
        encoder.save_pretrained(tmp_path)
        other = STREETS.replace(prompts=PromptConfig(words=("near", "far")))
        with pytest.raises(CheckpointError, match="holds the words of its own prompts alone"):
            HybridDepthEncoder.from_pretrained(tmp_path, config=other)
        turned = STREETS.replace(prompts=PromptConfig(words=WORDS[::-1]))
        loaded = HybridDepthEncoder.from_pretrained(tmp_path, config=turned)
        assert encoder.prompts is not None and loaded.prompts is not None
        torch.testing.assert_close(loaded.prompts(), encoder.prompts().flip(0))


class TestWhatIsTaken:
    """Which weights towers start from says nothing of how large they are."""

    @pytest.mark.parametrize("start", [STREET, "a/folder/model.safetensors"])
    def test_a_tiny_encoder_stays_one(self, start: str, tmp_path: Path) -> None:
        encoder = starting_from(start, start)
        assert HybridDepthConfig.for_encoder(encoder) == HybridDepthConfig.preset("tiny").replace(encoder=encoder)
        model = HybridDepthEncoder(encoder, pretrained=False)
        model.save_pretrained(tmp_path)
        assert fitting_recipe(str(tmp_path)) == "small"

    def test_only_public_weights_of_dino_are_frozen_for_several_frames(self) -> None:
        assert starting_from(None, True).for_matching().spatial.trainable_blocks == 0
        for start in (False, STREET, "model.safetensors"):
            assert starting_from(None, start).for_matching().spatial.trainable_blocks == "all"
