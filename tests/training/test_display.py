"""What a run writes down: lines, TensorBoard files, trackers and sheets; a resumed one goes on as if never stopped."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.tracking import GeneralTracker
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from hybrid_encoder import ConfigError
from hybrid_encoder.data import Frames, SyntheticDrive, SyntheticSequences
from hybrid_encoder.data.images import to_pixels
from hybrid_encoder.training.display import RunLog, validation_line
from hybrid_encoder.training.logs import EventLog, LineLog, lines_until
from hybrid_encoder.training.pictures import FinePictures, Sheets, best_view, doubling
from hybrid_encoder.training.view_synthesis import FineStage

from helpers.small_runs import regress

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 12, 20, 3), np.uint8)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_line_is_written_for_every_entry(tmp_path: Path) -> None:
    losses = regress(tmp_path, 9, log_every=3)
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [
        (step, pytest.approx(losses[step - 1])) for step in (3, 6, 9)
    ]


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    with RunLog(tmp_path, 2) as log:
        log.write(1, {"loss": torch.tensor(1.0)})
        log.write(2, {"loss": torch.tensor(0.5), "motion": float("nan")})
        log.write_scalars(3, {"validation/score": 0.25})
    assert lines(tmp_path) == [
        {"step": 2, "loss": 0.5, "motion": None},
        {"step": 3, "validation/score": 0.25},
    ]


@pytest.mark.parametrize("torn", [b'{"step": 7, "lo', b'{"step": 7, "loss": 0.1}', b"\x00\x00\x00\n", b"7\n"])
def test_a_resumed_log_is_that_of_a_run_that_never_stopped(tmp_path: Path, torn: bytes) -> None:
    def write(folder: Path, first: int, last: int, start: int) -> bytes:
        folder.mkdir(exist_ok=True)
        with RunLog(folder, 1, start=start) as log:
            for step in range(first, last):
                log.write(step, {"loss": 1 / step})
        return (folder / "log.jsonl").read_bytes()

    whole = write(tmp_path / "whole", 1, 9, 0)
    write(tmp_path / "parts", 1, 7, 0)
    with (tmp_path / "parts/log.jsonl").open("ab") as file:
        file.write(torn)
    assert write(tmp_path / "parts", 5, 9, 4) == whole, "steps 5 and 6 were taken again from the checkpoint of step 4"
    assert write(tmp_path / "parts", 1, 9, 0) == whole, "a run that starts anew begins a new log"


def test_what_tensorboard_reads(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with RunLog(tmp_path, 1) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": torch.tensor(step / 4)})
        log.write_scalars(3, {"validation/abs_rel": 0.5})
        log.write_pictures(3, {"frame": PIXELS, "disparity": PIXELS[::-1]})
    found = reader.EventAccumulator(str(tmp_path)).Reload()
    assert [(entry.step, entry.value) for entry in found.Scalars("loss")] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert [(entry.step, entry.value) for entry in found.Scalars("validation/abs_rel")] == [(3, 0.5)]
    assert sorted(found.Tags()["images"]) == ["disparity/0", "disparity/1", "frame/0", "frame/1"]
    for name, expected in (("frame/1", PIXELS[1]), ("disparity/1", PIXELS[0])):
        (entry,) = found.Images(name)
        assert (entry.step, entry.height, entry.width) == (3, 12, 20)
        (tmp_path / "read.png").write_bytes(entry.encoded_image_string)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "read.png")), expected)
    # Resumed from step 1: TensorBoard forgets what was said about later ones.
    os.rename(next(tmp_path.glob("events*")), tmp_path / "events.out.tfevents.1.before")
    with RunLog(tmp_path, 1, start=1) as log:
        log.write(2, {"loss": 8.0})
    found = reader.EventAccumulator(str(tmp_path)).Reload()
    assert [(entry.step, entry.value) for entry in found.Scalars("loss")] == [(1, 0.25), (2, 8.0)]


class Noted(GeneralTracker):  # type: ignore[misc]
    """A tracker as accelerate has them; it notes what it is told, and fails where it is asked to."""

    name = "noted"
    requires_logging_directory = False

    def __init__(self, fails_at: int = 99) -> None:
        super().__init__()
        self.told: list[Any] = []
        self.fails_at = fails_at

    @property
    def tracker(self) -> list[Any]:
        return self.told

    def start(self) -> None:
        self.told.append("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.told.append(values)

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        if step is not None and step >= self.fails_at:
            raise RuntimeError("the service is away")
        self.told.append((step, values))

    def log_images(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self.told.append((step, {name: len(images) for name, images in values.items()}))

    def finish(self) -> None:
        self.told.append("finish")


def test_trackers_are_told_the_same(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"lr": 0.1}')
    tracker = Noted()
    with RunLog(tmp_path, 2, log_with=[tracker]) as log:
        for step in (1, 2):
            log.write(step, {"loss": torch.tensor(0.5)})
        log.write_pictures(2, {"frame": PIXELS})
    assert tracker.told == ["start", {"lr": 0.1}, (2, {"loss": 0.5}), (2, {"frame": 2}), "finish"]
    with RunLog(tmp_path, 1, enabled=False, log_with=[silent := Noted()]) as log:
        log.write(1, {"loss": 1.0})
        log.write_pictures(1, {"frame": PIXELS})
    assert silent.told == [], "one process alone writes"


def test_a_tracker_that_fails_ends_with_a_warning(tmp_path: Path) -> None:
    tracker = Noted(fails_at=2)
    with RunLog(tmp_path, 1, log_with=[tracker]) as log:
        log.write(1, {"loss": 1.0})
        with pytest.warns(UserWarning, match=r"noted ends at step 2 \(the service is away\)"):
            log.write(2, {"loss": 2.0})
        log.write(3, {"loss": 3.0})
    assert tracker.told[-1] == (1, {"loss": 1.0})
    assert [line["loss"] for line in lines(tmp_path)] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [("wandb", "which is not installed: pip install wandb"), ("notebook", "accelerate knows .*wandb")],
)
def test_trackers_that_cannot_be_used_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    for enabled in (True, False):
        with pytest.raises(ConfigError, match=message):
            RunLog(tmp_path, 1, enabled, log_with=[name])


@pytest.mark.parametrize("kind", [LineLog, EventLog])
def test_a_full_disk_ends_a_log_and_not_the_run(tmp_path: Path, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind is EventLog:
        pytest.importorskip("tensorboard")
    with RunLog(tmp_path, 1) as log:
        log.write(1, {"loss": 1.0})
        (full,) = [one for one in log.logs if isinstance(one, kind)]
        full.file.close()  # type: ignore[attr-defined]
        with open("/dev/full", "wb", buffering=0) as full.file:  # type: ignore[attr-defined]
            with pytest.warns(UserWarning, match=rf"{full.name} ends at step 2 \(No space left on device\)"):
                log.write(2, {"loss": 1.0})
            log.write(3, {"loss": 1.0})
        assert full not in log.logs
        monkeypatch.setattr("hybrid_encoder.training.pictures.write_png", _no_space)
        with pytest.warns(UserWarning, match=r"no sheet of pictures at step 3 \(No space left on device\)"):
            log.write_pictures(3, {"frame": PIXELS})


def test_a_line_that_finds_room_for_a_part_of_it_ends_the_log(tmp_path: Path) -> None:
    line = b'{"step": 1, "loss": 1.0}\n'
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = LineLog(tmp_path)
    log.write(1, {"loss": 1.0})
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(line) + 5, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            log.write(2, {"loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        log.close()
    assert (tmp_path / "log.jsonl").read_bytes() == line + b'{"ste'
    assert lines_until(tmp_path / "log.jsonl", 9) == [line]


def _no_space(path: Path, pixels: NDArray[Any]) -> None:
    raise OSError(28, "No space left on device")


def test_the_line_of_a_validation() -> None:
    numbers = {"score": 0.25, "abs_rel": 0.25, "abs_rel_control": 0.4, "loss": 0.1}
    assert validation_line(500, numbers, 500, 0.25) == (
        "step 500: score 0.2500 (abs_rel), better than 0.4000 without learning anything; "
        "the best so far is 0.2500 at step 500"
    )
    line = validation_line(600, {**numbers, "abs_rel_control": 0.25}, 500, 0.2)
    assert "NOT better than 0.2500" in line and "0.2000 at step 500" in line
    assert validation_line(1, {"score": 0.5}, 1, 0.5) == "step 1: score 0.5000; the best so far is 0.5000 at step 1"


# -- pictures ----------------------------------------------------------------------------------------------


def test_sheets_that_are_kept(tmp_path: Path) -> None:
    sheets = Sheets(tmp_path / "pictures")
    sheets.keep_best(1)
    for step in range(100, 1000, 100):
        sheets.write(step, {"frame": PIXELS, "view": PIXELS + np.uint8(step % 256)})
        if step == 300:
            sheets.keep_best(step)
            best = (tmp_path / "pictures/step_00000300.png").read_bytes()
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["best.png", *(f"step_{step:08d}.png" for step in (100, 200, 400, 800, 900))]
    assert (tmp_path / "pictures/best.png").read_bytes() == best
    sheet = np.asarray(Image.open(tmp_path / "pictures/step_00000900.png"))
    np.testing.assert_array_equal(sheet[18:30, :20], PIXELS[0])
    np.testing.assert_array_equal(sheet[34:46, 24:44], PIXELS[1] + np.uint8(900 % 256))


@pytest.mark.parametrize(
    ("steps", "kept"),
    [
        ([], []),
        ([7], [7]),
        ([3, 4], [3, 4]),
        ([3, 4, 5, 6, 7], [3, 6, 7]),
        ([500, 1000, 1500, 2000], [500, 1000, 2000]),
    ],
)
def test_doubling(steps: list[int], kept: list[int]) -> None:
    assert doubling(steps) == kept
    assert doubling(kept) == kept


DRIVES = [SyntheticDrive(seed=seed, num_frames=3, height=48, width=96) for seed in (3, 4, 5)]


class Told(FineStage):
    """A stage that predicts what it is told: the true depth and motion."""

    def __init__(self, depth: Tensor, motions: Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.depth, self.told, self.automask, self.refine = depth, motions, True, 0
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def predict(self, batch: Frames) -> Any:
        from hybrid_encoder.training.fine_networks import FinePrediction

        disparity = 1 / self.depth
        return FinePrediction(None, {0: disparity}, self.told, self.told, batch.K)  # type: ignore[arg-type]

    def view_depth(self, disparity: Tensor) -> Tensor:
        return 1 / disparity


def test_pictures_of_the_truth() -> None:
    items = SyntheticSequences(DRIVES)
    batch: Frames = default_collate([items[index] for index in range(len(items))])
    motions = [[np.linalg.inv(drive.world_T_cam(s)) @ drive.world_T_cam(1) for s in (0, 2)] for drive in DRIVES]
    told = torch.from_numpy(np.array(motions)).float()
    depth = torch.stack([torch.from_numpy(drive[1].depth) for drive in DRIVES])
    found = FinePictures(Told(depth, told), items)()
    assert {name: stack.shape for name, stack in found.items()} == dict.fromkeys(
        ("frame", "disparity", "view", "error", "moved"), (3, 48, 96, 3)
    )
    for row, image in enumerate(batch.images[:, 0]):
        np.testing.assert_array_equal(found["frame"][row], to_pixels(image))
        # The view put together with the true geometry is closer to the frame than either neighbour.
        difference = [
            np.abs(found["frame"][row].astype(float) - other).mean()
            for other in (found["view"][row], to_pixels(batch.images[row, 1]), to_pixels(batch.images[row, 2]))
        ]
        assert difference[0] < 0.6 * min(difference[1:])
        near, far = depth[row, 0] <= depth[row].quantile(0.1), depth[row, 0] >= depth[row].quantile(0.9)
        assert found["disparity"][row][near.numpy()].mean() > 2 * found["disparity"][row][far.numpy()].mean()
    assert set(np.unique(found["moved"])) == {0, 255} and found["moved"].mean() > 100
    still = FinePictures(Told(depth, torch.eye(4).expand(3, 2, 4, 4)), items)()
    assert still["moved"].mean() < 3 and still["error"].mean() > 1.3 * found["error"].mean()


def test_every_pixel_of_a_view_comes_from_the_best_source() -> None:
    target = torch.zeros(1, 3, 16, 32)
    sources = torch.zeros(1, 2, 3, 16, 32)
    sources[:, 0, :, :, 16:], sources[:, 1, :, :, :16] = 1.0, 0.5  # either is right in its half
    K = torch.tensor([[[30.0, 0, 15.5], [0, 30, 7.5], [0, 0, 1]]])
    view = best_view(target, sources, torch.ones(1, 1, 16, 32), K, torch.eye(4).expand(1, 2, 4, 4))
    assert view[..., :15].abs().max() < 1e-6 and view[..., 17:].abs().max() < 1e-6
