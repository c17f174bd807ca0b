"""Six cameras on a synthetic street: what images, depth, boxes and road say of the same points must agree."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest

from hybrid_encoder.data.synthetic.surround import CAMERAS, SurroundFrame, SyntheticSurround
from hybrid_encoder.errors import InputError

H, W = 64, 176


@pytest.fixture(scope="module", params=[0, 3, 11])
def drive(request: pytest.FixtureRequest) -> SyntheticSurround:
    return SyntheticSurround(request.param, num_frames=6, height=H, width=W)


def points_of(frame: SurroundFrame) -> np.ndarray:
    """Every pixel in vehicle axes, (6, H, W, 3), from depth, intrinsics and extrinsics alone."""
    v, u = np.mgrid[:H, :W]
    pixels = np.stack([u, v, np.ones_like(u)], -1).astype(np.float64)
    rays = np.einsum("nij,hwj->nhwi", np.linalg.inv(frame.K.astype(np.float64)), pixels)
    cam = rays * frame.depth[:, 0, ..., None]
    pose = frame.vehicle_T_cam.astype(np.float64)
    points: np.ndarray = np.einsum("nij,nhwj->nhwi", pose[:, :3, :3], cam) + pose[:, None, None, :3, 3]
    return points


def in_box(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Points in the axes of a box, from -1 to 1 inside of it."""
    x, y = points[:, 0] - box[0], points[:, 1] - box[1]
    cos, sin = np.cos(box[6]), np.sin(box[6])
    return np.stack([cos * x + sin * y, cos * y - sin * x, points[:, 2] - box[2]], -1) / (box[3:6] / 2)


def test_points_of_a_vehicle_lie_on_its_box(drive: SyntheticSurround) -> None:
    frame = drive[2]
    points = points_of(frame)
    numbers = np.unique(frame.vehicle[frame.vehicle >= 0])
    assert len(numbers) >= 5
    assert np.array_equal(np.flatnonzero(frame.visible), numbers)
    for number in numbers:
        inside = in_box(points[frame.vehicle[:, 0] == number], frame.boxes[number])
        assert np.abs(inside).max() < 1.01, number
    # And nothing else is in a box: the boxes hold their vehicles alone.
    for box in frame.boxes:
        others = in_box(points[(frame.vehicle < 0)[:, 0] & frame.valid[:, 0]], box)
        assert not (np.abs(others) < 0.97).all(-1).any()


def test_boxes_are_tight(drive: SyntheticSurround) -> None:
    """Over a drive, pixels reach the sides of a near box that cameras can see."""
    reached = []
    for frame in drive:
        points = points_of(frame)
        for number in np.flatnonzero(frame.visible):
            shown = frame.vehicle[:, 0] == number
            if shown.sum() > 600:
                inside = in_box(points[shown], frame.boxes[number])
                reached.append(np.maximum(inside.max(0), -inside.min(0)))
    assert len(reached) >= 3
    assert (np.max(reached, 0) > 0.97).all()


def test_vehicles_stand_on_the_ground_all_around(drive: SyntheticSurround) -> None:
    frame = drive[0]
    boxes = frame.boxes
    assert np.allclose(boxes[:, 2], boxes[:, 5] / 2, atol=1e-6)
    assert ((boxes[:, 3] >= 3.7) & (boxes[:, 3] <= 4.7)).all()
    near = boxes[np.hypot(boxes[:, 0], boxes[:, 1]) < 50]
    assert (near[:, 0] > 3).any() and (near[:, 0] < -3).any()
    assert (near[:, 1] > 1).any() and (near[:, 1] < -1).any()
    assert (np.hypot(boxes[:, 0], boxes[:, 1]) > 2.5).all(), "the own vehicle stands in another one"


def test_the_own_way_is_free() -> None:
    for seed in range(40):
        drive = SyntheticSurround(seed, num_frames=10, height=32, width=32)
        for index in (0, 5, 9):
            boxes = drive._boxes(drive.world_T_vehicle(index))
            blocked = (np.abs(boxes[:, 0]) < 4.5) & (np.abs(boxes[:, 1]) < 1.5)
            assert not blocked.any(), (seed, index)


def test_road_is_asphalt(drive: SyntheticSurround) -> None:
    """Asphalt drawn red, pavement green, grass blue: the road is where the images are red, and nowhere else."""
    painted = SyntheticSurround(drive.seed, num_frames=6, height=H, width=W)
    palette = np.concatenate([np.eye(3), drive._street.palette[3:]])
    painted.__dict__["_street"] = dataclasses.replace(drive._street, palette=palette, lines=np.zeros((0, 4)))
    frame = painted[1]
    points = points_of(frame)
    ground = frame.valid[:, 0] & (np.abs(points[..., 2]) < 1e-3) & (np.hypot(points[..., 0], points[..., 1]) < 25)
    colours = frame.images.transpose(0, 2, 3, 1)[ground]
    pure = colours.max(-1) > 0.9 * colours.sum(-1)  # not on an edge
    road = drive.road(1, points[ground][:, :2])
    assert pure.sum() > 8000
    assert np.array_equal(road[pure], colours[pure].argmax(-1) == 0)
    assert 0.2 < road.mean() < 0.95


def test_the_road_is_as_wide_as_it_was_laid_out(drive: SyntheticSurround) -> None:
    across = np.arange(-30, 30, 0.01)
    road = drive.road(0, np.stack([np.zeros_like(across), across], -1))
    street, pose = drive._street, drive.world_T_vehicle(0)
    width = (street.edges[2] - street.edges[1]) / (pose[2, 0] + street.centre(street.start)[1] * pose[0, 0])
    assert road.sum() * 0.01 == pytest.approx(width, abs=0.05)
    assert np.abs(np.diff(road.astype(int))).sum() == 2  # one piece
    assert drive.road(0, np.zeros(2))


def test_neighbouring_cameras_agree(drive: SyntheticSurround) -> None:
    """A point that two cameras see has the same depth by both, and the same colour."""
    frame = drive[3]
    points, agreeing = points_of(frame), 0
    for first, second in (("front", "front_left"), ("front", "front_right"), ("back", "back_left")):
        a, b = CAMERAS.index(first), CAMERAS.index(second)
        near = frame.valid[a, 0] & (frame.depth[a, 0] < 25)
        cam_T_vehicle = np.linalg.inv(frame.vehicle_T_cam[b].astype(np.float64))
        seen = points[a][near] @ cam_T_vehicle[:3, :3].T + cam_T_vehicle[:3, 3]
        ahead = seen[:, 2] > 0.5
        uv = seen[ahead] @ frame.K[b].astype(np.float64).T
        uv, z = uv[:, :2] / uv[:, 2:], seen[ahead][:, 2]
        u, v = np.rint(uv).astype(int).T
        inside = (u >= 0) & (u < W) & (v >= 0) & (v < H)
        u, v, z = u[inside], v[inside], z[inside]
        assert inside.sum() > 100, (first, second)
        same = np.abs(frame.depth[b, 0, v, u] / z - 1) < 0.05
        assert same.mean() > 0.75, (first, second)  # the rest is hidden from one of them, or at an edge
        colours = frame.images[a].transpose(1, 2, 0)[near][ahead][inside][same]
        others = frame.images[b].transpose(1, 2, 0)[v, u][same]
        assert np.abs(colours - others).mean() < 0.05, (first, second)
        agreeing += int(same.sum())
    assert agreeing > 1500


def test_cameras_look_all_around(drive: SyntheticSurround) -> None:
    """Every direction is seen by a camera; the six overlap only a little."""
    frame = drive[0]
    angles = np.deg2rad(np.arange(0, 360, 1.0))
    far = np.stack([500 * np.cos(angles), 500 * np.sin(angles), np.zeros_like(angles), np.ones_like(angles)])
    seen = np.zeros(len(angles), int)
    for K, pose in zip(frame.K.astype(np.float64), frame.vehicle_T_cam.astype(np.float64), strict=True):
        assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-6)
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1, abs=1e-6)
        cam = (np.linalg.inv(pose) @ far)[:3]
        u = K[0, 0] * cam[0] / cam[2] + K[0, 2]
        seen += (cam[2] > 0) & (u > -0.5) & (u < W - 0.5)
    assert seen.min() == 1
    assert seen.max() == 2
    assert seen.mean() < 1.4


def test_frames_move_by_the_pose(drive: SyntheticSurround) -> None:
    """Boxes stand still in the world."""
    a, b = drive[0], drive[5]
    before, after = [
        frame.world_T_vehicle @ np.concatenate([frame.boxes[:, :3], np.ones((len(frame.boxes), 1))], 1).T
        for frame in (a, b)
    ]
    assert np.allclose(before, after, atol=1e-4)
    assert not np.allclose(a.boxes[:, :2], b.boxes[:, :2], atol=0.5)


def test_a_seed_gives_the_same_bytes_in_any_order() -> None:
    def digest(frame: SurroundFrame) -> str:
        return hashlib.sha256(frame.images.tobytes() + frame.depth.tobytes() + frame.vehicle.tobytes()).hexdigest()

    drive = SyntheticSurround(5, num_frames=3, height=32, width=64)
    forward = [digest(frame) for frame in drive]
    again = SyntheticSurround(5, num_frames=3, height=32, width=64)
    assert [digest(again[index]) for index in (2, 0, -2)] == [forward[2], forward[0], forward[1]]
    assert len(set(forward)) == 3
    assert digest(SyntheticSurround(6, num_frames=3, height=32, width=64)[0]) != forward[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [({"seed": -1}, "seed"), ({"num_frames": 0}, "num_frames"), ({"height": 31}, "height"), ({"max_depth": 9}, "10")],
)
def test_refuses(change: dict[str, float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        SyntheticSurround(**{"seed": 0, **change})  # type: ignore[arg-type]
    drive = SyntheticSurround(0, num_frames=2, height=32, width=32)
    with pytest.raises(IndexError, match="raise num_frames"):
        drive[2]
