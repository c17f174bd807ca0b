"""A bird's-eye view that is trained on rendered drives: its items, its losses, exact resume, and how it is measured."""

from __future__ import annotations

import dataclasses
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hybrid_encoder import BevConfig, BevModel, ConfigError, HybridDepthModel, InputError
from hybrid_encoder.bev import BevGrid, bev_loss
from hybrid_encoder.data import SyntheticSurround
from hybrid_encoder.training.bev import BEV, BevStage, bev_model, collate_finite, start_scale, train_bev
from hybrid_encoder.training.bev_items import BevItem, SurroundMaps
from hybrid_encoder.training.bev_results import constant_map, evaluate_bev, refuse_seen_seeds

SIZE = (32, 96)
CONFIG = BevConfig.preset("tiny").replace(
    x_range=(-16.0, 16.0), y_range=(-16.0, 16.0), cell=1.0, far=24.0, num_depths=24
)
RECIPE = dataclasses.replace(BEV["small"], steps=4, size=SIZE)
LOOP: dict[str, Any] = {"cpu": True, "seed": 3}
SEEDS = (40, 41, 42)
EXAMPLE = str(Path(__file__).parents[2] / "examples" / "bev.py")


@pytest.fixture(scope="module")
def items() -> SurroundMaps:
    grid = BevGrid(CONFIG.x_range, CONFIG.y_range, CONFIG.z_range, CONFIG.cell)
    return SurroundMaps([SyntheticSurround(seed, 2, *SIZE) for seed in SEEDS], grid)


def build(depth: Any = "exact") -> BevModel:
    torch.manual_seed(0)
    return bev_model(None, CONFIG, depth)


def test_items_are_the_frames_and_their_maps(items: SurroundMaps) -> None:
    assert len(items) == 6 and items.seeds == list(SEEDS)
    item, drive = items[3], SyntheticSurround(41, 2, *SIZE)
    frame = drive[1]
    assert item.name == "seed 41, frame 1"
    np.testing.assert_allclose(item.images, frame.images, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(item.depth > 0, frame.valid)
    np.testing.assert_array_equal(item.depth[item.depth > 0], frame.depth[frame.valid])
    # Cell (i, j) is i - 16 + 0.5 m ahead and j - 16 + 0.5 m to the left.
    truth = np.zeros((32, 32), bool)
    for i in range(32):
        for j in range(32):
            x, y = i - 15.5, j - 15.5
            assert bool(item.road[0, i, j]) == bool(drive.road(1, np.array([x, y])))
            for box in frame.boxes[frame.visible]:
                cos, sin = np.cos(box[6]), np.sin(box[6])
                along, across = cos * (x - box[0]) + sin * (y - box[1]), cos * (y - box[1]) - sin * (x - box[0])
                truth[i, j] |= abs(along) <= box[3] / 2 and abs(across) <= box[4] / 2
    np.testing.assert_array_equal(item.vehicle[0] > 0, truth)
    assert truth.any() and not truth.all()
    boxes = items.boxes(3)
    assert (boxes[:, :2].abs() <= 16).all() and 0 < len(boxes) < frame.visible.sum()
    for x, y in boxes[:, :2]:
        assert item.centre[0, int(x + 16), int(y + 16)] == 1


def test_drives_of_different_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="give drives of one size"):
        SurroundMaps([SyntheticSurround(0, 1, 32, 64), SyntheticSurround(0, 1, 32, 96)], BevGrid())
    with pytest.raises(InputError, match="0 drives"):
        SurroundMaps([], BevGrid())


def test_the_loss_is_that_of_the_maps(items: SurroundMaps) -> None:
    batch = collate_finite([items[0], items[2]])
    stage = BevStage(build(), centre_weight=0.5).eval()
    with torch.no_grad():
        losses = stage(batch)
        logits = stage.model(batch.images, batch.K, batch.vehicle_T_cam, batch.depth)
        expected = bev_loss(logits, {name: getattr(batch, name) for name in ("vehicle", "road", "centre")})
    torch.testing.assert_close(losses["vehicle"], expected["vehicle"])
    torch.testing.assert_close(losses["loss"], expected["vehicle"] + expected["road"] + 0.5 * expected["centre"])
    assert stage.describe(batch) == "seed 40, frame 0, seed 41, frame 0"


def test_a_stopped_run_is_resumed_to_the_last_bit(items: SurroundMaps, tmp_path: Path) -> None:
    whole, parts = build("hybrid-disparity"), build("hybrid-disparity")
    assert train_bev(whole, items, tmp_path / "whole", RECIPE, save_every=2, **LOOP) == tmp_path / "whole" / "final"
    (tmp_path / "parts" / "checkpoints").mkdir(parents=True)
    for name in ("checkpoints/step_00000002", "run.json"):
        (tmp_path / "whole" / name).rename(tmp_path / "parts" / name)
    train_bev(parts, items, tmp_path / "parts", RECIPE, save_every=2, resume=True, **LOOP)
    for (name, one), other in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    told = json.loads((tmp_path / "parts" / "run.json").read_text())
    assert told["steps"] == 4 and told["size"] == list(SIZE)
    assert told["trained_on"] == {
        "stage": "BevStage", "drives": {}, "offsets": [], "known": True, "seeds": list(SEEDS)
    }  # fmt: skip
    loaded = BevModel.from_pretrained(tmp_path / "parts" / "final")
    assert loaded.config.depth == "hybrid-disparity" and loaded.training_history is not None
    assert loaded.training_history[-1]["seeds"] == list(SEEDS)
    with pytest.raises(ConfigError, match="lr is"):
        changed = dataclasses.replace(RECIPE, lr=1e-4)
        train_bev(parts, items, tmp_path / "parts", changed, resume=True, **LOOP)


def test_the_depth_model_has_its_own_rate(items: SurroundMaps, tmp_path: Path) -> None:
    """With a factor of next to nothing, the encoder stays as it was, and the head does not."""
    before, model = build(), build()
    train_bev(model, items, tmp_path, dataclasses.replace(RECIPE, encoder_lr=1e-9, steps=2), **LOOP)
    for one, other in zip(before.encoder.parameters(), model.encoder.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert not torch.allclose(before.head.out.weight, model.head.out.weight, atol=1e-5)


@pytest.mark.slow
def test_it_learns(items: SurroundMaps, tmp_path: Path) -> None:
    """With exact depth, the maps of six scenes are learned by heart: far better than what is always the same."""
    model = build()
    train_bev(model, items, tmp_path, dataclasses.replace(RECIPE, steps=80, batch_size=2, encoder_lr=1.0), **LOOP)
    found, always = evaluate_bev(model, items), evaluate_bev(constant_map(items), items)
    assert found["iou_road"] > 0.85 and found["iou_road"] > always["iou_road"]
    assert found["iou_vehicle"] > 0.25 and found["ap"] > always["ap"] + 0.1


def test_the_scale_to_start_from_is_the_median(items: SurroundMaps, tmp_path: Path) -> None:
    weights = HybridDepthModel.from_pretrained("tiny")
    weights.config = weights.config.replace(min_depth=0.01, max_depth=10.0)
    weights.save_pretrained(tmp_path)
    model = bev_model(str(tmp_path), CONFIG, "hybrid-disparity")
    scale = start_scale(model, [items[0], items[2]])
    assert 3 < scale < 40  # depth is a tenth of tiny's
    ratios = []
    with torch.no_grad():
        for item in (items[0], items[2]):
            said = model.hybrid_depth(item.images[None], item.K[None])[0]
            said = torch.nn.functional.interpolate(said, SIZE, mode="bilinear", align_corners=False)
            ratios.append((item.depth / said)[item.depth > 0])
    assert float(torch.cat(ratios).median()) == pytest.approx(1, abs=1e-4)
    assert start_scale(model, [items[0], items[2]]) == pytest.approx(scale, rel=1e-4)


def perfect(item: BevItem) -> dict[str, Tensor]:
    logits = {name: 20 * value - 10 for name, value in item.targets.items()}
    return {**logits, "centre": torch.where(item.centre == 1, 10.0, -10.0)}


def test_the_truth_measures_as_right_and_nothing_as_wrong(items: SurroundMaps) -> None:
    found = evaluate_bev(perfect, items)
    assert found["iou_vehicle"] == found["iou_road"] == found["miou"] == 1
    assert found["ap_1"] == found["ap_4"] == pytest.approx(1)  # a centre is within half a cell's diagonal
    found = evaluate_bev(lambda item: {name: torch.full_like(x, -10.0) for name, x in item.targets.items()}, items)
    assert found["iou_road"] == found["ap"] == 0


def test_the_constant_map_is_the_best_of_its_kind(items: SurroundMaps) -> None:
    always = constant_map(items)
    found = evaluate_bev(always, items)
    road = np.stack([items[k].road[0].numpy() for k in range(len(items))]) > 0
    share = road.mean(0)
    values = []
    for threshold in np.arange(1, 20) / 20:
        map_ = np.broadcast_to(share >= threshold - 1e-6, road.shape)
        values.append((map_ & road).sum() / (map_ | road).sum())
    assert found["iou_road"] == pytest.approx(max(values), abs=1e-6)
    assert 0.4 < found["iou_road"] < 1
    torch.testing.assert_close(always(items[0]), always(items[5]), rtol=0, atol=0)


def test_seeds_that_were_trained_on_are_refused() -> None:
    record = {"stage": "BevStage", "known": True, "seeds": [5, 6, 7]}
    assert refuse_seen_seeds([record], range(8, 20))
    assert not refuse_seen_seeds([{"stage": "unknown", "known": False}, record], range(8, 20))
    assert not refuse_seen_seeds(None, range(8, 20))
    with pytest.raises(InputError, match=r"trained on 2 of these 4 drives \(seed 6\)"):
        refuse_seen_seeds([record], range(6, 10))
    for made_up in (5, ["a"], [[1]], {"1": 2}, [True]):
        with pytest.raises(InputError, match="the weights' training history has the seeds"):
            refuse_seen_seeds([{"seeds": made_up}], range(3))


def test_the_example_draws_ahead_above_and_left_on_the_left() -> None:
    example = runpy.run_path(EXAMPLE)
    grid, cell = BevGrid((-8.0, 8.0), (-6.0, 6.0), cell=1.0), example["CELL"]
    vehicle = torch.zeros(grid.shape)
    vehicle[14, 10] = 1  # from 6 to 7 m ahead, from 4 to 5 m to the left
    drawn = np.asarray(example["draw_map"](grid, torch.ones(grid.shape), vehicle))
    assert drawn.shape == (16 * cell, 12 * cell, 3)
    rows, columns = np.nonzero((drawn == example["VEHICLE"]).all(-1))
    assert (rows.min(), rows.max()) == (1 * cell, 2 * cell - 1)
    assert (columns.min(), columns.max()) == (1 * cell, 2 * cell - 1)
    u, v = example["place"](grid, 6.5, 4.5)
    assert (int(u // cell), int(v // cell)) == (1, 1)
    assert (drawn[-1, -1] == example["ROAD"]).all()


@pytest.mark.slow
def test_the_example_leaves_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It trains, it draws, and weights of a run are drawn in the same way."""
    monkeypatch.chdir(tmp_path)
    small = ["bev.py", "--size", "32x64", "--scenes", "1"]
    monkeypatch.setattr(sys, "argv", [*small, "--steps", "2", "--drives", "2"])
    example = runpy.run_path(EXAMPLE, run_name="__main__")
    trained = np.asarray(Image.open("bev.png"))
    monkeypatch.setattr(sys, "argv", [*small, "--weights", "runs/bev_example/final", "--picture", "again.png"])
    runpy.run_path(EXAMPLE, run_name="__main__")
    np.testing.assert_array_equal(np.asarray(Image.open("again.png")), trained)
    assert capsys.readouterr().out.endswith("picture -> again.png\n")
    shown = {name: (trained == example[name]).all(-1).mean() for name in ("ROAD", "VEHICLE")}
    assert shown["ROAD"] > 0.03 and shown["VEHICLE"] > 0.001  # of the truth
