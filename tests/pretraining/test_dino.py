"""The small DINO: that it learns, what is saved of it, and what starts from that."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from hybrid_encoder import HybridDepthEncoder, HybridEncoderConfig
from hybrid_encoder.data.street import StreetFrame
from hybrid_encoder.data.street.captions import KINDS
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.pretraining import (
    DINO,
    DinoStage,
    MultiCrop,
    collate_views,
    pretrain_dino,
    save_dino,
)
from hybrid_encoder.pretraining.dino import encode, hidden_patches
from hybrid_encoder.towers.own_weights import load_own

TINY = HybridEncoderConfig.preset("tiny")
Drives = Sequence[Sequence[StreetFrame]]


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
