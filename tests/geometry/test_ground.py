"""The plane of the road: the true height and tilt of rendered cameras, real lidar, and what is no road."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid_encoder import InputError
from hybrid_encoder.data import KittiDrive, SyntheticDrive
from hybrid_encoder.geometry import Ground, fit_ground

K = torch.tensor([[200.0, 0, 160], [0, 200.0, 48], [0, 0, 1]])


def plane(height: float, pitch: float = 0.0, roll: float = 0.0) -> torch.Tensor:
    """Depth of a plane under a camera, (1, 96, 320); 0 above its horizon. Angles in degrees, positive looks down."""
    p, r = math.radians(pitch), math.radians(roll)
    normal = torch.tensor([math.sin(r) * math.cos(p), math.cos(r) * math.cos(p), math.sin(p)])
    v, u = torch.meshgrid(torch.arange(96.0), torch.arange(320.0), indexing="ij")
    rays = torch.stack([(u - 160) / 200, (v - 48) / 200, torch.ones_like(u)])
    down = (normal[:, None, None] * rays).sum(0)
    return torch.where(down > 0.02, height / down, 0.0)[None]


def found(depth: torch.Tensor, k: torch.Tensor = K, **options: Any) -> Ground:
    ground = fit_ground(depth, k, **options)
    assert ground is not None
    return ground


@pytest.mark.parametrize(("height", "pitch", "roll"), [(1.65, 0, 0), (0.2, 4, 0), (30.0, -3, 2), (1.2, 6, -5)])
def test_height_and_tilt_of_a_plane(height: float, pitch: float, roll: float) -> None:
    ground = found(plane(height, pitch, roll))
    assert ground.distance == pytest.approx(height, rel=1e-4)
    p, r = math.radians(pitch), math.radians(roll)
    expected = [math.sin(r) * math.cos(p), math.cos(r) * math.cos(p), math.sin(p)]
    assert ground.normal.tolist() == pytest.approx(expected, abs=1e-4)
    assert ground.support == 1 and ground.error < 1e-5


@pytest.mark.parametrize("seed", range(6))
def test_height_of_the_camera_of_a_rendered_street(seed: int) -> None:
    drive = SyntheticDrive(seed, num_frames=2)
    ground = found(torch.from_numpy(drive[1].depth), torch.from_numpy(drive.K))
    assert ground.distance == pytest.approx(-drive.world_T_cam(1)[1, 3], rel=0.01)
    down = drive.world_T_cam(1)[:3, :3].T @ [0, 1, 0]
    assert ground.normal.tolist() == pytest.approx(down.tolist(), abs=0.01)


def test_distance_has_the_unit_of_depth_and_half_of_the_pixels_may_be_wrong() -> None:
    generator = torch.Generator().manual_seed(0)
    depth = plane(1.5)
    wrong = torch.rand(depth.shape, generator=generator) < 0.35
    dirty = torch.where(wrong, 50 * torch.rand(depth.shape, generator=generator), depth)
    noisy = dirty * torch.exp(0.03 * torch.randn(depth.shape, generator=generator))
    for scale in (1.0, 0.01, 700.0):
        ground = found(noisy * scale)
        assert ground.distance == pytest.approx(1.5 * scale, rel=0.01)
        assert 0.6 < ground.support < 0.75
        assert 0.01 < ground.error < 0.04


def test_the_same_depth_gives_the_same_plane() -> None:
    noisy = plane(1.5) * torch.exp(0.05 * torch.randn(1, 96, 320, generator=torch.Generator().manual_seed(1)))
    state = torch.random.get_rng_state()
    once, again = found(noisy), found(noisy)
    assert once.distance == pytest.approx(again.distance, rel=1e-9)  # memory that lies elsewhere is rounded elsewhere
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's random numbers are used


def test_what_is_no_road() -> None:
    random = torch.rand(1, 96, 320, generator=torch.Generator().manual_seed(0)) * 20
    cases = {
        "random depth": random,
        "a wall ahead": torch.full((1, 96, 320), 5.0),
        "a plane that leans to the side by 20 degrees": plane(1.5, roll=20),
        "a plane above": plane(1.5).flip(-2),
        "nothing known": torch.zeros(1, 96, 320),
        "not a number": torch.full((1, 96, 320), math.nan),
    }
    for name, depth in cases.items():
        assert fit_ground(depth, K) is None, name
    assert found(plane(1.5, roll=20), max_tilt=25.0).distance == pytest.approx(1.5, rel=1e-4)
    # The road is looked for in the lower middle alone: what is above and beside it may be anything.
    mixed = random.clone()
    mixed[:, 62:, 96:224] = plane(1.5)[:, 62:, 96:224]
    assert found(mixed).distance == pytest.approx(1.5, rel=1e-4)


def test_shapes_are_checked() -> None:
    for depth, k in ((plane(1.0)[None], K), (plane(1.0), K[None]), (torch.ones(3, 96, 320), K)):
        with pytest.raises(InputError, match=r"\(1, H, W\) and \(3, 3\) are needed"):
            fit_ground(depth, k)
    with pytest.raises(InputError, match="K cannot be inverted"):
        fit_ground(plane(1.0), torch.zeros(3, 3))


@pytest.mark.real_data
def test_height_of_kittis_camera_from_lidar_and_from_annotated_depth(data: Path) -> None:
    """KITTI's cameras are 1.65 m above the road, as its authors say; lidar says 1.62 to 1.64 here."""
    folder = data / "kitti_mini" / "2011_09_26" / "2011_09_26_drive_0001_sync"
    drive = KittiDrive(folder)
    k = torch.from_numpy(drive.K)
    with Image.open(folder / "proj_depth" / "groundtruth" / "image_02" / "0000000005.png") as file:
        annotated = torch.from_numpy(np.asarray(file, np.float32) / 256)[None]
    for depth in (annotated, *(torch.from_numpy(drive.lidar_depth(frame)) for frame in drive.frames)):
        ground = found(depth, k)
        assert ground.distance == pytest.approx(1.65, rel=0.025)
        assert ground.support > 0.95 and ground.error < 0.02
