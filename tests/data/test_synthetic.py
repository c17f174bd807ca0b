"""The drive's geometry, checked by warping frames into each other and by casting single rays again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_encoder import InputError
from hybrid_encoder.data import SyntheticDrive, SyntheticFrame, render_drives, synthetic_batch, write_tusimple

from helpers.rendered_frames import to_world

SEEDS = range(8)


def frames(seed: int, *indices: int) -> list[SyntheticFrame]:
    drive = SyntheticDrive(seed)
    return [drive[index] for index in indices]


def warp(source: SyntheticFrame, target: SyntheticFrame) -> tuple[torch.Tensor, torch.Tensor]:
    """The source's image as the target's camera sees it, (3, H, W), and which pixels both see, (H, W)."""
    height, width = target.depth.shape[1:]
    cam_T_world = np.linalg.inv(source.world_T_cam.astype(np.float64))
    points = cam_T_world[:3, :3] @ to_world(target).reshape(3, -1) + cam_T_world[:3, 3:]
    u, v, w = source.K.astype(np.float64) @ points
    grid = torch.from_numpy(np.stack([2 * u / w / (width - 1) - 1, 2 * v / w / (height - 1) - 1], -1))
    grid = grid.reshape(1, height, width, 2).float()

    def sample(array: Any, mode: str) -> torch.Tensor:
        return F.grid_sample(torch.from_numpy(array)[None], grid, mode=mode, align_corners=True)[0]

    z = torch.from_numpy(points[2].reshape(height, width)).float()
    same = [(sample(source.depth, mode)[0] / z - 1).abs() < 0.02 for mode in ("bilinear", "nearest")]
    inside = (grid[0].abs() <= 1).all(-1)
    return sample(source.image, "bilinear"), torch.from_numpy(target.valid[0]) & inside & same[0] & same[1]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_next_frame_warped_by_true_depth_and_pose_is_this_frame(seed: int) -> None:
    here, there = frames(seed, 4, 5)
    image = torch.from_numpy(here.image)
    warped, seen = warp(there, here)
    error = (warped - image).abs().mean(0)[seen].mean()
    identity = (torch.from_numpy(there.image) - image).abs().mean(0)[seen].mean()
    assert seen.float().mean() > 0.35  # of all pixels, sky included
    assert error < 0.011
    assert error < 0.25 * identity


def test_a_wrong_depth_warps_worse() -> None:
    worse = 0
    for seed in SEEDS:
        here, there = frames(seed, 4, 5)
        image, (warped, seen) = torch.from_numpy(here.image), warp(there, here)
        wrong, _ = warp(there, SyntheticFrame(**{**vars(here), "depth": here.depth * 1.25}))
        worse += int((wrong - image)[:, seen].abs().mean() > 1.5 * (warped - image)[:, seen].abs().mean())
    assert worse == len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_depth_is_that_of_the_ray_through_the_pixel_centre(seed: int) -> None:
    """Single rays against every box and the ground, in plain arithmetic."""
    drive = SyntheticDrive(seed)
    frame, street, pose = drive[3], drive._street, drive.world_T_cam(3)
    rng = np.random.default_rng(seed)
    for v, u in zip(rng.integers(0, 96, 60).tolist(), rng.integers(0, 320, 60).tolist(), strict=True):
        f, cx, cy = (float(x) for x in (frame.K[0, 0], frame.K[0, 2], frame.K[1, 2]))
        ray = pose[:3, :3] @ np.array([(u - cx) / f, (v - cy) / f, 1])
        depths = [80.0] + ([-pose[1, 3] / ray[1]] if ray[1] > 0 else [])
        for low, high in zip(street.low, street.high, strict=True):
            spans = [sorted(((a - o) / r, (b - o) / r)) for a, b, o, r in zip(low, high, pose[:3, 3], ray)]  # noqa: B905
            enter, leave = max(s[0] for s in spans), min(s[1] for s in spans)
            if 0 < enter <= leave:
                depths.append(enter)
        assert frame.depth[0, v, u] == pytest.approx(min(depths), rel=1e-6)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**40), index=st.integers(0, 19), height=st.integers(32, 80),
    width=st.integers(32, 200), focal=st.floats(30, 400),
)  # fmt: skip
def test_whatever_the_camera_nothing_lies_below_the_ground(
    seed: int, index: int, height: int, width: int, focal: float
) -> None:
    frame = SyntheticDrive(seed, height=height, width=width, focal=focal)[index]
    assert frame.image.shape == (3, height, width) and frame.depth.shape == (1, height, width)
    assert np.isfinite(frame.image).all() and frame.image.min() >= 0 and frame.image.max() <= 1
    assert frame.depth.min() > 0.3 and frame.depth.max() <= 80
    assert ((frame.depth < 80) == frame.valid).all()
    assert to_world(frame)[1][frame.valid[0]].max() < 1e-3


def test_the_sky_is_at_the_largest_depth_and_not_valid() -> None:
    for seed in SEEDS:
        frame = SyntheticDrive(seed, max_depth=50)[0]
        assert (frame.depth[~frame.valid] == 50).all()
        assert (~frame.valid).any() and frame.valid[0, -1].all()


def test_types() -> None:
    frame = SyntheticDrive(0)[0]
    kinds = {name: str(array.dtype) for name, array in vars(frame).items() if array is not None}
    assert kinds == {
        "image": "float32", "depth": "float32", "valid": "bool", "K": "float32", "world_T_cam": "float32",
        "lanes": "int64", "h_samples": "int64",
    }  # fmt: skip


def test_a_seed_gives_the_same_bytes() -> None:
    def digest(seed: int, index: int = 2) -> str:
        frame = SyntheticDrive(seed, num_frames=4)[index]
        return hashlib.sha256(b"".join(array.tobytes() for array in list(vars(frame).values())[:7])).hexdigest()

    assert digest(0) == digest(0)
    assert len({digest(seed) for seed in range(5)} | {digest(0, 3)}) == 6
    assert digest(0)[:16] == "086aa78e64468192"  # the same on every machine; changes only when the street does


def test_a_second_camera_sees_the_street_from_its_place_on_the_right() -> None:
    alone, pair = SyntheticDrive(1, num_frames=2)[1], SyntheticDrive(1, num_frames=2, baseline=0.5)[1]
    assert np.array_equal(alone.image, pair.image) and alone.right is None and alone.baseline is None
    assert pair.right is not None and pair.baseline == 0.5 and pair.right.dtype == pair.image.dtype
    # A point at depth z lies f b / z pixels further to the left in the right view.
    columns = np.arange(pair.image.shape[-1]) - pair.K[0, 0] * 0.5 / pair.depth[0]
    rows = np.broadcast_to(np.arange(pair.image.shape[-2])[:, None], columns.shape)
    seen = pair.valid[0] & (columns >= 0)
    found = pair.right[:, rows, np.rint(columns).clip(0).astype(int)]
    against = pair.right[:, rows, np.rint(2 * np.arange(columns.shape[1]) - columns).clip(0, 319).astype(int)]
    error, wrong, still = (np.abs(x - pair.image)[:, seen].mean() for x in (found, against, pair.right))
    assert error < 0.5 * still and error < 0.5 * wrong
    for baseline in (0.0, -0.5, 11.0, float("nan")):
        with pytest.raises(InputError, match=r"baseline is .*; give metres above 0, up to 10, or None"):
            SyntheticDrive(1, baseline=baseline)


def test_frames_do_not_depend_on_the_order_of_rendering() -> None:
    drive = SyntheticDrive(1, num_frames=3)
    backwards = [drive[index] for index in (2, 1, 0)][::-1]
    for one, two in zip(drive, backwards, strict=True):
        assert np.array_equal(one.image, two.image) and np.array_equal(one.depth, two.depth)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_camera_moves_smoothly_forward(seed: int) -> None:
    poses = np.stack([SyntheticDrive(seed).world_T_cam(index) for index in range(20)])
    rotations, steps = poses[:, :3, :3], np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    assert np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(rotations), 1)
    assert ((steps >= 0.3) & (steps < 1.05)).all()
    assert (np.diff(poses[:, 2, 3]) > 0).all()
    assert ((-poses[:, 1, 3] >= 1.2) & (-poses[:, 1, 3] <= 1.8)).all()
    turn = np.einsum("nij,nij->n", rotations[1:], rotations[:-1])  # 1 + 2 cos(angle)
    assert np.degrees(np.arccos(np.clip((turn - 1) / 2, -1, 1))).max() < 1.5


def test_streets_differ() -> None:
    drives = [SyntheticDrive(seed, height=32, width=64) for seed in range(30)]
    assert {len(drive[0].lanes) for drive in drives} == {3, 4, 5}
    assert np.std([drive.world_T_cam(0)[1, 3] for drive in drives]) > 0.1
    assert np.std([drive[0].image.mean() for drive in drives]) > 0.02
    assert np.std([drive[0].valid.mean() for drive in drives]) > 0.05


def row_depth(frame: SyntheticFrame, row: int) -> float:
    """z-depth of the ground on a row (the camera does not roll)."""
    ray = frame.world_T_cam[1, 1] * (row - frame.K[1, 2]) / frame.K[1, 1] + frame.world_T_cam[1, 2]
    return float(-frame.world_T_cam[1, 3] / ray)


@pytest.mark.parametrize("seed", SEEDS)
def test_lane_points_lie_on_the_ground_from_far_to_near_and_left_to_right(seed: int) -> None:
    (frame,) = frames(seed, 6)
    world, points = to_world(frame), 0
    for lane in frame.lanes:
        rows, columns = frame.h_samples[lane >= 0], lane[lane >= 0]
        points += len(rows)
        depths = frame.depth[0, rows, columns]
        assert np.abs(world[1, rows, columns]).max(initial=0) < 1e-3
        assert (np.diff(depths) < 0).all()
        assert depths == pytest.approx([row_depth(frame, row) for row in rows.tolist()], rel=1e-4)
    assert points > 40
    for row in frame.lanes.T:
        assert (np.diff(row[row >= 0]) > 0).all()
    assert set(frame.lanes[frame.lanes < 0].tolist()) <= {-2}


def test_lane_points_lie_on_paint() -> None:
    """Near points of the outer, solid lines are brighter than the road 0.6 m to either side."""
    contrasts = []
    for seed in range(20):
        (frame,) = frames(seed, 6)
        for lane in (frame.lanes[0], frame.lanes[-1]):
            for row, u in zip(frame.h_samples.tolist(), lane.tolist(), strict=True):
                far = row_depth(frame, row)
                aside = round(0.6 * float(frame.K[0, 0]) / far)
                if u < aside or u + aside > 319 or far > 15:
                    continue
                beside = [u - aside, u + aside]
                if np.allclose(frame.depth[0, row, beside], far, rtol=1e-4):
                    grey = frame.image.mean(0)[row]
                    contrasts.append(grey[u] - grey[beside].max())
    assert len(contrasts) > 100
    assert np.mean(np.array(contrasts) > 0.1) > 0.97


def test_occluded_lane_points_are_absent() -> None:
    """Between two visible points of a line, a missing one has something nearer in front of it."""
    hidden = 0
    for seed in range(20):
        (frame,) = frames(seed, 6)
        for lane in frame.lanes:
            visible = np.flatnonzero(lane >= 0)
            for r in range(visible[0], visible[-1]) if len(visible) else ():
                if lane[r] < 0:
                    row = int(frame.h_samples[r])
                    # The line is straight but for the gentle bend, so that columns are linear in the row.
                    u = round(np.interp(r, visible, lane[visible]))
                    window = frame.depth[0, row, max(u - 2, 0) : u + 3]
                    assert window.min() < 0.99 * row_depth(frame, row)
                    hidden += 1
    assert hidden > 50


def test_rows_are_tusimples_at_tusimples_size() -> None:
    assert SyntheticDrive(0, height=720, width=1280).h_samples.tolist() == list(range(240, 720, 10))


def test_intrinsics() -> None:
    drive = SyntheticDrive(0, height=64, width=200)
    assert np.allclose(drive.K, np.array([[116, 0, 99.5], [0, 116, 31.5], [0, 0, 1]]))
    pixels = drive.normalized_K * np.array([[200], [64], [1], [1]])
    assert np.allclose(pixels[:3, :3], drive.K) and (drive.normalized_K[3] == [0, 0, 0, 1]).all()
    assert SyntheticDrive(0, focal=70.0).K[0, 0] == SyntheticDrive(0, focal=70.0).K[1, 1] == 70


def test_a_drive_is_a_sequence() -> None:
    drive = SyntheticDrive(2, num_frames=3, height=32, width=32)
    assert len(drive) == len(list(drive)) == 3
    assert np.array_equal(drive[-1].image, drive[2].image)
    with pytest.raises(IndexError, match="frame is 3; this drive has 3"):
        drive[3]


def test_rendered_drives_are_held_in_memory() -> None:
    told: list[int] = []

    def progress(seeds: Sequence[int]) -> Iterator[int]:
        for seed in seeds:
            yield seed
            told.append(seed)

    drives = render_drives([5, 2], 2, (32, 64), progress)
    assert told == [5, 2]
    for drive, seed in zip(drives, (5, 2), strict=True):
        assert isinstance(drive, list) and len(drive) == 2
        expected = SyntheticDrive(seed, num_frames=2, height=32, width=64)
        assert all(np.array_equal(frame.image, expected[index].image) for index, frame in enumerate(drive))
    assert len(render_drives(range(2), 1, (32, 32))) == 2
    with pytest.raises(InputError, match="height is 8"):
        render_drives([0], 1, (8, 64))


def test_batch() -> None:
    drives = [SyntheticDrive(seed, height=48, width=64) for seed in (3, 4)]
    batch = synthetic_batch(drives, frames=(0, 1, 2))
    sizes = [tuple(tensor.shape) for tensor in batch]
    assert sizes == [(6, 3, 48, 64), (6, 1, 48, 64), (6, 1, 48, 64), (6, 3, 3), (6, 4, 4)]
    assert batch.valid.dtype == torch.bool and batch.images.dtype == batch.depth.dtype == torch.float32
    assert torch.equal(batch.images[4], torch.from_numpy(drives[1][1].image))
    assert torch.equal(batch.world_T_cam[2], torch.from_numpy(drives[0][2].world_T_cam))


def test_tusimple_root(tmp_path: Path) -> None:
    from PIL import Image

    drives = [SyntheticDrive(seed, num_frames=2, height=48, width=96) for seed in (5, 6)]
    labels = write_tusimple(tmp_path / "root", drives)
    lines = [json.loads(line) for line in labels.read_text().splitlines()]
    assert len(lines) == 4
    frame, line = drives[1][1], lines[3]
    assert line["raw_file"] == "clips/synthetic/0001/2.png"
    assert line["h_samples"] == frame.h_samples.tolist()
    assert line["lanes"] == [lane for lane in frame.lanes.tolist() if max(lane) >= 0]
    with Image.open(tmp_path / "root" / line["raw_file"]) as image:
        pixels = np.asarray(image)
    assert np.abs(pixels / 255 - frame.image.transpose(1, 2, 0)).max() <= 0.5 / 255 + 1e-6
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == ["clips", labels.name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed is -1; it must be an integer of at least 0"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"seed": True}, "seed is True"),
        ({"num_frames": 0}, "num_frames is 0; it must be an integer of at least 1"),
        ({"height": 8}, "height is 8; it must be an integer of at least 32"),
        ({"width": 31}, "width is 31"),
        ({"focal": 0.0}, "focal is 0.0; it must be a positive number"),
        ({"focal": float("nan")}, "focal is nan"),
        ({"max_depth": 5}, "max_depth is 5; it must be at least 10"),
        ({"max_depth": float("inf")}, "max_depth is inf"),
    ],
)
def test_bad_input_is_named(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticDrive(**{"seed": 0, **options})


def test_bad_batches_are_named() -> None:
    with pytest.raises(ValueError, match="0 drives x 1 frames"):
        synthetic_batch([])
    with pytest.raises(ValueError, match=r"sizes \[\(32, 32\), \(32, 64\)\]"):
        synthetic_batch([SyntheticDrive(0, height=32, width=w) for w in (32, 64)])
