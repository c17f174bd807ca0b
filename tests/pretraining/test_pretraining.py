"""Small foundation models: what they learn from, that they learn, and that towers start from what was saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from hybrid_encoder import HybridDepthEncoder, HybridEncoderConfig
from hybrid_encoder.config import DEPTH_WORDS, PromptConfig
from hybrid_encoder.data.street import StreetFrame, render_streets
from hybrid_encoder.data.street.captions import KINDS, distance_word
from hybrid_encoder.errors import CheckpointError, ConfigError, InputError
from hybrid_encoder.language.prompts import DepthPrompts
from hybrid_encoder.pretraining import (
    CLIP,
    DINO,
    CaptionedRegions,
    ClipStage,
    DinoStage,
    MultiCrop,
    collate_captions,
    collate_views,
    pretrain_clip,
    pretrain_dino,
    save_clip,
    save_dino,
    shuffled_captions,
    vocabulary_tokens,
)
from hybrid_encoder.pretraining.clip import tokens_of
from hybrid_encoder.pretraining.dino import encode, hidden_patches
from hybrid_encoder.towers.own_weights import load_own
from hybrid_encoder.towers.semantic import build_clip

TINY = HybridEncoderConfig.preset("tiny")
SIZE = (64, 128)
Drives = Sequence[Sequence[StreetFrame]]


@pytest.fixture(scope="module")
def drives() -> Drives:
    return render_streets(range(3), 2, SIZE)


@pytest.fixture(scope="module")
def held_out() -> Drives:
    return render_streets(range(1_000_000, 1_000_002), 1, SIZE)


class TestRegions:
    def test_captions_are_true_of_their_boxes(self, drives: Drives) -> None:
        items = CaptionedRegions(drives, regions=40, crops=2, seed=0)
        frame, item = items.frames[1], items[1]
        assert item.boxes.shape == (40, 4) and item.crops.shape == (2, 3, 64, 64) and len(item.captions) == 42
        told = 0
        for (left, top, right, bottom), caption in zip(item.boxes.long().tolist(), item.captions, strict=False):
            assert 0 <= left < right <= SIZE[1] and 0 <= top < bottom <= SIZE[0]
            if caption.startswith("This patch"):
                depth = np.median(frame.depth[0, top:bottom, left:right])
                assert caption == f"This patch appears to be {distance_word(float(depth))}"
                told += 1
        assert 0 < told < 40

    def test_every_word_of_a_caption_is_known(self, drives: Drives) -> None:
        known = set(vocabulary_tokens())
        items = CaptionedRegions(drives, regions=30)
        assert all(
            known.issuperset(tokens_of(caption))
            for item in map(items.__getitem__, range(6))
            for caption in item.captions
        )

    def test_equal_captions_are_one(self, drives: Drives) -> None:
        items = CaptionedRegions(drives, regions=20, crops=1, seed=0)
        batch = collate_captions([items[0], items[1]])
        told = [*items[0].captions[:20], *items[1].captions[:20], items[0].captions[20], items[1].captions[20]]
        assert [batch.captions[place] for place in batch.which.tolist()] == told
        assert len(set(batch.captions)) == len(batch.captions) < len(told)
        assert batch.boxes[:, 0].tolist() == [0.0] * 20 + [1.0] * 20
        shuffled = shuffled_captions(batch, torch.Generator().manual_seed(0))
        assert sorted(shuffled.which.tolist()) == sorted(batch.which.tolist())
        assert shuffled.which.tolist() != batch.which.tolist()

    def test_nothing_to_draw_from_is_refused(self, drives: Drives) -> None:
        with pytest.raises(InputError, match="there are no frames"):
            CaptionedRegions([])
        with pytest.raises(InputError, match="crops is 0"):
            CaptionedRegions(drives, crops=0)


class TestClip:
    def test_a_few_steps_lower_the_loss_on_the_same_regions(self, drives: Drives) -> None:
        torch.manual_seed(0)
        stage = ClipStage(TINY.semantic)
        items = CaptionedRegions(drives, seed=0)
        batch = collate_captions([items[index] for index in range(4)])
        optimizer = torch.optim.AdamW(stage.parameter_groups(2e-3, 0.1))
        losses = []
        for _ in range(8):
            optimizer.zero_grad()
            loss = stage(batch)["loss"]
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0] - 0.5
        assert all(p.grad is not None for name, p in stage.named_parameters() if "positional" not in name)

    def test_texts_are_encoded_as_open_clip_does(self) -> None:
        import open_clip

        torch.manual_seed(0)
        stage = ClipStage(TINY.semantic).eval()
        texts = ["a red car close on the left", "the sky"]
        with torch.no_grad():
            expected = stage.clip.encode_text(open_clip.tokenize(texts))
            torch.testing.assert_close(stage.encode_texts(texts), expected, atol=1e-5, rtol=1e-5)

    def test_a_tower_starts_from_what_was_saved(self, drives: Drives, held_out: Drives, tmp_path: Path) -> None:
        recipe = dataclasses.replace(CLIP, steps=2, batch_size=2, size=SIZE)
        file = pretrain_clip(TINY.semantic, drives, held_out, tmp_path, recipe, cpu=True, workers=0)
        assert file is not None and file.stat().st_size < 4e6
        card = (file.parent / "README.md").read_text()
        assert "apache-2.0" in card and "words majority" in card and "order, untrained" in card
        semantic = dataclasses.replace(TINY.semantic, pretrained=str(file))
        prompts = PromptConfig(words=DEPTH_WORDS)
        one, two = (HybridDepthEncoder(TINY.replace(semantic=semantic, prompts=prompts)).eval() for _ in range(2))
        assert one.semantic is not None and two.semantic is not None
        image = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            for a, b in zip(one.semantic(image), two.semantic(image), strict=True):
                assert torch.equal(a, b)
            assert one.prompts is not None and two.prompts is not None
            assert torch.equal(one.prompts(), two.prompts()) and one.prompts().isfinite().all()
        random = HybridDepthEncoder(TINY.replace(semantic=semantic, prompts=prompts), pretrained=False)
        assert random.prompts is not None
        assert not torch.allclose(random.prompts(), one.prompts(), atol=1e-3)

    def test_words_that_it_has_never_seen_are_refused(self, tmp_path: Path) -> None:
        file = save_clip(ClipStage(TINY.semantic), tmp_path, "Nothing was trained.", {"order": 0.5})
        clip = build_clip(dataclasses.replace(TINY.semantic, pretrained=str(file)), pretrained=True)
        DepthPrompts(clip, PromptConfig(num_tokens=3))
        with pytest.raises(ConfigError, match=r"'This patch appears to be blurry' has words .* never seen"):
            DepthPrompts(clip, PromptConfig(words=("close", "blurry")))

    def test_files_of_other_models_are_refused(self, tmp_path: Path) -> None:
        file = save_clip(ClipStage(TINY.semantic), tmp_path, "Nothing was trained.", {"order": 0.5})
        wide = {**TINY.semantic.overrides, "embed_dim": 64}
        with pytest.raises(CheckpointError, match=r"has \S+ as .*, and the model needs"):
            build_clip(dataclasses.replace(TINY.semantic, overrides=wide, pretrained=str(file)), pretrained=True)
        with pytest.raises(CheckpointError, match="holds a clip; a dino is needed"):
            load_own(torch.nn.Linear(2, 2), file, "dino")

    def test_a_transformer_is_refused(self) -> None:
        vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
        overrides = {**TINY.semantic.overrides, "vision_cfg": vision}
        with pytest.raises(ConfigError, match="a ResNet CLIP is needed"):
            ClipStage(dataclasses.replace(TINY.semantic, name="ViT-B-32-quickgelu", overrides=overrides))


class TestDino:
    def test_the_teacher_follows_by_its_momentum(self) -> None:
        torch.manual_seed(0)
        stage = DinoStage(TINY.spatial, prototypes=16, momentum=0.9)
        own, other = stage.student.model.blocks[0].mlp.fc1.weight, stage.teacher.model.blocks[0].mlp.fc1.weight
        assert torch.equal(own, other) and not other.requires_grad
        before = other.clone()
        with torch.no_grad():
            own.add_(1.0)
        stage.follow()
        torch.testing.assert_close(other, before + 0.1)

    def test_a_step_trains_the_student_alone_and_moves_the_centers(self, drives: Drives) -> None:
        torch.manual_seed(0)
        stage = DinoStage(TINY.spatial, prototypes=16)
        items = MultiCrop([frame.image for drive in drives for frame in drive], 56, 28, num_small=2)
        batch = collate_views([items[0], items[1]])
        assert batch.large.shape == (2, 2, 3, 56, 56) and batch.small.shape == (2, 2, 3, 28, 28)
        losses = stage(batch)
        losses["loss"].backward()
        assert float(losses["patches"]) > 0 and float(losses["views"]) > 0
        trained = {name.split(".")[0] for name, p in stage.named_parameters() if p.grad is not None}
        assert trained == {"student", "student_head", "hidden"}
        assert stage.class_center.abs().sum() > 0 and stage.patch_center.abs().sum() > 0

    def test_hidden_patches_are_not_seen(self) -> None:
        torch.manual_seed(0)
        tower = DinoStage(TINY.spatial, prototypes=16).student.eval()
        one, two = torch.rand(2, 1, 3, 56, 56)
        half = torch.arange(16)[None] < 8
        mixed = torch.where((torch.arange(56) < 28)[:, None], two, one)  # other rows above, where patches are hidden
        with torch.no_grad(), hidden_patches(tower, half, torch.zeros(96)):
            for a, b in zip(encode(tower, one), encode(tower, mixed), strict=True):
                assert torch.equal(a, b)
        with torch.no_grad():
            assert not torch.equal(encode(tower, one)[0], encode(tower, mixed)[0])  # and seen again after it

    def test_a_tower_starts_from_what_was_saved(self, drives: Drives, held_out: Drives, tmp_path: Path) -> None:
        images = [frame.image for drive in drives for frame in drive]
        recipe = dataclasses.replace(DINO, steps=4, batch_size=3, large=56, small=28, num_small=1, prototypes=32)
        file = pretrain_dino(TINY.spatial, images, held_out, tmp_path, recipe, cpu=True, workers=0)
        assert file is not None and file.stat().st_size < 4e6
        assert "kinds majority" in (file.parent / "README.md").read_text()
        spatial = dataclasses.replace(TINY.spatial, pretrained=str(file))
        one, two = (HybridDepthEncoder(TINY.replace(spatial=spatial, prompts=None, towers="spatial")) for _ in range(2))
        image = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            assert all(torch.equal(a, b) for a, b in zip(one.eval()(image), two.eval()(image), strict=True))

    def test_the_teacher_is_what_is_saved(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        stage = DinoStage(TINY.spatial, prototypes=16)
        with torch.no_grad():
            stage.student.model.blocks[0].mlp.fc1.weight.add_(1.0)
        file = save_dino(stage, tmp_path, "Nothing was trained.", {"kinds": 0.5})
        fresh = DinoStage(TINY.spatial, prototypes=16).teacher.model
        load_own(fresh, file, "dino")
        expected = stage.teacher.model.blocks[0].mlp.fc1.weight
        torch.testing.assert_close(fresh.blocks[0].mlp.fc1.weight, expected, atol=1e-3, rtol=1e-3)

    @pytest.mark.parametrize(
        ("changes", "says"),
        [({"momentum": 1.5}, "momentum is 1.5"), ({"patch_weight": -1.0}, "patch_weight is -1.0")],
    )
    def test_numbers_out_of_range_are_refused(self, changes: dict[str, float], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            DinoStage(TINY.spatial, **changes)  # type: ignore[arg-type]

    def test_a_file_that_is_not_there_is_refused(self) -> None:
        spatial = dataclasses.replace(TINY.spatial, pretrained="absent.safetensors")
        with pytest.raises(ConfigError, match="no file of weights that pretrain_dino has written"):
            HybridDepthEncoder(TINY.replace(spatial=spatial, prompts=None, towers="spatial"))


def test_kinds_that_are_asked_for_are_those_of_the_frames(drives: Drives) -> None:
    assert max(int(frame.kind.max()) for drive in drives for frame in drive) < len(KINDS)
