from __future__ import annotations

import doctest
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from torch.utils.data import DataLoader

from hybrid_encoder import InputError
from hybrid_encoder.data import (
    KittiDrive,
    OrderedDepth,
    SyntheticDrive,
    collate,
    depth_files,
    lidar_frames,
    ordered,
    ordered_points_from_depth,
)

DRIVE = Path("kitti_mini", "2011_09_26", "2011_09_26_drive_0001_sync")


def at(depth: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Depth at points, (L, P), float64."""
    x, y = points.long().unbind(-1)
    return depth.double()[y, x]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def longest(values: list[float], ratio: float) -> int:
    """The most values that a group can hold: always the nearest one that is far enough."""
    count, last = 0, 0.0
    for value in sorted(values):
        if value >= last * ratio:
            count, last = count + 1, value
    return count


@settings(max_examples=200, deadline=None)
@given(
    depth=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.sampled_from([0.0, -1.0, float("nan"), float("inf")])
        | st.floats(0.5, 20, width=32)
        | st.floats(2.0**-140, 2.0**120, width=32),
    ),
    num_points=st.integers(2, 6),
    lanes=st.integers(1, 5),
    ratio=st.sampled_from([1.0001, 1.1, 1.5, 3.0]),
    seed=st.integers(0, 2**40),
)
def test_groups_keep_the_ratio_and_are_found_just_where_there_are_any(
    depth: Any, num_points: int, lanes: int, ratio: float, seed: int
) -> None:
    map_ = torch.from_numpy(depth)
    points = ordered_points_from_depth(map_, num_points, lanes, ratio, generator(seed))
    exists = longest([float(d) for d in depth.flatten() if np.isfinite(d) and d > 0], ratio) >= num_points
    assert points.shape == (lanes if exists else 0, num_points, 2) and points.dtype == torch.float32
    values = at(map_, points)
    assert (values > 0).all() and values.isfinite().all()
    assert (values[:, 1:] >= values[:, :-1] * ratio).all()
    assert torch.equal(points, ordered_points_from_depth(map_, num_points, lanes, ratio, generator(seed)))


def test_every_group_is_equally_likely() -> None:
    depth = torch.tensor([[1.0, 1.05, 1.3, 0.0], [5.0, 2.0, 1.6, 2.1]])
    values = [float(d) for d in depth.flatten() if d > 0]
    groups = [g for g in itertools.permutations(values, 3) if g[1] >= g[0] * 1.2 and g[2] >= g[1] * 1.2]
    drawn = at(depth, ordered_points_from_depth(depth, 3, 20000, 1.2, generator()))
    seen = Counter(tuple(row) for row in drawn.tolist())
    assert len(groups) == 25 and set(seen) == set(groups)
    expected = 20000 / len(groups)
    assert sum((n - expected) ** 2 / expected for n in seen.values()) < 51.2, "chi squared, 24 degrees, p = 0.001"


def test_dense_and_long_groups() -> None:
    depth = torch.rand(375, 1242, generator=generator()) * 79 + 1
    points = ordered_points_from_depth(depth, 7, 500, 1.1, generator(1))
    values = at(depth, points)
    assert len(points) == 500 and (values[:, 1:] >= values[:, :-1] * 1.1).all()
    assert len(values[:, 3].unique()) > 450, "different groups"
    many = at(depth, ordered_points_from_depth(depth, 200, 3, 1.01, generator(2)))
    assert many.shape == (3, 200) and (many[:, 1:] >= many[:, :-1] * 1.01).all()
    assert not torch.equal(points, ordered_points_from_depth(depth, 7, 500, 1.1, generator(2)))


def test_scale_does_not_matter() -> None:
    depth = torch.rand(40, 50, generator=generator()) * 30 + 1
    one, other = (ordered_points_from_depth(d, generator=generator()) for d in (depth, depth * 0.125))
    assert torch.equal(one, other)


@pytest.fixture(scope="module")
def drive() -> SyntheticDrive:
    return SyntheticDrive(3, num_frames=3)


@pytest.fixture(scope="module")
def folders(drive: SyntheticDrive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and their depth in three forms; the sky is not valid."""
    root = tmp_path_factory.mktemp("ordered")
    for name in ("images", "npy", "png", "disparity"):
        (root / name).mkdir()
    for index, frame in enumerate(drive):
        pixels = np.rint(frame.image.transpose(1, 2, 0) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{index}.png")
        depth = np.where(frame.valid, frame.depth, 0)
        np.save(root / "npy" / f"{index}.npy", depth)
        Image.fromarray(np.rint(depth[0] * 256).astype(np.uint16)).save(root / "png" / f"{index}.png")
        disparity = np.divide(1, depth, where=depth > 0, out=np.zeros_like(depth))
        np.save(root / "disparity" / f"{index}_disparity.npy", disparity[0, ::2, ::2])
    return root


@pytest.mark.parametrize(
    ("name", "ending", "inverse", "slack"),
    [
        ("npy", ".npy", False, 1),
        ("png", ".png", False, 0.99),  # rounded to 1/256 m
        ("disparity", "_disparity.npy", True, 0.999999),
    ],
)
def test_points_of_depth_files_are_in_order_in_the_image(
    folders: Path, drive: SyntheticDrive, name: str, ending: str, inverse: bool, slack: float
) -> None:
    step = 2 if inverse else 1  # disparity is at half the size
    files = depth_files(folders / "images", folders / name, ending)
    data = OrderedDepth(*files, size=(48, 80), lanes=20, inverse=inverse, seed=0)
    assert len(data) == 3
    for index, frame in enumerate(drive):
        image, points, _ = data[index]
        assert image.shape == (3, 48, 80) and points.shape == (20, 7, 2)
        own = (points + 0.5) * torch.tensor([320 / 80, 96 / 48]) / step - 0.5
        torch.testing.assert_close(own, own.round(), atol=1e-4, rtol=0)
        values = at(torch.from_numpy(frame.depth[0, ::step, ::step]), own.round())
        assert (values[:, 1:] >= values[:, :-1] * 1.1 * slack).all()
        assert values.max() < 80, "not the sky"


def test_a_seed_repeats_the_items_and_flips_mirror_them(folders: Path) -> None:
    files = depth_files(folders / "images", folders / "npy")
    plain = OrderedDepth(*files, size=(48, 80), seed=5)
    assert torch.equal(plain[1].points, plain[1].points)
    assert not torch.equal(plain[1].points, OrderedDepth(*files, size=(48, 80), seed=9)[1].points)
    fresh = OrderedDepth(*files, size=(48, 80))
    assert not torch.equal(fresh[1].points, fresh[1].points)
    mirrored = 0
    for seed in range(12):
        one, other = (OrderedDepth(*files, size=(48, 80), seed=seed, flip=flip)[0] for flip in (False, True))
        if not torch.equal(one.image, other.image):
            mirrored += 1
            assert torch.equal(one.image, other.image.flip(-1))
            x, y = other.points.unbind(-1)
            torch.testing.assert_close(torch.stack([79 - x, y], -1), one.points)
    assert 0 < mirrored < 12


def test_too_little_depth_gives_no_lanes(folders: Path) -> None:
    images, depths = depth_files(folders / "images", folders / "npy")
    data = OrderedDepth(images, [depths[0], lambda: torch.zeros(1, 9, 9), lambda: np.full((4, 4), 7.0)], (32, 32))
    batch = next(iter(DataLoader(data, batch_size=3, collate_fn=collate)))
    assert batch.images.shape == (3, 3, 32, 32) and batch.index.tolist() == [0] * 4


@pytest.mark.real_data
def test_lidar_puts_pixels_in_order(data: Path) -> None:
    drive = KittiDrive(data / DRIVE)
    height, width = drive.size
    items = OrderedDepth(*lidar_frames(drive, drive.frames[:2]), size=(height, width), lanes=50)
    assert len(items) == 2 and len(OrderedDepth(*lidar_frames(drive))) == len(drive.frames)
    for index, frame in enumerate(drive.frames[:2]):
        image, points, _ = items[index]
        np.testing.assert_allclose(image.numpy(), drive.image(frame), atol=1e-5)
        values = at(torch.from_numpy(drive.lidar_depth(frame)[0]), points.round())
        assert values.shape == (50, 7) and (values > 0).all()
        assert (values[:, 1:] >= values[:, :-1] * 1.1).all()


def test_bad_input_is_named(folders: Path, tmp_path: Path) -> None:
    image = folders / "images" / "0.png"
    flat = torch.ones(4, 4)
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"points": 1}, "points per lane is 1; an order needs at least 2"),
        ({"lanes": 0}, "lanes is 0; it must be at least 1"),
        ({"ratio": 1.0}, "ratio is 1.0; depth over nearer depth must be above 1"),
        ({"ratio": float("nan")}, "ratio is nan"),
        ({"depth": flat[None]}, r"depth is \(1, 4, 4\); \(H, W\) is needed"),
    )
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            ordered_points_from_depth(**{"depth": flat, **options})
    with pytest.raises(InputError, match="there are 1 images and 0 depths"):
        OrderedDepth([image], [])
    with pytest.raises(InputError, match=r"gone\.npy does not exist; check the path"):
        OrderedDepth([image], [tmp_path / "gone.npy"])
    with pytest.raises(InputError, match="size is"):
        OrderedDepth([], [], size=(8, 8))
    with pytest.raises(InputError, match=r"0\.npy, the depth of .*0\.png, does not exist; check the folder, or the"):
        depth_files(folders / "images", tmp_path)
    with pytest.raises(InputError, match=r"gives depth of \(2, 4, 4\)"):
        OrderedDepth([image], [lambda: torch.zeros(2, 4, 4)])[0]


@pytest.mark.parametrize("kind", ["grey", "objects", "words", "archive", "cut"])
def test_a_file_without_depth_is_named(folders: Path, tmp_path: Path, kind: str) -> None:
    file = tmp_path / ("0.png" if kind == "grey" else "0.npy")
    if kind == "grey":
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(file)
    elif kind == "cut":
        file.write_bytes((folders / "npy" / "0.npy").read_bytes()[:500])
    elif kind == "archive":
        with file.open("wb") as stream:
            np.savez(stream, np.zeros(3))
    else:
        content: list[Any] = [{}] if kind == "objects" else ["a"]
        np.save(file, np.array(content))
    with pytest.raises(InputError, match=r"0\.(png|npy) cannot be read as depth .*; give a 16-bit grey PNG or a \.npy"):
        OrderedDepth([folders / "images" / "0.png"], [file])[0]


def test_the_example_is_true() -> None:
    result = doctest.testmod(ordered)
    assert result.attempted == 1 and not result.failed
