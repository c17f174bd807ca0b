"""The right view in the fine stage: where it stands, that depth comes out in metres, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from hybrid_encoder import HybridDepthConfig, HybridDepthModel, InputError
from hybrid_encoder.data import Frames, KittiSequences, SyntheticDrive, SyntheticSequences
from hybrid_encoder.geometry.camera import warp
from hybrid_encoder.losses.photometric import reprojection_loss
from hybrid_encoder.models.encoder import HybridFeatures
from hybrid_encoder.training.fine import collate_frames, fine_model, fine_stage, train_fine
from hybrid_encoder.training.recipes import STEREO_START, FineRecipe
from hybrid_encoder.training.view_synthesis import FineStage

SIZE = (64, 192)
BASELINE = 0.5
DRIVES = [SyntheticDrive(seed, 3, *SIZE, baseline=BASELINE) for seed in (3, 4)]
RECIPE = FineRecipe(1e-3, 0.01, 2, steps=2, pose="test_resnet", pose_channels=16, scales=(0,), size=(48, 96))


class Truth(nn.Module):
    """Stands in for a model: the true depth of the frames of a batch, times a factor."""

    config = HybridDepthConfig.preset("tiny")
    to_depth = HybridDepthModel.to_depth
    spatial = prompts = None

    def __init__(self, depth: Tensor, factor: float = 1.0) -> None:
        super().__init__()
        self.depth = depth * factor

    @property
    def encoder(self) -> Truth:
        return self

    def forward_features(self, images: Tensor) -> HybridFeatures:
        return HybridFeatures([self.depth], [], None, None, None)

    def decoder(self, maps: list[Tensor], size: tuple[int, int]) -> dict[int, Tensor]:
        low, high = 1 / self.config.max_depth, 1 / self.config.min_depth
        return {0: (1 / maps[0] - low) / (high - low)}


def batch_of(items: SyntheticSequences, mirrored: bool) -> tuple[Frames, Tensor]:
    """All items, mirrored or not, and their true depth."""
    rows, depths = [], []
    for index in range(len(items)):
        item = items[index]
        while item.mirrored != mirrored:
            item = items[index]
        depth = torch.from_numpy(items.sources[items.items[index].source].drive[items.items[index].frame].depth)  # type: ignore[attr-defined]
        rows.append(item)
        depths.append(depth.flip(-1) if mirrored else depth)
    batch: Frames = default_collate(rows)
    return batch, torch.stack(depths)


def error(batch: Frames, depth: Tensor, factor: float = 1.0, **changes: Any) -> float:
    stage = FineStage(Truth(depth, factor), None, (), automask=False, stereo=True)  # type: ignore[arg-type]
    return float(stage(batch._replace(**changes))["reprojection"])


@pytest.mark.parametrize("mirrored", [False, True])
def test_true_depth_in_metres_explains_the_right_view_and_nothing_else_does(mirrored: bool) -> None:
    items = SyntheticSequences(DRIVES, (), augment="flip", stereo=True)
    assert len(items) == 6 and items.offsets == ()
    batch, depth = batch_of(items, mirrored)
    # In a mirrored pair the second camera stands on the left.
    torch.testing.assert_close(batch.baseline, torch.full((6,), -BASELINE if mirrored else BASELINE).double())
    found = error(batch, depth)
    stage = FineStage(Truth(depth), None, (), automask=False, stereo=True)  # type: ignore[arg-type]
    assert found < 0.6 * float(stage(batch)["identity"])
    for factor in (0.5, 0.8, 1.25, 2.0):
        assert error(batch, depth, factor) > 1.2 * found, f"depth is in metres: {factor} times as far is wrong"
    assert error(batch, depth, baseline=-batch.baseline) > 2 * found
    # Twice the baseline and twice the depth are the same view.
    assert error(batch, depth, 2.0, baseline=2 * batch.baseline) == pytest.approx(found, rel=1e-3)


def test_the_right_view_is_the_last_source_and_its_way_is_not_predicted() -> None:
    items = SyntheticSequences(DRIVES, (-1, 1), stereo=True)
    batch: Frames = collate_frames([items[0], items[1]], stereo=True)
    assert batch.images.shape[1] == 4 and batch.baseline.dtype == torch.float32  # type: ignore[attr-defined]
    torch.manual_seed(0)
    recipe = dataclasses.replace(RECIPE, stereo="add", size=SIZE)
    stage = fine_stage(fine_model("tiny", recipe, pretrained=False), recipe).eval()
    with torch.no_grad():
        prediction = stage.predict(batch)
    assert prediction.predicted.shape == (2, 2, 4, 4) and prediction.motions.shape == (2, 3, 4, 4)
    assert torch.equal(prediction.motions[:, :2], prediction.predicted)
    way = torch.eye(4)
    way[0, 3] = -BASELINE
    assert torch.equal(prediction.motions[:, 2], way.expand(2, 4, 4))
    # The loss is the least error over all three, and the right view counts.
    depth = stage.finest_depth(prediction.disparities, SIZE)
    expected = reprojection_loss(batch.images[:, 0], batch.images[:, 1:], depth, batch.K, prediction.motions).error
    with torch.no_grad():
        torch.testing.assert_close(stage(batch)["reprojection"], expected.mean())
    warped, _ = warp(batch.images[:, 3], depth, batch.K, way.expand(2, 4, 4))
    assert (warped - batch.images[:, 3]).abs().mean() > 0.01


def test_depth_keeps_its_metres_where_motion_is_aligned() -> None:
    items = SyntheticSequences(DRIVES, (-1, 1), stereo=True)
    batch = collate_frames([items[0], items[1]], stereo=True)
    recipe = dataclasses.replace(RECIPE, refine=2, levels=(0, 1), size=SIZE)
    depths = {}
    ways: tuple[Literal["no", "add"], ...] = ("no", "add")
    for stereo in ways:
        torch.manual_seed(0)
        chosen = dataclasses.replace(recipe, stereo=stereo)
        stage = fine_stage(fine_model("tiny", chosen, pretrained=False), chosen).eval()
        given = (
            batch if stereo == "add" else batch._replace(images=batch.images[:, :3], augmented=batch.augmented[:, :3])
        )
        with torch.no_grad():
            prediction = stage.predict(given)
            assert stage(given)["motion"].isfinite() and (prediction.motions[:, :2] != prediction.predicted).any()
            own = stage.model.to_depth(stage.model(batch.images[:, 0]))
        depths[stereo] = stage.finest_depth(prediction.disparities, SIZE)
    torch.testing.assert_close(depths["add"], own, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(depths["no"].reciprocal().mean((-2, -1)), torch.ones(2, 1))


@pytest.mark.parametrize("stereo", ["add", "only"])
def test_a_run_with_the_right_view_gives_metres(tmp_path: Path, stereo: Literal["add", "only"]) -> None:
    drives = [list(SyntheticDrive(seed, 4, 48, 96, baseline=BASELINE)) for seed in (0, 1)]
    recipe = dataclasses.replace(RECIPE, stereo=stereo)
    items = SyntheticSequences(drives, recipe.neighbours, augment=True, stereo=True)
    assert len(items) == (4 if stereo == "add" else 8)
    model = fine_model("tiny", recipe, pretrained=False)
    before = [p.detach().clone() for p in model.parameters()]
    done = train_fine(model, items, tmp_path, recipe, cpu=True)
    assert any(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    loaded = HybridDepthModel.from_pretrained(done)  # type: ignore[arg-type]
    assert loaded.config.metric and (loaded.config.min_depth, loaded.config.max_depth) == (0.1, 100.0)
    assert loaded.infer(torch.rand(3, 48, 96)).depth_m is not None
    # Without motion no network for it is trained or saved.
    assert (tmp_path / "pose.safetensors").exists() == (stereo == "add")


def test_metres_need_a_baseline_in_every_item() -> None:
    recipe = dataclasses.replace(RECIPE, stereo="only")
    with pytest.raises(InputError, match=r"drive 0 has no right view; leave stereo out"):
        SyntheticSequences([SyntheticDrive(0, 3)], (), stereo=True)
    mixed = [list(SyntheticDrive(0, 3, baseline=0.5)), list(SyntheticDrive(1, 3))]
    with pytest.raises(InputError, match=r"drive 1 has no right view"):
        SyntheticSequences(mixed, (-1, 1), stereo=True)
    item = SyntheticSequences(DRIVES, (), stereo=True)[0]
    for wrong in (0.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"drive 0, frame 0 has the baseline .* metres other than 0 are needed"):
            collate_frames([item, item._replace(baseline=wrong)][::-1], stereo=True)
    stage = fine_stage(fine_model("tiny", recipe, pretrained=False), recipe)
    assert stage.motion_network is None and [g["name"] for g in stage.parameter_groups(1e-3)][-1] != "pose"
    video = SyntheticSequences(DRIVES, (-1, 1))
    with pytest.raises(
        InputError, match=r"\(B, 2, 3, H, W\) is needed, the target and its neighbours at \(\), then the"
    ):
        stage(collate_frames([video[0]]))


def test_an_untrained_decoder_starts_at_a_distance_that_the_right_view_can_show() -> None:
    recipe = dataclasses.replace(RECIPE, start_depth=0.6).with_stereo("only")
    assert recipe.start_depth == STEREO_START and recipe.metric and recipe.neighbours == ()
    assert RECIPE.with_stereo("add").start_depth is None and RECIPE.with_stereo("add").neighbours == (-1, 1)
    assert not RECIPE.metric


@pytest.mark.real_data
@pytest.mark.parametrize("camera", [2, 3])
def test_lidar_in_metres_explains_the_other_camera_of_kitti(data: Path, camera: int) -> None:
    """At lidar points; camera 3 has its second view on the left."""
    items = KittiSequences(data / "kitti_mini", (192, 640), (), cameras=(camera,), stereo=True)
    errors: dict[float, list[float]] = {}
    for index in range(len(items)):
        lidar = items.depth(index)
        if lidar is None:
            continue
        item = items[index]
        rows, columns = np.nonzero(lidar[0])
        places = (rows * 192 // lidar.shape[1], columns * 640 // lidar.shape[2])
        depth = torch.ones(1, 1, 192, 640)
        depth[0, 0, places[0], places[1]] = torch.from_numpy(lidar[0, rows, columns])
        for factor in (1.0, -1.0, 0.9, 1.1, 0.0):
            way = torch.eye(4)[None]
            way[:, 0, 3] = -item.baseline * factor
            found = (warp(item.images[None, 1], depth, item.K[None], way)[0] - item.images[:1]).abs().mean(1)
            errors.setdefault(factor, []).append(float(found[0, places[0], places[1]].mean()))
    means = {factor: np.mean(found) for factor, found in errors.items()}
    print(f"camera {camera}, baseline {items[0].baseline:.4f} m: {means}")
    assert len(errors[1.0]) >= 4 and abs(items[0].baseline) == pytest.approx(0.5327, abs=1e-3)
    assert means[1.0] < 0.8 * min(value for factor, value in means.items() if factor != 1.0)
