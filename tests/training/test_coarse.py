"""The coarse stage on the tiny preset: what it minimises, what it learns, and the files it writes."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hybrid_encoder import ConfigError, HybridDepthEncoder, HybridEncoderConfig, PromptConfig
from hybrid_encoder.config import DEPTH_WORDS, IMAGENET_MEAN, IMAGENET_STD
from hybrid_encoder.data import PatchBatch, SyntheticDrive, SyntheticLanes, collate
from hybrid_encoder.losses import CoarsePatchLoss, patch_order_accuracy
from hybrid_encoder.training import running
from hybrid_encoder.training.coarse import CoarseStage, coarse_encoder, order_accuracy, train_coarse
from hybrid_encoder.training.recipes import COARSE, CoarseRecipe

from helpers.small_runs import recorded

SIZE = (64, 96)
RECIPE = dataclasses.replace(COARSE["small"], size=SIZE, steps=20)


@pytest.fixture(scope="module")
def lanes() -> SyntheticLanes:
    drives = [list(SyntheticDrive(seed=s, num_frames=3, height=SIZE[0], width=SIZE[1])) for s in range(4)]
    return SyntheticLanes(drives, flip=True)


@pytest.fixture
def batch(lanes: SyntheticLanes) -> PatchBatch:
    return collate([lanes[i] for i in range(0, len(lanes), 3)])


@pytest.fixture
def encoder() -> HybridDepthEncoder:
    return _encoder(RECIPE)


def _encoder(recipe: CoarseRecipe) -> HybridDepthEncoder:
    torch.manual_seed(0)
    return coarse_encoder("tiny", recipe, pretrained=False)


def _stage(encoder: HybridDepthEncoder, recipe: CoarseRecipe = RECIPE) -> CoarseStage:
    return CoarseStage(encoder, recipe.two_sided, recipe.sampling, recipe.box)


@pytest.mark.parametrize("settings", [(), (True, "cell"), (True, "box", 14.0)])
def test_the_loss_is_that_of_the_patches_on_the_encoders_features(
    encoder: HybridDepthEncoder, batch: PatchBatch, settings: tuple[Any, ...]
) -> None:
    encoder.eval()
    with torch.no_grad():
        features = encoder.forward_features(batch.images)
        assert features.prompt_embeddings is not None
        expected = CoarsePatchLoss(*settings)(
            features.fused, features.prompt_embeddings, batch.points, batch.index, SIZE
        )
        found = CoarseStage(encoder, *settings).eval()(batch)
    assert expected.ranking > 1 and expected.contrastive > 0.1, "both parts must count"
    for name, value in (("loss", expected.total), ("ranking", expected.ranking), ("contrastive", expected.contrastive)):
        torch.testing.assert_close(found[name], value, msg=name)
    assert found["order"].item() == pytest.approx(patch_order_accuracy(expected.logits))


def test_training_lowers_the_loss_and_puts_the_lanes_in_order(
    lanes: SyntheticLanes, encoder: HybridDepthEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[float] = []
    monkeypatch.setattr(running, "train", recorded(losses))
    stage, whole = _stage(encoder), [collate([lanes[i] for i in range(len(lanes))])]
    before = order_accuracy(stage, whole)
    done = train_coarse(encoder, lanes, tmp_path, RECIPE, cpu=True)
    assert len(losses) == 20 and np.mean(losses[-4:]) < 0.3 * np.mean(losses[:4])
    assert not encoder.training
    assert before < 0.6 and order_accuracy(stage.eval(), whole) > 0.75

    # ... and what it has learned is there again.
    assert done == tmp_path / "final"
    loaded = HybridDepthEncoder.from_pretrained(done)
    assert loaded.config == encoder.config and loaded.config.prompts is not None
    assert loaded.config.prompts.words == DEPTH_WORDS and len(DEPTH_WORDS) == 7
    with torch.no_grad():
        for ours, theirs in zip(encoder(whole[0].images), loaded(whole[0].images), strict=True):
            assert torch.equal(ours, theirs)
    assert "20 steps" in (done / "README.md").read_text()


def test_a_frozen_spatial_tower_does_not_change_while_the_rest_trains(lanes: SyntheticLanes, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, steps=3, freeze_spatial=True)
    encoder = _encoder(recipe)
    before = copy.deepcopy(encoder.state_dict())
    train_coarse(encoder, lanes, tmp_path, recipe, cpu=True)
    after = encoder.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert not [name for name in moved if name.startswith("spatial.")]
    for part in ("semantic.", "fusion.", "prompts."):
        mine = [name for name in after if name.startswith(part)]
        assert mine and sum(name in moved for name in mine) > 0.5 * len(mine), part
    # The same without freezing moves DINO, too: the test above can fail.
    free = _encoder(recipe)
    train_coarse(free, lanes, tmp_path / "free", dataclasses.replace(recipe, freeze_spatial=False), cpu=True)
    assert not torch.equal(free.state_dict()["spatial.model.pos_embed"], before["spatial.model.pos_embed"])


def test_order_accuracy_leaves_the_stage_as_it_was(encoder: HybridDepthEncoder, batch: PatchBatch) -> None:
    stage = _stage(encoder).train()
    before = copy.deepcopy(stage.state_dict())
    with torch.no_grad():
        logits = _stage(encoder).eval().compare(batch).logits
    stage.train()
    assert order_accuracy(stage, [batch]) == pytest.approx(patch_order_accuracy(logits))
    assert stage.training and encoder.semantic is not None and encoder.semantic.training
    assert all(torch.equal(value, before[name]) for name, value in stage.state_dict().items())
    # Lanes of several batches count alike, as if they were in one.
    few, many = (collate(items) for items in (_split(batch, 0, 1), _split(batch, 1, len(batch.images))))
    assert order_accuracy(stage, [few, many]) == pytest.approx(order_accuracy(stage, [batch]))


def _split(batch: PatchBatch, start: int, stop: int) -> list[Any]:
    from hybrid_encoder.data import OrderedPatches

    return [OrderedPatches(batch.images[i], batch.points[batch.index == i]) for i in range(start, stop)]


def test_a_batch_without_lanes_has_no_loss_and_zero_gradients(encoder: HybridDepthEncoder) -> None:
    empty = PatchBatch(torch.rand(2, 3, *SIZE), torch.zeros(0, 7, 2), torch.zeros(0, dtype=torch.long))
    losses = _stage(encoder).train()(empty)
    assert losses["loss"].item() == losses["ranking"].item() == losses["contrastive"].item() == 0
    losses["loss"].backward()
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    assert gradients and not any(g.any() for g in gradients)


def test_an_encoder_without_prompts_is_refused() -> None:
    config = HybridEncoderConfig.preset("tiny").replace(prompts=None)
    with pytest.raises(ConfigError, match="the encoder has no prompts; the coarse stage compares"):
        CoarseStage(HybridDepthEncoder(config, pretrained=False))


def test_a_preset_gets_the_normalisation_of_imagenet_and_the_words(
    encoder: HybridDepthEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert encoder.prompts is not None and encoder.prompts.tokens is None and encoder.prompts.num_prompts == 7
    assert encoder.semantic is not None and encoder.spatial is not None
    pixel = torch.rand(1, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    expected = (pixel - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    for tower in (encoder.semantic, encoder.spatial):
        torch.testing.assert_close(tower.normalise(pixel), expected)
    # The tiny preset has this normalisation anyway, the paper's does not; building the latter would take long.
    built: list[HybridEncoderConfig] = []
    monkeypatch.setattr("hybrid_encoder.training.coarse.HybridDepthEncoder", lambda c, pretrained: built.append(c))
    coarse_encoder("paper", COARSE["published"])
    paper = HybridEncoderConfig.preset("paper")
    assert paper.semantic.mean != IMAGENET_MEAN
    for ours, theirs in ((built[0].semantic, paper.semantic), (built[0].spatial, paper.spatial)):
        assert ours == dataclasses.replace(theirs, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    assert built[0].prompts == PromptConfig(words=DEPTH_WORDS)


def test_a_checkpoint_is_trained_further_and_one_without_the_words_is_refused(
    encoder: HybridDepthEncoder, tmp_path: Path, images: Tensor
) -> None:
    encoder.save_pretrained(tmp_path / "words")
    again = coarse_encoder(tmp_path / "words", RECIPE)
    assert all(torch.equal(value, encoder.state_dict()[name]) for name, value in again.state_dict().items())

    fewer = dataclasses.replace(RECIPE, words=("close", "distant"))
    changed = coarse_encoder(tmp_path / "words", fewer)
    with torch.no_grad():
        result = changed.forward_features(images)
    assert changed.config.prompts is not None and changed.config.prompts.words == ("close", "distant")
    assert result.logits is not None and result.logits[0].shape[1] == 2

    own = PromptConfig(template="{}", words=DEPTH_WORDS, decoder_input="logits", train_text=False)
    HybridDepthEncoder(encoder.config.replace(prompts=own), pretrained=False).save_pretrained(tmp_path / "own")
    kept = coarse_encoder(tmp_path / "own", dataclasses.replace(fewer, readout="joint")).config.prompts
    assert kept == dataclasses.replace(own, words=("close", "distant"), readout="joint")

    HybridDepthEncoder("tiny", pretrained=False).save_pretrained(tmp_path / "tokens")
    with pytest.raises(ConfigError, match=r"has words that .* has not kept: .* start from the whole CLIP"):
        coarse_encoder(tmp_path / "tokens", RECIPE)
