"""The small DINO: that it learns, what is saved of it, and what starts from that."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder import HybridDepthEncoder, HybridEncoderConfig
from hybrid_encoder.data.street import StreetFrame
from hybrid_encoder.data.street.captions import KINDS
from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.pretraining import (
    DINO,
    DinoHead,
    DinoStage,
    MultiCrop,
    collate_views,
    measure_dino,
    pretrain_dino,
    save_dino,
)
from hybrid_encoder.pretraining.dino import encode, hidden_patches
from hybrid_encoder.pretraining.dino_measures import information
from hybrid_encoder.towers.own_weights import load_own
from hybrid_encoder.training.running import train_stage

TINY = HybridEncoderConfig.preset("tiny")
Drives = Sequence[Sequence[StreetFrame]]


class Shown(nn.Module):
    """A teacher's tower whose last map is the picture itself, on a grid of 16 pixels."""

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        return [F.avg_pool2d(images, 16)], images.mean((-2, -1))


class TestMeasures:
    @pytest.fixture
    def frames(self, drives: Drives) -> list[StreetFrame]:
        return [frame for drive in drives for frame in drive]

    @staticmethod
    def measured(frames: list[StreetFrame]) -> dict[str, float]:
        torch.manual_seed(0)
        stage = DinoStage(TINY.spatial, prototypes=16)
        stage.teacher, stage.teacher_head = Shown(), DinoHead(3, 16)  # type: ignore[assignment]
        return measure_dino(stage, frames)

    def test_patches_that_show_the_answer_are_read_right(self, frames: list[StreetFrame]) -> None:
        """Pictures whose colour is the kind of thing, with a depth for each kind, in patches of one kind."""
        torch.manual_seed(0)
        told = []
        for frame in frames:
            height, width = frame.depth.shape[-2:]
            coarse = torch.randint(3, (height // 16, width // 16)).repeat_interleave(16, 0).repeat_interleave(16, 1)
            depth = torch.exp(1.0 + coarse.float())[None]
            image = F.one_hot(coarse, 3).permute(2, 0, 1).float()
            valid = torch.ones(1, height, width, dtype=torch.bool)
            told.append(
                dataclasses.replace(
                    frame,
                    image=image.numpy(),
                    kind=coarse.to(torch.uint8).numpy().reshape(frame.kind.shape),
                    depth=depth.numpy(),
                    valid=valid.numpy(),
                )
            )
        found = self.measured(told)
        assert found["depth_linear"] > 0.99
        assert found["kinds"] == found["kinds_linear"] == 1.0
        assert 0.25 < found["kinds_majority"] < 0.45

    def test_grey_patches_tell_nothing(self, frames: list[StreetFrame]) -> None:
        grey = [dataclasses.replace(frame, image=np.full_like(frame.image, 0.5)) for frame in frames]
        found = self.measured(grey)
        assert 0 < found["kinds_linear"] <= found["kinds_majority"] < 1
        assert abs(found["depth_linear"]) < 0.1 and found["information"] < 1e-3

    def test_a_single_frame_is_refused(self, frames: list[StreetFrame]) -> None:
        with pytest.raises(InputError, match="there are 1 frames; two at least"):
            measure_dino(DinoStage(TINY.spatial, prototypes=16), frames[:1])

    def test_a_collapsed_teacher_is_refused(
        self, drives: Drives, held_out: Drives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            DinoHead, "forward", lambda self, x: self.prototypes.sum() + 0 * x[..., :1].expand(*x.shape[:-1], 32)
        )
        images = [frame.image for drive in drives for frame in drive]
        recipe = dataclasses.replace(
            DINO, steps=2, batch_size=3, large=(56, 56), small=(28, 28), num_small=1, prototypes=32
        )
        with pytest.raises(ConfigError, match="the teacher has collapsed"):
            pretrain_dino(TINY.spatial, images, held_out, tmp_path, recipe, cpu=True, workers=0)
        assert not (tmp_path / "final").exists()


class TestDino:
    def test_the_teacher_follows_by_its_momentum(self) -> None:
        torch.manual_seed(0)
        stage = DinoStage(TINY.spatial, prototypes=16, momentum=0.9)
        own, other = stage.student.model.blocks[0].mlp.fc1.weight, stage.teacher.model.blocks[0].mlp.fc1.weight
        assert torch.equal(own, other) and not other.requires_grad
        before = other.clone()
        with torch.no_grad():
            own.add_(1.0)
        stage.begin_step()
        torch.testing.assert_close(other, before + 0.1)

    def test_the_teacher_moves_once_in_a_step_of_several_batches(self, drives: Drives, tmp_path: Path) -> None:
        moved: list[int] = []

        class Counting(DinoStage):
            def begin_step(self) -> None:
                super().begin_step()
                moved.append(1)

        stage = Counting(TINY.spatial, prototypes=16)
        items = MultiCrop([frame.image for drive in drives for frame in drive], (28, 28), (28, 28), num_small=0)
        recipe = dataclasses.replace(DINO, steps=2, batch_size=1, accumulate=3)
        groups = [{"params": [p for p in stage.parameters() if p.requires_grad], "lr": 1e-3}]
        train_stage(stage, items, groups, recipe, tmp_path, collate=collate_views, cpu=True, workers=0)
        assert len(moved) == 2

    @pytest.mark.parametrize("targets", ["sinkhorn", "center"])
    def test_a_step_trains_the_student_alone_and_moves_the_centers(self, drives: Drives, targets: Any) -> None:
        torch.manual_seed(0)
        stage = DinoStage(TINY.spatial, prototypes=16, targets=targets)
        items = MultiCrop([frame.image for drive in drives for frame in drive], (56, 56), (28, 28), num_small=2)
        batch = collate_views([items[0], items[1]])
        assert batch.large.shape == (2, 2, 3, 56, 56) and batch.small.shape == (2, 2, 3, 28, 28)
        losses = stage(batch)
        losses["loss"].backward()
        assert float(losses["patches"]) > 0 and float(losses["views"]) > 0
        trained = {name.split(".")[0] for name, p in stage.named_parameters() if p.grad is not None}
        assert trained == {"student", "student_head", "hidden"}
        moved = targets == "center"  # nothing is taken off where prototypes are balanced
        assert (stage.class_center.abs().sum() > 0) == (stage.patch_center.abs().sum() > 0) == moved

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"large": 98}, "large is 98; it must be"),
            ({"large": (70,)}, "large is "),
            ({"small": (8, 42)}, "the shorter side of small is 8; it must be at least 14"),
            ({"targets": "mean"}, "targets is 'mean'; it must be"),
            ({"ema": 0.9}, "ema is 0.9; the teacher, which is what is saved, is an average already"),
            ({"lr_scale": {"spatial": 0.1}}, "lr_scale names 'spatial'; all of the model trains at one rate"),
        ],
    )
    def test_settings_that_do_not_fit_are_refused(self, change: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            dataclasses.replace(DINO, **change)

    def test_views_that_do_not_fit_are_refused(self) -> None:
        for large in (98, (70,), (70.5, 210), (8, 42)):
            with pytest.raises(InputError, match="with sides of 14 pixels at least"):
                MultiCrop([np.zeros((3, 64, 96), np.float32)], large)  # type: ignore[arg-type]

    def test_a_preference_of_all_patches_tells_no_less(self) -> None:
        """Balanced targets do not have it; of a collapsed teacher nothing is left."""
        torch.manual_seed(0)
        stage = DinoStage(TINY.spatial, prototypes=4)
        told = torch.eye(4).repeat(5, 1)
        preferred = 0.8 * told + torch.tensor([3.0, 0.0, 0.0, 0.0])
        for logits, expected in ((told, np.log(4)), (preferred, np.log(4)), (torch.ones(20, 4), 0.0)):
            stage.teacher_head = torch.nn.Identity()  # type: ignore[assignment]
            assert information(stage, logits) == pytest.approx(expected, abs=1e-3)

    def test_targets_of_no_name_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="targets is 'mean'; it must be one of sinkhorn, center"):
            DinoStage(TINY.spatial, prototypes=16, targets="mean")  # type: ignore[arg-type]

    def test_views_have_their_aspect_and_share_of_an_image(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of an image of columns and rows: how many of each a view shows, and that nothing is stretched."""
        torch.manual_seed(0)
        across = torch.linspace(0, 1, 200).expand(60, 200)
        down = torch.linspace(0, 1, 60)[:, None].expand(60, 200)
        items = MultiCrop([torch.stack([across, down, down])], (28, 84), (28, 28), num_small=3)
        items.large_share = (0.25, 0.25)
        monkeypatch.setattr("hybrid_encoder.pretraining.dino.recolour", lambda view: view)
        large, small, _ = items[0]
        assert large.shape == (2, 3, 28, 84) and small.shape == (3, 3, 28, 28)
        for view, wide, high in ((large[0], 90 / 199, 30 / 59), (large[1], 90 / 199, 30 / 59)):
            shown = [float(view[channel].max() - view[channel].min()) for channel in (0, 1)]
            assert shown == pytest.approx([wide, high], rel=0.05)
        shares = [float((view[0].max() - view[0].min()) * (view[1].max() - view[1].min())) for view in small]
        whole = 60 * 60 / (200 * 60)  # the largest square
        assert all(0.9 * 0.08 * whole < share < 1.1 * 0.3 * whole for share in shares)

    def test_images_may_be_bytes(self, drives: Drives) -> None:
        images = [frame.image for drive in drives for frame in drive]
        views = []
        for given in (images, [(255 * image).round().astype(np.uint8) for image in images]):
            torch.manual_seed(0)
            views.append(MultiCrop(given, (56, 56), (28, 28), num_small=1)[0][0])
        torch.testing.assert_close(*views, atol=0.02, rtol=0)
        assert views[1].max() <= 1 and views[1].std() > 0.05

    def test_class_tokens_tell_images_apart_from_the_start(self, drives: Drives) -> None:
        torch.manual_seed(0)
        images = torch.stack([torch.from_numpy(frame.image) for drive in drives for frame in drive])
        spreads = []
        for layer_scale in (1.0, None):
            tower = DinoStage(TINY.spatial, prototypes=16, layer_scale=layer_scale).teacher.eval()
            with torch.no_grad():
                spreads.append(float(F.normalize(encode(tower, images)[0], dim=1).std(0).mean()))
        assert spreads[0] > 1e-2 and spreads[1] < 1e-4

    def test_a_few_steps_lower_the_loss_on_hidden_patches(self, drives: Drives) -> None:
        torch.manual_seed(0)
        stage = DinoStage(TINY.spatial, prototypes=16, momentum=1.0)  # a teacher that stands still
        items = MultiCrop([frame.image for drive in drives for frame in drive], (56, 56), (28, 28), num_small=0)
        batch = collate_views([items[index] for index in range(4)])
        optimizer = torch.optim.AdamW([p for p in stage.parameters() if p.requires_grad], lr=2e-3)
        losses = []
        for _ in range(25):
            optimizer.zero_grad()
            torch.manual_seed(1)  # the same patches are hidden
            found = stage(batch)
            found["loss"].backward()
            optimizer.step()
            losses.append(float(found["patches"]))
        assert losses[-1] < losses[0] - 0.3

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
        recipe = dataclasses.replace(
            DINO, steps=4, batch_size=3, large=(56, 56), small=(28, 28), num_small=1, prototypes=32
        )
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
        load_own(fresh, file, "dino", TINY.spatial)
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
