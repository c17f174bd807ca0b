"""Streets: geometry beside an independent test of every solid, motion from frame to frame, masks, boxes, lanes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_encoder import InputError
from hybrid_encoder.data import (
    StreetDrive,
    StreetFrame,
    SyntheticDrive,
    SyntheticLanes,
    SyntheticSequences,
    render_streets,
    synthetic_batch,
    write_tusimple,
)
from hybrid_encoder.data.street import KINDS
from hybrid_encoder.data.street.casting import place
from hybrid_encoder.data.street.shapes import Column

from helpers.rendered_frames import to_world

SEEDS = range(8)


def frames(seed: int, *indices: int) -> list[StreetFrame]:
    drive = StreetDrive(seed)
    return [drive[index] for index in indices]


def seen_from(frame: StreetFrame, points: Any) -> tuple[Any, Any, Any]:
    """Columns, rows and depths, (H, W) each, of world points, (3, H, W), in the image of a frame."""
    cam_T_world = np.linalg.inv(frame.world_T_cam.astype(np.float64))
    u, v, w = frame.K @ (cam_T_world[:3, :3] @ points.reshape(3, -1) + cam_T_world[:3, 3:])
    safe = np.where(w > 0.05, w, np.inf)
    shape = points.shape[1:]
    return (u / safe).reshape(shape), (v / safe).reshape(shape), w.reshape(shape)


def agreement(here: StreetFrame, there: StreetFrame, motion: Any) -> tuple[Any, Any]:
    """Which pixels of ``here``, moved by ``motion``, lie inside ``there``, and which have the depth that it has."""
    height, width = here.depth.shape[1:]
    u, v, z = seen_from(there, to_world(here) + motion)
    columns, rows = np.rint(u).astype(int), np.rint(v).astype(int)
    inside = here.valid[0] & (z > 0.1) & (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    found = there.depth[0][rows.clip(0, height - 1), columns.clip(0, width - 1)]
    return inside, inside & (np.abs(found / np.where(inside, z, 1) - 1) < 0.03)


def inside_of(drive: StreetDrive, index: int, points: Any) -> Any:
    """Which world points, (3, N), lie inside of a solid or below the ground, by the inequalities of the solids."""
    world = drive._world
    solids = place(world.rows, world.owner, world.poses(index))
    within = -points[1] < world.ground.height(points[2])
    for middle, cos, sin, row in zip(solids.middle, solids.cos, solids.sin, solids.rows, strict=True):
        dx, up, dz = points[0] - middle[0], middle[1] - points[1], points[2] - middle[2]
        x, z = cos * dx - sin * dz, sin * dx + cos * dz
        half, taper, weights = row[Column.HALF], row[Column.TAPER], row[Column.WEIGHTS]
        block = (np.abs(x) < half[0] - taper[0] * up) & (np.abs(up) < half[1]) & (np.abs(z) < half[2] - taper[1] * up)
        within |= block & (weights[0] * x * x + weights[1] * up * up + weights[2] * z * z < 1)
    return within


@pytest.mark.parametrize("seed", SEEDS)
def test_every_ray_is_free_up_to_its_depth_and_inside_of_something_behind_it(seed: int) -> None:
    drive = StreetDrive(seed, num_frames=3)
    frame, pose = drive[1], drive.world_T_cam(1)
    rng = np.random.default_rng(seed)
    v, u = rng.integers(0, 96, 50), rng.integers(0, 320, 50)
    rays = pose[:3, :3] @ np.linalg.inv(frame.K.astype(np.float64)) @ np.stack([u, v, np.ones(50)])
    depth, valid = frame.depth[0, v, u].astype(np.float64), frame.valid[0, v, u]
    before = depth * np.linspace(0.02, 0.9995, 150)[:, None]
    points = pose[:3, 3, None, None] + rays[:, None] * before
    assert not inside_of(drive, 1, points.reshape(3, -1)).any()
    # A corner may be thin: behind the surface, one of a few steps is inside.
    after = depth * np.array([1.0001, 1.0005, 1.001])[:, None]
    hit = inside_of(drive, 1, (pose[:3, 3, None, None] + rays[:, None] * after).reshape(3, -1)).reshape(3, -1).any(0)
    assert hit[valid].mean() > 0.97 and valid.sum() > 15


def test_depth_pose_and_motion_lead_to_the_next_frame() -> None:
    still, moving, unmoved = [], [], []
    for seed in range(24):
        here, there = frames(seed, 2, 3)
        inside, good = agreement(here, there, here.motion)
        still.append(good[inside & ~here.moving[0]].mean())
        # What moves fast enough to matter, and is not hidden on the way.
        fast = inside & here.moving[0] & (np.abs(here.motion).sum(0) > 0.1 * here.depth[0])
        if fast.sum() > 50:
            moving.append(good[fast].mean())
            unmoved.append(agreement(here, there, 0 * here.motion)[1][fast].mean())
    assert np.mean(still) > 0.9
    assert len(moving) >= 3 and np.mean(moving) > 0.75 and np.mean(unmoved) < 0.5 * np.mean(moving)


def test_the_next_frame_warped_is_this_frame() -> None:
    errors, identities = [], []
    for seed in range(12):
        here, there = frames(seed, 1, 2)
        u, v, _ = seen_from(there, to_world(here) + here.motion)
        _, good = agreement(here, there, here.motion)
        grid = torch.from_numpy(np.stack([2 * u / 319 - 1, 2 * v / 95 - 1], -1))[None].float()
        warped = F.grid_sample(torch.from_numpy(there.image)[None], grid, align_corners=True)[0].numpy()
        errors.append(np.abs(warped - here.image).mean(0)[good].mean())
        identities.append(np.abs(there.image - here.image).mean(0)[good].mean())
    assert np.mean(errors) < 0.02 and np.mean(errors) < 0.35 * np.mean(identities)


def test_ground_is_dark_where_something_stands_between_it_and_the_sun() -> None:
    right: dict[bool, list[bool]] = {False: [], True: []}
    for seed in range(12):
        drive = StreetDrive(seed, num_frames=1)
        solids = place(drive._world.rows, drive._world.owner, drive._world.poses(0))
        view = drive._render(drive.world_T_cam(0), solids)[3]
        ground = np.flatnonzero((view.hit < 0) & (view.depth < 40))
        some = np.random.default_rng(seed).choice(ground, 60)
        way = np.array(drive._world.light.sun)[:, None, None] * np.linspace(0.02, 40, 800)[:, None]
        blocked = inside_of(drive, 0, (view.points[:, None, some] + way).reshape(3, -1)).reshape(800, -1).any(0)
        for found, expected in zip(view.dark[some].tolist(), blocked.tolist(), strict=True):
            right[expected].append(found == expected)
    # Small parts such as wheels cast no shadow of their own.
    assert len(right[True]) > 50 and np.mean(right[True]) > 0.9 and np.mean(right[False]) > 0.97


def test_motion_is_zero_where_nothing_moves_and_only_there() -> None:
    share = []
    for seed in range(12):
        frame = StreetDrive(seed)[0]
        length = np.abs(frame.motion).sum(0)
        assert (length[~frame.moving[0]] == 0).all() and (length[frame.moving[0]] > 0).all()
        share.append(frame.moving.mean())
    assert 0.01 < np.mean(share) < 0.4


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**40), index=st.integers(0, 2), height=st.integers(32, 80), width=st.integers(32, 200),
    camera=st.sampled_from(["kitti", "random"]),
)  # fmt: skip
def test_frames_hold_what_they_say(seed: int, index: int, height: int, width: int, camera: Any) -> None:
    frame = StreetDrive(seed, 3, height, width, camera=camera)[index]
    assert frame.image.shape == frame.motion.shape == (3, height, width)
    for name in ("depth", "valid", "moving", "textureless", "kind", "instance"):
        assert getattr(frame, name).shape == (1, height, width), name
    kinds = {name: str(array.dtype) for name, array in vars(frame).items() if isinstance(array, np.ndarray)}
    assert kinds == {
        "image": "float32", "depth": "float32", "valid": "bool", "K": "float32", "world_T_cam": "float32",
        "lanes": "int64", "h_samples": "int64", "moving": "bool", "motion": "float32", "textureless": "bool",
        "kind": "uint8", "instance": "int64",
    }  # fmt: skip
    assert np.isfinite(frame.image).all() and frame.image.min() >= 0 and frame.image.max() <= 1
    assert frame.depth.min() > 0.05 and frame.depth.max() <= 80 and np.isfinite(frame.motion).all()
    assert ((frame.depth < 80) == frame.valid).all()
    assert (frame.instance[~frame.valid] == 0).all() and (frame.kind[frame.valid] > 0).all()
    rotation = frame.world_T_cam[:3, :3]
    assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-5) and np.linalg.det(rotation) > 0


def test_objects_are_the_pixels_that_are_theirs() -> None:
    kinds = set()
    for seed in range(16):
        frame = StreetDrive(seed)[0]
        assert frame.instance.max() == len(frame.objects)
        for number, obj in enumerate(frame.objects, 1):
            mask = frame.instance[0] == number
            rows, columns = np.nonzero(mask)
            assert obj.pixels == mask.sum() > 0
            assert obj.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert obj.distance == pytest.approx(float(np.median(frame.depth[0][mask])))
            assert {KINDS[k] for k in frame.kind[0][mask]} == {obj.kind}
            assert set(frame.moving[0][mask].tolist()) == {obj.moving}
            kinds.add(obj.kind)
    assert kinds >= {"car", "van", "truck", "bus", "person", "house", "shop", "tower", "tree", "sign", "lamp", "wall"}


def test_the_colour_that_is_said_is_the_colour_that_is_seen() -> None:
    """Cars in full light: the strongest channel of their pixels is that of the colour's name."""
    right = []
    for seed in range(40):
        frame = StreetDrive(seed, num_frames=1)[0]
        for number, obj in enumerate(frame.objects, 1):
            channel = {"red": 0, "green": 1, "blue": 2}.get(obj.colour)
            if channel is not None and obj.kind in ("car", "van", "bus") and obj.pixels > 150 and obj.distance < 25:
                colour = frame.image[:, frame.instance[0] == number]
                vivid = np.ptp(colour, axis=0)
                strongest = colour[:, vivid > np.quantile(vivid, 0.7)].mean(1).argmax()
                right.append(strongest == channel)
    assert len(right) > 15 and np.mean(right) > 0.95


def test_what_has_no_texture_varies_less() -> None:
    plain, rough = [], []
    for seed in range(16):
        frame = StreetDrive(seed)[0]
        near = frame.valid[0] & (frame.depth[0] < 15)
        same = (frame.instance[0, :, 1:] == frame.instance[0, :, :-1]) & near[:, 1:] & near[:, :-1]
        change = np.abs(np.diff(frame.image.mean(0), axis=1))
        one, two = frame.textureless[0, :, 1:], frame.textureless[0, :, :-1]
        plain.append(np.median(change[same & one & two]) if (same & one & two).sum() > 50 else np.nan)
        rough.append(np.median(change[same & ~one & ~two]))
    assert np.isfinite(plain).sum() >= 5 and np.nanmean(plain) < 0.3 * np.mean(rough)


def test_a_seed_gives_the_same_bytes() -> None:
    def digest(seed: int, index: int = 2, **options: Any) -> str:
        frame = StreetDrive(seed, num_frames=4, **options)[index]
        arrays = [value for value in vars(frame).values() if isinstance(value, np.ndarray)]
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()

    assert digest(0) == digest(0)
    assert len({digest(seed) for seed in range(5)} | {digest(0, 3), digest(0, camera="kitti")}) == 7
    assert "".join(digest(seed)[:8] for seed in range(4)) == "9dd8a0a7e6494b24784fc861d86523aa"


def test_frames_do_not_depend_on_the_order_of_rendering() -> None:
    drive = StreetDrive(1, num_frames=3)
    backwards = [drive[index] for index in (2, 1, 0)][::-1]
    for one, two in zip(drive, backwards, strict=True):
        assert np.array_equal(one.image, two.image) and one.objects == two.objects and one.captions == two.captions
    with pytest.raises(IndexError, match="frame is 3; this drive has 3"):
        drive[3]


def test_lane_points_lie_on_their_line_from_far_to_near() -> None:
    points = 0
    for seed in range(16):
        drive = StreetDrive(seed)
        frame, roads = drive[2], drive._world.roads
        world = to_world(frame)
        for lane, position in zip(frame.lanes, roads.lines[:, 0], strict=True):
            rows, columns = frame.h_samples[lane >= 0], lane[lane >= 0]
            assert (np.diff(frame.depth[0, rows, columns]) < 0).all()
            x, y, z = world[:, rows, columns]
            assert np.abs(y + drive._world.ground.height(z)).max(initial=0) < 1e-3
            lateral = np.abs(x - roads.centre(z)[0] - position)
            span = np.abs(np.diff(world[0], axis=1, append=np.inf))[rows, columns]
            assert (lateral < 1.5 * span + 0.1).all()
            points += len(rows)
    assert points > 500


def test_the_row_says_less_about_depth_than_on_a_plain_street() -> None:
    def ordered(drive: Any) -> float:
        frame, rng = drive[0], np.random.default_rng(0)
        rows, columns = np.nonzero(frame.valid[0])
        i, j = rng.integers(0, len(rows), (2, 4000))
        depth = frame.depth[0, rows, columns]
        apart = np.maximum(depth[i], depth[j]) > 1.1 * np.minimum(depth[i], depth[j])
        right = np.where(rows[i] == rows[j], 0.5, (rows[i] > rows[j]) == (depth[i] < depth[j]))
        return float(right[apart].mean())

    plain = np.mean([ordered(SyntheticDrive(seed, num_frames=1)) for seed in range(24)])
    varied = np.mean([ordered(StreetDrive(seed, num_frames=1)) for seed in range(24)])
    assert plain > 0.78 and varied < 0.73


def test_cameras() -> None:
    kitti = [StreetDrive(seed, 1, camera="kitti") for seed in range(12)]
    for drive in kitti:
        assert np.allclose(drive.K, np.array([[185.6, 0, 159.5], [0, 185.6, 47.5], [0, 0, 1]]))
        pose = drive.world_T_cam(0)
        height = -pose[1, 3] - drive._world.ground.height(pose[2, 3])
        assert height == pytest.approx(1.65) and abs(pose[1, 0]) < 1e-9  # it does not roll
    varied = [StreetDrive(seed, 1) for seed in range(40)]
    focal = np.array([drive.K[0, 0] / 320 for drive in varied])
    assert focal.min() < 0.55 and focal.max() > 1.0 and ((focal >= 0.45) & (focal <= 1.1)).all()
    assert np.std([drive.K[0, 2] for drive in varied]) > 5
    assert np.std([drive.world_T_cam(0)[1, 0] for drive in varied]) > 0.02  # they roll


def test_some_drives_turn_some_climb_and_few_stand() -> None:
    turned, climbed, stood = [], [], []
    for seed in range(60):
        drive = StreetDrive(seed)
        poses = [drive.world_T_cam(index) for index in range(5)]
        cosine = float(poses[0][:3, 2] @ poses[4][:3, 2])
        turned.append(np.degrees(np.arccos(min(cosine, 1))))
        climbed.append(abs(poses[0][1, 3] - poses[4][1, 3]))
        steps = [np.linalg.norm(a[:3, 3] - b[:3, 3]) for a, b in zip(poses[1:], poses, strict=False)]
        assert max(steps) < 1.5
        stood.append(min(steps) == 0)
    assert 4 <= sum(angle > 8 for angle in turned) <= 20 and max(turned) < 60
    assert sum(height > 0.1 for height in climbed) > 5
    assert 1 <= sum(stood) <= 10


def test_streets_take_the_place_of_synthetic_drives(tmp_path: Path) -> None:
    drives = render_streets([5, 2], 3, (48, 64), camera="kitti", baseline=0.54)
    assert [len(drive) for drive in drives] == [3, 3]
    assert np.array_equal(drives[1][1].image, StreetDrive(2, 3, 48, 64, camera="kitti")[1].image)
    assert drives[0][0].right is not None and not np.array_equal(drives[0][0].right, drives[0][0].image)
    assert len(SyntheticSequences(drives)) > 0
    assert len(SyntheticLanes([[frame for drive in render_streets(range(4), 2, (96, 320)) for frame in drive]])) > 0
    batch = synthetic_batch([StreetDrive(seed, 2, 48, 64) for seed in (5, 2)], frames=(0, 1))
    assert batch.images.shape == (4, 3, 48, 64)
    labels = write_tusimple(tmp_path, drives)
    assert len(labels.read_text().splitlines()) == 6
    with pytest.raises(InputError, match="height is 8"):
        render_streets([0], 1, (8, 64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed is -1; it must be an integer of at least 0"),
        ({"num_frames": 0}, "num_frames is 0; it must be an integer of at least 1"),
        ({"width": 31}, "width is 31"),
        ({"camera": "wide"}, "camera is 'wide'; it must be one of kitti, random"),
        ({"max_depth": 30.0}, r"max_depth is 30.0; the words for distances need at least 42 metres"),
        ({"baseline": 0.0}, r"baseline is 0.0; give metres above 0, up to 10, or None"),
    ],
)
def test_bad_input_is_named(options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        StreetDrive(**{"seed": 0, **options})
