"""Validation: its numbers against the truth and evaluation, its control, and the same from any number of processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, Subset, default_collate

from hybrid_encoder import CheckpointError, HybridDepthConfig, HybridDepthModel, InputError
from hybrid_encoder.data import Frames, RenderedSource, SourceSequences, SyntheticDrive, SyntheticSequences
from hybrid_encoder.data.sequences import Item
from hybrid_encoder.evaluation.metrics import METRICS, depth_metrics
from hybrid_encoder.losses.photometric import photometric_error
from hybrid_encoder.models.intrinsics import LearnedIntrinsics
from hybrid_encoder.models.pose_network import PoseNetwork
from hybrid_encoder.training.calibration import read_calibrations
from hybrid_encoder.training.fine import fine_model, train_fine
from hybrid_encoder.training.fine_results import KeepBest
from hybrid_encoder.training.parallel import is_parallel, process_state
from hybrid_encoder.training.recipes import FineRecipe
from hybrid_encoder.training.validation import FineValidation, depth_control, depth_of
from hybrid_encoder.training.view_synthesis import FineStage

SIZE = (48, 96)
DRIVES = [SyntheticDrive(seed=seed, num_frames=4, height=SIZE[0], width=SIZE[1]) for seed in (3, 4, 5)]
ITEMS = SyntheticSequences(DRIVES)


@pytest.fixture(scope="module")
def stage() -> FineStage:
    torch.manual_seed(0)
    model = HybridDepthModel(HybridDepthConfig.preset("tiny"), pretrained=False)
    return FineStage(model, PoseNetwork("test_resnet", False, channels=16)).eval()


def test_numbers_are_those_of_the_frames_one_by_one(stage: FineStage) -> None:
    found = FineValidation(stage, ITEMS, batch_size=4)()
    losses, metrics, still = [], [], []
    for index in range(len(ITEMS)):
        batch: Frames = default_collate([ITEMS[index]])
        with torch.no_grad():
            losses.append(stage(batch))
            disparity = stage.model(batch.images[:, 0])
        truth = torch.from_numpy(ITEMS.depth(index))[None]
        depth = stage.model.to_depth(disparity)
        metrics.append(depth_metrics(depth, truth, median_scaling=True).as_dict())
        errors = [photometric_error(batch.images[:, source], batch.images[:, 0]) for source in (1, 2)]
        still.append(torch.minimum(*errors).mean().item())
    for name in METRICS:
        assert found[name] == pytest.approx(np.mean([row[name] for row in metrics]), rel=1e-4), name
    for name in ("loss", "reprojection", "moved"):
        assert found[name] == pytest.approx(np.mean([float(row[name]) for row in losses]), rel=1e-4), name
    assert found["reprojection_control"] == pytest.approx(np.mean(still), rel=1e-5)
    assert found["score"] == found["abs_rel"] and next(iter(found)) == "score"


def test_the_same_weights_give_the_same_numbers(stage: FineStage) -> None:
    validation = FineValidation(stage, ITEMS, batch_size=4)
    before = torch.get_rng_state()
    first = validation()
    assert validation() == first == FineValidation(stage, ITEMS, batch_size=4, workers=1)()
    assert torch.equal(before, torch.get_rng_state()), "training draws from the same random numbers"


class Truth(nn.Module):
    """Stands in for a model: finds the frame that it sees and returns its depth, times a factor."""

    config = HybridDepthConfig.preset("tiny")
    to_depth = HybridDepthModel.to_depth

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.frames = [frame for drive in DRIVES for frame in drive]
        self.factor = factor

    def __call__(self, image: Tensor) -> Tensor:
        (frame,) = [f for f in self.frames if torch.equal(torch.from_numpy(f.image), image)]
        low, high = 1 / self.config.max_depth, 1 / self.config.min_depth
        return (1 / (torch.from_numpy(frame.depth) * self.factor) - low) / (high - low)


@pytest.mark.parametrize(("scaled", "factor", "expected"), [(True, 0.5, 0.0), (False, 0.5, 0.5), (False, 1.0, 0.0)])
def test_the_truth_has_no_error_at_its_scale(stage: FineStage, scaled: bool, factor: float, expected: float) -> None:
    truth = Truth(factor)

    class Told(FineStage):
        def predict(self, batch: Frames) -> Any:
            told = torch.stack([truth(image) for image in batch.images[:, 0]])
            return super().predict(batch)._replace(disparities={0: told})

    told = Told(stage.model, stage.pose).eval()
    found = FineValidation(told, ITEMS, median_scaling=scaled)()
    assert found["abs_rel"] == pytest.approx(expected, abs=2e-3)
    assert (found["abs_rel"] < found["abs_rel_control"]) == (expected < 0.3)


class WithoutDepth(Dataset[Frames]):
    """Items of which nothing else is known."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Frames:
        return ITEMS[index]


def test_without_depth_the_score_is_photometric(stage: FineStage) -> None:
    found = FineValidation(stage, WithoutDepth())()
    assert found["score"] == found["reprojection"] and not set(METRICS) & set(found)
    some = FineValidation(stage, ConcatDataset([WithoutDepth(), Subset(ITEMS, [0, 5])]))()
    alone = FineValidation(stage, Subset(ITEMS, [0, 5]))()
    assert some["abs_rel"] == pytest.approx(alone["abs_rel"], rel=1e-6), "only those with depth count"
    assert some["reprojection"] != pytest.approx(alone["reprojection"], rel=1e-3)
    with pytest.raises(InputError, match="0 frames to validate on"):
        FineValidation(stage, Subset(ITEMS, []))


def test_depth_may_have_another_size_and_holes(stage: FineStage) -> None:
    class Sparse(SyntheticSequences):
        def depth(self, index: int) -> Any:
            depth = np.repeat(np.repeat(super().depth(index), 2, axis=1), 2, axis=2)  # type: ignore[arg-type]
            depth[:, :, ::3] = 0
            return None if index == 1 else np.zeros_like(depth) if index == 2 else depth

    items = Sparse(DRIVES)
    found = FineValidation(stage, items, batch_size=3)()
    rows = []
    for index in (0, 3, 4, 5):
        with torch.no_grad():
            disparity = stage.model(items[index].images[:1])
        large = nn.functional.interpolate(disparity, (96, 192), mode="bilinear", align_corners=False)
        truth = torch.from_numpy(items.depth(index))[None]
        rows.append(depth_metrics(stage.model.to_depth(large), truth, median_scaling=True).abs_rel)
    assert found["abs_rel"] == pytest.approx(np.mean(rows), rel=1e-4)


def test_the_control_knows_other_recordings_and_not_the_image() -> None:
    control = depth_control(ITEMS)
    constant = [
        depth_metrics(torch.ones(SIZE), torch.from_numpy(ITEMS.depth(i))[0], median_scaling=True).abs_rel
        for i in range(len(ITEMS))
    ]
    assert 0.05 < control < np.mean(constant), "depth by row is better than a constant on a road"
    alone = depth_control(SyntheticSequences(DRIVES[:1]))  # no other place to learn rows from
    assert alone == pytest.approx(np.mean(constant[:2]), rel=1e-4)


def test_depth_is_found_through_subsets() -> None:
    joined: ConcatDataset[Any] = ConcatDataset([Subset(ITEMS, [4]), WithoutDepth(), ITEMS])
    np.testing.assert_array_equal(depth_of(joined, 0), ITEMS.depth(4))
    np.testing.assert_array_equal(depth_of(Subset(joined, [5]), 0), ITEMS.depth(1))
    assert depth_of(joined, 2) is None


def test_a_frame_that_cannot_be_read_is_named(stage: FineStage) -> None:
    class Damaged(SyntheticSequences):
        def __getitem__(self, index: int) -> Frames:
            raise InputError(f"frame {index} is torn")

    for workers in (0, 1):
        with pytest.raises(InputError, match=r"^frame 0 is torn$"):
            FineValidation(stage, Damaged(DRIVES), workers=workers)()


# -- while a stage trains ----------------------------------------------------------------------------------

RECIPE = FineRecipe(
    3e-3,
    0.01,
    1,
    steps=6,
    accumulate=2,
    ema=0.5,
    intrinsics="learn",
    pose="test_resnet",
    pose_channels=16,
    scales=(1,),
    size=SIZE,
)
HELD_OUT = Subset(ITEMS, [1, 5])  # of the first recording and of the last


def train(folder: Path, validation: Dataset[Frames] | None, **options: Any) -> Path:
    torch.manual_seed(0)
    model = fine_model("tiny", RECIPE, pretrained=False)
    training = Subset(SyntheticSequences(DRIVES, augment=True), [0, 2, 3, 4])
    options = {"validate_every": 2, "save_every": 3, "log_every": 1, "cpu": True, "workers": 0, **options}
    final = train_fine(model, training, folder, RECIPE, validation=validation, **options)
    assert final == folder / "final"
    return final


def weights(folder: Path) -> dict[str, Tensor]:
    found = load_file(folder / "model.safetensors")
    return {**found, **{f"pose.{name}": value for name, value in load_file(folder / "pose.safetensors").items()}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was validated after steps 2, 4 and 6, and has checkpoints of steps 3 and 6."""
    folder = tmp_path_factory.mktemp("run")
    train(folder, HELD_OUT)
    return folder


def test_the_best_weights_are_those_that_were_measured(run: Path) -> None:
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    validations = {entry["step"]: entry for entry in entries if "validation/score" in entry}
    assert list(validations) == [2, 4, 6] and [entry["step"] for entry in entries] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    noted = json.loads((run / "best/validation.json").read_text())
    best = min(validations, key=lambda step: validations[step]["validation/score"])
    assert noted["step"] == best
    assert {f"validation/{name}": value for name, value in noted.items() if name != "step"} == {
        name: value for name, value in validations[best].items() if name != "step"
    }
    model = HybridDepthModel.from_pretrained(run / "best")
    assert model.config.size == SIZE and not model.config.metric
    assert model.training_history is not None and len(model.training_history) == 1, "not once for every validation"
    stage = FineStage(model, PoseNetwork.from_pretrained(run / "best")).eval()
    learned = [RenderedSource(DRIVES[number], f"drive {number}") for number in (0, 2)]
    first, _, last = read_calibrations(run / "best")
    for source, camera in zip(learned, (first, last), strict=True):
        source.K = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
        assert not np.allclose(source.K, DRIVES[0][0].K, rtol=1e-5)
    found = FineValidation(stage, SourceSequences(learned, SIZE, items=[Item(s, 2, (1, 3)) for s in (0, 1)]))()
    assert found == {name: pytest.approx(value, rel=1e-5) for name, value in noted.items() if name != "step"}
    sheets = {path.name for path in (run / "pictures").iterdir()}
    assert sheets == {"best.png", "step_00000002.png", "step_00000004.png", "step_00000006.png"}
    assert (run / "pictures/best.png").read_bytes() == (run / f"pictures/step_{best:08d}.png").read_bytes()


def test_validation_does_not_change_the_training(run: Path, tmp_path: Path) -> None:
    plain = weights(train(tmp_path, None))
    assert not (tmp_path / "best").exists() and (tmp_path / "pictures/step_00000006.png").is_file()
    for name, value in weights(run / "final").items():
        assert torch.equal(value, plain[name]), name


def test_a_killed_run_is_resumed_with_its_validations(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    measure, count = FineValidation.__call__, iter(range(9))

    def killed(validation: FineValidation) -> dict[str, float]:
        if next(count) == 1:  # at step 4; the newest checkpoint is of step 3
            raise Killed
        return measure(validation)

    monkeypatch.setattr(FineValidation, "__call__", killed)
    with pytest.raises(Killed):
        train(tmp_path, HELD_OUT)
    train(tmp_path, HELD_OUT, resume=True)
    assert (tmp_path / "log.jsonl").read_bytes() == (run / "log.jsonl").read_bytes()
    for folder in ("best", "final"):
        resumed = weights(tmp_path / folder)
        for name, value in weights(run / folder).items():
            assert torch.equal(value, resumed[name]), (folder, name)
    for name in ("best/validation.json", "best/intrinsics.json", "final/intrinsics.json"):
        assert (tmp_path / name).read_bytes() == (run / name).read_bytes(), name
    for sheet in (run / "pictures").iterdir():
        assert sheet.read_bytes() == (tmp_path / "pictures" / sheet.name).read_bytes(), sheet.name


def test_a_disk_without_room_for_the_best_weights_is_named(
    stage: FineStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(HybridDepthModel, "save_pretrained", full)
    before = stage.model.config, stage.model.training_history
    keep = KeepBest(stage, ITEMS, RECIPE, tmp_path)
    with pytest.raises(CheckpointError, match=r"best cannot be saved \(No space left on device\)"):
        keep(2, {"score": 0.5})
    assert (stage.model.config, stage.model.training_history) == before


def test_frames_of_other_cameras_cannot_measure_learned_intrinsics(stage: FineStage) -> None:
    stage = FineStage(stage.model, stage.pose, intrinsics=LearnedIntrinsics(["drive 0", "drive 1", "drive 2"]))
    FineValidation(stage, Subset(ITEMS, [3]))
    with pytest.raises(InputError, match="validate on are of drive 0, and intrinsics of drive 0, drive 1"):
        FineValidation(stage, SyntheticSequences(DRIVES[2:]))


# -- several processes -------------------------------------------------------------------------------------

SIZES = (2, 8)  # with 8 there is a single batch, and nothing for the second process


def measured() -> list[dict[str, float]]:
    torch.manual_seed(0)
    model = HybridDepthModel(HybridDepthConfig.preset("tiny"), pretrained=False)
    stage = FineStage(model, PoseNetwork("test_resnet", False, channels=16)).eval()
    return [FineValidation(stage, Subset(ITEMS, range(5)), batch_size=size)() for size in SIZES]


if __name__ == "__main__":  # one of two processes
    torch.set_num_threads(1)
    process_state(cpu=True)
    assert is_parallel()
    (Path(sys.argv[1]) / os.environ["RANK"]).write_text(json.dumps(measured()))


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    own = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"} for rank in range(2)]
    running = [
        subprocess.Popen([sys.executable, __file__, str(tmp_path)], env={**os.environ, **shared, **rank})
        for rank in own
    ]
    try:
        assert [process.wait(timeout=240) for process in running] == [0, 0]
    finally:
        for process in running:
            process.kill()
    found = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(2)]
    assert found[0] == found[1]
    for one, both in zip(measured(), found[0], strict=True):
        assert both == pytest.approx(one, rel=1e-6)
