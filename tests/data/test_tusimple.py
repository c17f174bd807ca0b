from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hybrid_encoder import InputError
from hybrid_encoder.data import OrderedPatches, SyntheticDrive, SyntheticLanes, TuSimpleLanes, collate, write_tusimple
from hybrid_encoder.data.ordered import resize_item

SIZE = (96, 320)  # of the drives: their points are not moved


@pytest.fixture(scope="module")
def drives() -> list[SyntheticDrive]:
    return [SyntheticDrive(seed, num_frames=2) for seed in range(6)]


@pytest.fixture(scope="module")
def root(drives: list[SyntheticDrive], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tusimple(tmp_path_factory.mktemp("tusimple"), drives).parent


def label(folder: Path, lanes: list[list[float]], rows: list[int], size: tuple[int, int] = (90, 160)) -> dict[str, Any]:
    """Write one image, and add one label line to the label file of the folder."""
    Image.fromarray(np.full((*size, 3), 128, np.uint8)).save(folder / "1.jpg")
    line = {"raw_file": "1.jpg", "lanes": lanes, "h_samples": rows}
    with (folder / "label_data_1.json").open("a") as file:
        file.write(json.dumps(line) + "\n")
    return line


def test_true_depth_rises_along_the_points_which_lie_on_the_labels(root: Path, drives: list[SyntheticDrive]) -> None:
    data, frames = TuSimpleLanes(root, SIZE), [frame for drive in drives for frame in drive]
    assert len(data) == len(frames) == 12
    lanes = 0
    for item, frame in zip(iter(data), frames, strict=True):
        np.testing.assert_allclose(item.image.numpy(), frame.image, atol=0.5 / 255 + 1e-6)
        x, y = item.points.long().unbind(-1)
        assert torch.equal(item.points, torch.stack([x, y], -1).float())
        assert (torch.from_numpy(frame.depth)[0, y, x].diff(dim=1) > 0).all(), "near before far"
        labelled = {(u, v) for lane in frame.lanes for u, v in zip(lane, frame.h_samples, strict=True)}
        assert set(zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)) <= labelled
        assert len(item.points) == ((frame.lanes >= 0).sum(1) >= 7).sum()
        lanes += len(item.points)
    assert lanes > 30


def test_points_stand_at_equal_steps_from_the_lowest_row_to_the_highest(tmp_path: Path) -> None:
    rows = list(range(10, 75, 5))
    lanes: list[list[float]] = [
        [100 + i for i in range(13)],  # every second row
        [-2.0] * 4 + [50.0 + i for i in range(7)] + [-2.0] * 2,  # just enough, every row
        [-2.0] * 7 + [30.0 + i for i in range(6)],  # one too few
        [-2] * 13,
    ]
    label(tmp_path, lanes, rows)
    points = TuSimpleLanes(tmp_path, (90, 160))[0].points
    assert points[:, :, 1].tolist() == [[70, 60, 50, 40, 30, 20, 10], [60, 55, 50, 45, 40, 35, 30]]
    assert points[:, :, 0].tolist() == [[112, 110, 108, 106, 104, 102, 100], [56, 55, 54, 53, 52, 51, 50]]
    assert TuSimpleLanes(tmp_path, (90, 160), points=3)[0].points.shape == (3, 3, 2)
    assert TuSimpleLanes(tmp_path, (90, 160), points=2)[0].points[0].tolist() == [[112, 70], [100, 10]]


@pytest.mark.parametrize("flip", [False, True])
def test_points_stay_on_what_they_mark_through_resizing_and_flips(flip: bool) -> None:
    """In an image whose red is its column and whose green is its row, each point reads its own position."""
    y, x = torch.meshgrid(torch.arange(720.0), torch.arange(1280.0), indexing="ij")
    image = torch.stack([x / 1280, y / 720, 0 * x])
    points = torch.rand(5, 7, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1200, 640]) + 40
    item = resize_item(image, points, (720, 1280), (224, 256), flip, "an image")
    grid = (item.points + 0.5) / torch.tensor([256, 224]) * 2 - 1
    read = torch.nn.functional.grid_sample(item.image[None], grid[None], align_corners=False)[0, :2]
    torch.testing.assert_close(read.permute(1, 2, 0) * torch.tensor([1280, 720]), points, atol=0.05, rtol=0)


def test_half_of_the_items_are_mirrored(root: Path) -> None:
    plain, mirrored = TuSimpleLanes(root, (64, 128))[0], TuSimpleLanes(root, (64, 128), flip=True)
    torch.manual_seed(0)
    flips = 0
    for item in (mirrored[0] for _ in range(40)):
        if torch.equal(item.image, plain.image):
            assert torch.equal(item.points, plain.points)
        else:
            flips += 1
            assert torch.equal(item.image, plain.image.flip(-1))
            x, y = item.points.unbind(-1)
            torch.testing.assert_close(torch.stack([127 - x, y], -1), plain.points)
    assert 10 < flips < 30


def test_batches_pack_lanes_and_say_whose_they_are(root: Path) -> None:
    data = TuSimpleLanes(root, (64, 64))
    batch = next(iter(DataLoader(data, batch_size=4, collate_fn=collate)))
    assert batch.images.shape == (4, 3, 64, 64) and batch.images.dtype == batch.points.dtype == torch.float32
    for i in range(4):
        assert torch.equal(batch.points[batch.index == i], data[i].points)
    assert batch.index.tolist() == sorted(batch.index.tolist()) and len(batch.index) == len(batch.points)

    empty = OrderedPatches(torch.zeros(3, 64, 64), torch.zeros(0, 7, 2))
    assert collate([empty, data[0], empty]).index.tolist() == [1] * len(data[0].points)
    none = collate([empty, empty])
    assert none.points.shape == (0, 7, 2) and none.index.shape == (0,) and none.index.dtype == torch.int64


def test_an_image_may_have_no_lane(tmp_path: Path) -> None:
    label(tmp_path, [], [10, 20])
    assert TuSimpleLanes(tmp_path)[0].points.shape == (0, 7, 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not a label"),
        ('"words"', "not a label"),
        ("7", "not a label"),
        ('{"raw_file": "1.jpg", "lanes": []}', "'h_samples' is missing; a label has raw_file, h_samples and lanes"),
        ('{"raw_file": "1.jpg", "lanes": [[1, 2, 3]], "h_samples": [1, 2]}', "not a label"),
        ('{"raw_file": "1.jpg", "lanes": [[1, 2], [1]], "h_samples": [1, 2]}', "not a label"),
        ('{"raw_file": "1.jpg", "lanes": [["a", 2]], "h_samples": [1, 2]}', "not a label"),
        ('{"raw_file": "1.jpg", "lanes": 5, "h_samples": [1, 2]}', "not a label"),
        ('{"raw_file": "1.jpg", "lanes": [], "h_samples": 3}', "not a label"),
        (
            '{"raw_file": "1.jpg", "lanes": [], "h_samples": [2, 1]}',
            r"not a label \(h_samples do not ascend\); a line is",
        ),
        ('{"raw_file": 1, "lanes": [], "h_samples": []}', "not a label"),
        ('{"raw_file": "2.jpg", "lanes": [], "h_samples": []}', r"2\.jpg does not exist; unpack the images"),
        (b"\xff\xfe{}", "not a label"),
    ],
)
def test_a_broken_line_is_named_with_its_number(tmp_path: Path, line: str | bytes, message: str) -> None:
    label(tmp_path, [], [10, 20])
    with (tmp_path / "label_data_1.json").open("ab") as file:
        file.write(b"\n" + (line if isinstance(line, bytes) else line.encode()))
    with pytest.raises(InputError, match=rf"label_data_1\.json, line 3: .*{message}"):
        TuSimpleLanes(tmp_path)


def test_other_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no label_data_\*\.json; give the folder"):
        TuSimpleLanes(tmp_path)
    label(tmp_path, [[150.0] * 7], list(range(70, 140, 10)))
    with pytest.raises(InputError, match=r"size is \(16, 64\); it must be \(H, W\) with at least 32"):
        TuSimpleLanes(tmp_path, (16, 64))
    with pytest.raises(InputError, match="points per lane is 1; an order needs at least 2"):
        TuSimpleLanes(tmp_path, points=1)
    with pytest.raises(InputError, match=r"1\.jpg is 90 x 160, but its labels reach x = 150, y = 130"):
        TuSimpleLanes(tmp_path)[0]
    assert len(TuSimpleLanes(tmp_path, labels="label_*.json")) == 1


def test_synthetic_lanes_are_those_of_the_written_images(tmp_path: Path) -> None:
    """In memory and by way of files: the same points, nearer ones nearer in the true depth."""
    drives = [SyntheticDrive(seed=seed, num_frames=2, height=96, width=160) for seed in range(3)]
    write_tusimple(tmp_path, drives)
    files, memory = TuSimpleLanes(tmp_path, (96, 160)), SyntheticLanes(drives)
    assert len(memory) == len(files) == 6
    seen = 0
    for index in range(6):
        one, other = memory[index], files[index]
        torch.testing.assert_close(one.points, other.points)
        torch.testing.assert_close(one.image, other.image, atol=1 / 255, rtol=0)
        assert one.name == f"drive {index // 2}, frame {index % 2}" and other.name.endswith(f"{index % 2 + 1}.png")
        depth = torch.from_numpy(drives[index // 2][index % 2].depth[0])
        x, y = one.points.long().unbind(-1)
        assert (depth[y, x].diff(dim=-1) > 0).all()
        seen += len(one.points)
    assert seen > 6
