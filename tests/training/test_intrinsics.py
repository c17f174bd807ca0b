"""Intrinsics that are learned in the fine stage: towards the truth, exactly resumed, and only where turns tell them."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, default_collate

from hybrid_encoder import ConfigError, HybridDepthModel
from hybrid_encoder.data.frames import Frames
from hybrid_encoder.data.sequences import SourceSequences, SyntheticSequences
from hybrid_encoder.data.sources.rendered import RenderedSource
from hybrid_encoder.data.synthetic.drive import SyntheticDrive
from hybrid_encoder.geometry.alignment import follow_intrinsics, refine_pose
from hybrid_encoder.geometry.camera import depth_to_disparity
from hybrid_encoder.geometry.pose import pose_matrix
from hybrid_encoder.models.intrinsics import LearnedIntrinsics
from hybrid_encoder.training.calibration import (
    Calibration,
    calibrations,
    camera_starts,
    learned_intrinsics,
    read_calibrations,
    rotation_tolerance,
)
from hybrid_encoder.training.fine import fine_model, fine_stage, train_fine
from hybrid_encoder.training.fine_networks import FinePrediction
from hybrid_encoder.training.recipes import FINE
from hybrid_encoder.training.view_synthesis import FineStage

SIZE = (64, 208)
SMALL = dataclasses.replace(FINE["small"], size=SIZE, steps=4, intrinsics="learn", intrinsics_lr=10.0)


def _recording(seeds: range, turning: float, factor: float = 1.0, frames: int = 4) -> SourceSequences:
    """Drives by one camera whose focal length is said to be ``factor`` times what it is."""
    sources = []
    for seed in seeds:
        source = RenderedSource(list(SyntheticDrive(seed, frames, *SIZE, turning=turning)), f"drive {seed}")
        source.camera, source.K = "the camera", np.array(source.K)
        source.K[:2, :2] *= factor
        sources.append(source)
    return SourceSequences(sources, SIZE)


class TrueDepth(FineStage):
    """A stage whose network has finished learning: it knows the depth of every item, and nothing of the motion."""

    def __init__(self, items: SourceSequences) -> None:
        model = fine_model("tiny", SMALL, pretrained=False)
        assert isinstance(model, HybridDepthModel)
        intrinsics = LearnedIntrinsics(items.cameras)
        super().__init__(model, torch.nn.Linear(1, 1), levels=(1, 2), refine=4, intrinsics=intrinsics)
        self.truth = {items[i].name: torch.from_numpy(items.depth(i)) for i in range(len(items))}

    def predict(self, batch: Frames) -> FinePrediction:
        depth = torch.stack([self.truth[name] for name in batch.name])
        low, high = self.model.config.min_depth, self.model.config.max_depth
        depth = torch.where(depth > 0, depth, high)
        start, unit = depth_to_disparity(low, low, high), 1 / low - 1 / high
        disparities = {0: start - (1 / low - 1 / depth) / unit}
        assert self.intrinsics is not None
        K = self.intrinsics(batch.camera, batch.K, batch.mirrored)  # type: ignore[arg-type]  # tensors in a batch
        still = torch.eye(4).expand(len(depth), len(self.offsets), 4, 4)
        motions = self.refined(batch.images, self.finest_depth(disparities, SIZE), K, still)
        return FinePrediction(None, disparities, still, motions, K)  # type: ignore[arg-type]


def _all(items: SourceSequences) -> Frames:
    batch: Frames = default_collate([items[i] for i in range(len(items))])
    return batch


# -- what is learned ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_a_wrong_focal_length_goes_to_the_true_one_where_the_camera_turns(factor: float) -> None:
    items = _recording(range(4), 4.0, factor)
    stage, batch = TrueDepth(items), _all(items)
    assert stage.intrinsics is not None
    optimizer = torch.optim.Adam(stage.intrinsics.parameters(), 0.08, betas=(0.7, 0.9))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, 16)
    for _ in range(16):
        loss = stage(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    found = factor * stage.intrinsics.log_focal.exp().item()
    assert found == pytest.approx(1, abs=0.05)


def test_an_aligned_motion_follows_the_intrinsics_as_alignment_does() -> None:
    items = _recording(range(3), 4.0, frames=6)
    batch = _all(items)
    depth = torch.stack([torch.from_numpy(items.depth(i)) for i in range(len(items))])
    depth = torch.where(depth > 0, depth, 80.0)
    target, source = batch.images[:, 0], batch.images[:, 1]
    poses = [
        [torch.from_numpy(items.sources[item.source].world_T_cam(f)) for f in (item.neighbours[0], item.frame)]
        for item in items.items
    ]
    true = torch.stack([torch.linalg.inv(source_pose) @ target_pose for source_pose, target_pose in poses])

    def scaled(log_focal: Tensor) -> Tensor:
        factor, one = log_focal.exp(), torch.ones(())
        zoom = torch.stack([torch.stack([factor, one, one]), torch.stack([one, factor, one]), torch.ones(3)])
        return batch.K * zoom

    def aligned(change: float, start: Tensor) -> Tensor:
        return refine_pose(target, source, depth, scaled(torch.tensor(change)), start, 30)

    best, step = aligned(0.0, true), 0.02
    measured = (aligned(step, best) - aligned(-step, best))[:, 0, 2] / (2 * step)
    log_focal = torch.zeros((), requires_grad=True)
    followed = follow_intrinsics(target, source, depth, scaled(log_focal), best)
    torch.testing.assert_close(followed.detach(), best, atol=1e-6, rtol=0)
    slopes = torch.stack([torch.autograd.grad(yaw, log_focal, retain_graph=True)[0] for yaw in followed[:, 0, 2]])
    # A longer focal length needs less rotation for the same flow. Gauss-Newton's matrix is not the whole curvature.
    assert torch.corrcoef(torch.stack([slopes, measured]))[0, 1] > 0.95
    assert (slopes - measured).abs().median() < 0.3 * measured.abs().median()


# -- what is said about it ---------------------------------------------------------------------------------


def test_turns_tell_the_focal_length_and_a_straight_road_does_not() -> None:
    for turning, told in ((4.0, True), (0.0, False)):
        items = _recording(range(4), turning)
        (found,) = calibrations(TrueDepth(items).train(), items)
        assert found.told is told, found.why
        assert ("NOT told" in str(found)) is not told
        assert (found.fx, found.fy, found.cx, found.cy) == pytest.approx(found.start)
        if not told:
            assert "give the intrinsics or the field of view" in found.why


def test_a_focal_length_that_fits_no_better_than_others_is_not_told_whatever_the_turns() -> None:
    items = _recording(range(4), 4.0, factor=1.6)  # another focal length explains these turns better
    (found,) = calibrations(TrueDepth(items), items)
    assert not found.told and "15 % shorter" in found.why


def test_the_tolerance_of_a_rotation_is_that_of_gordon() -> None:
    K = torch.tensor([[185.0, 0, 160], [0, 185.0, 48], [0, 0, 1]])
    turns = torch.tensor([[0.0, 0.05, 0.0], [0.05, 0.0, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    found = rotation_tolerance(K, pose_matrix(turns, torch.zeros(4, 3)), (96, 320))
    assert found[0].item() == pytest.approx(185 / (320**2 * math.sin(0.05)), rel=1e-4)  # half a pixel
    assert found[1].item() == pytest.approx(185 / (96**2 * math.sin(0.05)), rel=1e-4)
    assert torch.isinf(found[2:]).all(), "a roll says nothing about the focal length"


# -- a whole training --------------------------------------------------------------------------------------


def test_a_stopped_run_is_resumed_to_the_last_bit_and_its_cameras_are_written_down(tmp_path: Path) -> None:
    drives = [RenderedSource(list(SyntheticDrive(seed, 5, 64, 416, turning=4.0)), f"drive {seed}") for seed in (0, 1)]
    items = SourceSequences(drives, SIZE, augment=True)
    stages = []
    for name in ("whole", "parts"):
        if name == "parts":
            (tmp_path / "parts" / "checkpoints").mkdir(parents=True)
            for part in ("checkpoints/step_00000002", "run.json"):
                (tmp_path / "whole" / part).rename(tmp_path / "parts" / part)
        torch.manual_seed(0)
        model = fine_model("tiny", SMALL, pretrained=False)
        folder = tmp_path / name
        final = train_fine(model, items, folder, SMALL, save_every=2, workers=0, cpu=True, resume=name == "parts")
        assert final is not None
        stages.append((model.state_dict(), read_calibrations(final)))
    (weights, found), (resumed, after) = stages
    for name, value in weights.items():
        assert torch.equal(value, resumed[name]), name
    assert found == after and all(isinstance(one, Calibration) for one in found)
    raw = json.loads((tmp_path / "parts" / "final" / "intrinsics.json").read_text())
    assert [one["name"] for one in raw] == ["drive 0", "drive 1"]
    K = np.array(drives[0].K)
    for one in raw:
        assert one["size"] == [64, 416], "of the images as they were recorded"
        assert one["start"] == pytest.approx([K[0, 0], K[1, 1], K[0, 2], K[1, 2]])
        assert one["fx"] != one["start"][0] and one["fx"] == pytest.approx(one["start"][0], rel=0.2)
        assert one["fy"] / one["fx"] == pytest.approx(1), "square pixels, though the training squeezes them"


def test_only_data_that_numbers_its_cameras_and_moves_can_teach_them(tmp_path: Path) -> None:
    items, others = (
        SyntheticSequences([list(SyntheticDrive(seed, 3, *SIZE)) for seed in seeds]) for seeds in ((0, 1), (2,))
    )
    assert [start.name for start in camera_starts(Subset(items, [1]))] == items.cameras == ["drive 0", "drive 1"]
    assert learned_intrinsics(items, 400).wait == 100
    with pytest.raises(ConfigError, match="ConcatDataset, which does not number its cameras"):
        learned_intrinsics(ConcatDataset([items, others]), 400)
    model = fine_model("tiny", SMALL, pretrained=False)
    with pytest.raises(ConfigError, match="moving camera"):
        fine_stage(model, dataclasses.replace(SMALL, stereo="only"), intrinsics=LearnedIntrinsics(["one"]))
    with pytest.raises(ConfigError, match="give LearnedIntrinsics"):
        fine_stage(model, SMALL)
