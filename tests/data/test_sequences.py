from __future__ import annotations

import colorsys
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from hybrid_encoder import InputError
from hybrid_encoder.data import (
    Frames,
    KittiDrive,
    KittiSequences,
    SourceSequences,
    SyntheticDrive,
    SyntheticFrame,
    SyntheticSequences,
)
from hybrid_encoder.data.frames import Augment
from hybrid_encoder.data.sources import KittiSource
from hybrid_encoder.geometry.camera import resized_intrinsics, warp
from hybrid_encoder.losses.photometric import photometric_error

from helpers.kitti_layout import write_drive

FULL, HALF = (80, 256), (40, 128)  # of the written images: the left and upper part of what is rendered
NAME = "2011_01_01/2011_01_01_drive_{:04d}_sync"


@pytest.fixture(scope="module")
def full() -> list[SyntheticFrame]:
    return list(SyntheticDrive(3, num_frames=4, height=96, width=320))


@pytest.fixture(scope="module")
def half() -> list[SyntheticFrame]:
    """The same drive seen with half the pixels: its camera is what resizing must arrive at."""
    return list(SyntheticDrive(3, num_frames=4, height=48, width=160))


@pytest.fixture(scope="module")
def root(full: list[SyntheticFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drives, the second without right images, cut so that the principal point is far from the middle."""
    root = tmp_path_factory.mktemp("kitti")
    images = [frame.image[:, : FULL[0], : FULL[1]] for frame in full]
    write_drive(root, {2: images, 3: images[:3]}, full[0].K)
    write_drive(root, {2: images[1:]}, full[0].K, number=5)
    return root


@pytest.fixture
def split(tmp_path: Path) -> Path:
    file = tmp_path / "split.txt"
    file.write_text(f"{NAME.format(5)} 0000000001 l\n\n{NAME.format(1)} 1 r\r\n{NAME.format(1)} 2 l\n")
    return file


def error(item: Frames, frames: list[SyntheticFrame], target: int, mirrored: bool, shift: float = 0.0) -> float:
    """Of the sources at -1 and 1 brought into the target by true depth and motion, with cx moved, where both look."""
    depth = torch.from_numpy(frames[target].depth[:, : HALF[0], : HALF[1]])[None]
    seen = torch.from_numpy(frames[target].valid[:, : HALF[0], : HALF[1]])[None]
    mirror = np.diag([-1.0 if mirrored else 1.0, 1, 1, 1])
    if mirrored:
        depth, seen = depth.flip(-1), seen.flip(-1)
    K = item.K.clone()
    K[0, 2] += shift
    found = []
    for index, source in ((1, target - 1), (2, target + 1)):
        pose = np.linalg.inv(frames[source].world_T_cam) @ frames[target].world_T_cam
        motion = torch.from_numpy(mirror @ pose @ mirror).float()[None]
        warped, inside = warp(item.images[index : index + 1], depth, K[None], motion)
        found.append(photometric_error(warped, item.images[:1])[inside & seen].mean())
    return float(sum(found) / 2)


def mirrored_item(data: KittiSequences, index: int) -> Frames:
    """The first item drawn that is mirrored."""
    straight = KittiSequences.__getitem__(data, index).images
    data.augment = True
    torch.manual_seed(0)
    return next(x for x in (data[index] for _ in range(20)) if torch.equal(x.images, straight.flip(-1)))


def test_intrinsics_are_those_of_a_camera_with_half_the_pixels(root: Path, half: list[SyntheticFrame]) -> None:
    data = KittiSequences(root, HALF)
    torch.testing.assert_close(data[0].K, torch.from_numpy(half[0].K), rtol=1e-6, atol=1e-5)
    flipped = mirrored_item(data, 0)
    expected = torch.from_numpy(half[0].K).clone()
    expected[0, 2] = HALF[1] - 1 - expected[0, 2]  # 47.5 where it was 79.5
    torch.testing.assert_close(flipped.K, expected, rtol=1e-6, atol=1e-5)
    assert data[0].images.shape == (3, 3, *HALF) and data[0].K.dtype == data[0].images.dtype == torch.float32


@pytest.mark.parametrize("mirrored", [False, True])
def test_true_depth_and_motion_bring_resized_sources_into_the_target(
    root: Path, half: list[SyntheticFrame], mirrored: bool
) -> None:
    data = KittiSequences(root, HALF, cameras=(2,))
    item = mirrored_item(data, 0) if mirrored else data[0]
    assert item.name == f"{NAME.format(1)} 1 l"
    true = error(item, half, 1, mirrored)
    unmoved = float(photometric_error(item.images[1:], item.images[:1].expand(2, -1, -1, -1)).mean())
    print(f"error {true:.4f}, of unmoved sources {unmoved:.4f}")
    assert true < 0.5 * unmoved
    other = HALF[1] - 1 - 2 * float(item.K[0, 2])  # to the principal point of the mirror image
    for shift in (other, -other):
        print(f"cx {shift:+.0f}: {error(item, half, 1, mirrored, shift):.4f}")
        assert error(item, half, 1, mirrored, shift) > 1.3 * true


@given(
    frame=st.tuples(st.integers(32, 1300), st.integers(32, 1300)),
    size=st.tuples(st.integers(32, 1300), st.integers(32, 1300)),
    point=st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.floats(1, 80)),
)
def test_points_land_where_resizing_takes_their_pixel(
    frame: tuple[int, int], size: tuple[int, int], point: tuple[float, float, float]
) -> None:
    K = torch.tensor([[700.0, 0, 600], [0, 720, 170], [0, 0, 1]], dtype=torch.float64)
    xyz = torch.tensor(point, dtype=torch.float64)
    before, after = ((k @ xyz)[:2] / xyz[2] for k in (K, resized_intrinsics(K, frame, size)))
    scale = torch.tensor([size[1] / frame[1], size[0] / frame[0]], dtype=torch.float64)
    torch.testing.assert_close(after, (before + 0.5) * scale - 0.5)


def test_every_frame_with_all_neighbours_is_an_item_in_order(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, five = NAME.format(1), NAME.format(5)
    data = KittiSequences(str(root), HALF)
    assert [data[i].name for i in range(len(data))] == [f"{one} 1 l", f"{one} 2 l", f"{one} 1 r", f"{five} 1 l"]
    assert len({item.name for item in iter(data)}) == 4  # iteration ends
    assert [x.name for x in iter(KittiSequences(root, HALF, (1, 3)))] == [f"{one} 0 l"]
    assert [x.name for x in iter(KittiSequences(root, HALF, (-2,), cameras=(3, 2)))] == [
        f"{one} 2 r", f"{one} 2 l", f"{one} 3 l", f"{five} 2 l"
    ]  # fmt: skip
    assert [x.name for x in iter(KittiSequences(root / five, HALF))] == [f"{five} 1 l"]
    monkeypatch.chdir(root / five)
    assert [x.name for x in iter(KittiSequences(".", HALF))] == [f"{five} 1 l"]


def test_a_split_is_read_in_its_own_order(root: Path, split: Path) -> None:
    data = KittiSequences(root, HALF, split=split)
    names = [f"{NAME.format(5)} 1 l", f"{NAME.format(1)} 1 r", f"{NAME.format(1)} 2 l"]
    assert [item.name for item in iter(data)] == names
    assert [item.name for item in iter(KittiSequences(root, HALF, split=str(split), cameras=[3]))] == names[1:2]
    split.write_text("\n".join(names), encoding="utf-8-sig")  # as some editors of Windows save it
    assert [item.name for item in iter(KittiSequences(root, HALF, split=split))] == names, "a name is a line of a split"


def test_the_target_comes_first_and_sources_as_the_offsets_have_them(root: Path, full: list[SyntheticFrame]) -> None:
    images = KittiSequences(root, FULL, (2, -1), cameras=(2,))[0].images
    for image, frame in zip(images, (1, 3, 0), strict=True):
        expected = full[frame].image[:, : FULL[0], : FULL[1]]
        np.testing.assert_allclose(image.numpy(), expected, atol=0.5 / 255 + 1e-6)


def test_images_are_averaged_when_they_shrink(tmp_path: Path) -> None:
    """Stripes a pixel wide turn grey at a fifth of the width, where sampling without antialias would keep them."""
    stripes = np.tile(np.arange(200) % 2.0, (3, 40, 1))
    write_drive(tmp_path, {2: [stripes] * 3}, np.diag([50, 50, 1]))
    image = KittiSequences(tmp_path, (40, 40))[0].images[0]
    assert (image - 0.5).abs().max() < 0.1
    assert F.interpolate(torch.from_numpy(stripes)[None], (40, 40), mode="bilinear").std() > 0.4


def synthetic(frames: list[SyntheticFrame], augment: Augment = True) -> SyntheticSequences:
    """Frames whose principal point is not in the middle, so that mirroring moves it."""
    K = frames[0].K.copy()
    K[0, 2] = 50
    return SyntheticSequences([[replace(frame, K=K) for frame in frames]], augment=augment)


def draws(data: SyntheticSequences, count: int = 40, seed: int = 0) -> list[Frames]:
    torch.manual_seed(seed)
    return [data[0] for _ in range(count)]


def test_a_change_of_colours_leaves_the_images_and_geometry_alone(half: list[SyntheticFrame]) -> None:
    plain, mirrored, changed = synthetic(half, augment=False)[0], 0, 0
    assert plain.augmented is plain.images and plain.name == "drive 0, frame 1"
    for item in draws(synthetic(half)):
        flip = not torch.equal(item.images, plain.images)
        assert torch.equal(item.images, plain.images.flip(-1) if flip else plain.images)
        assert item.K[0, 2] == (109 if flip else 50) and torch.equal(item.K[:, :2], plain.K[:, :2])
        mirrored += flip
        if not torch.equal(item.augmented, item.images):
            changed += 1
            assert item.augmented.min() >= 0 and item.augmented.max() <= 1
            assert 1e-3 < (item.augmented - item.images).abs().mean() < 0.3
    assert 10 < mirrored < 30 and 10 < changed < 30
    only = draws(synthetic(half, augment="flip"))
    assert all(torch.equal(item.augmented, item.images) for item in only)
    assert 10 < sum(torch.equal(item.images, plain.images.flip(-1)) for item in only) < 30


def test_all_frames_of_an_item_change_alike(half: list[SyntheticFrame]) -> None:
    """Among other neighbours a frame comes out the same, and three times the same frame three times the same."""
    changed = 0
    for one, other, still in zip(
        *(draws(synthetic([half[i] for i in order]), 12) for order in ((0, 1, 2), (3, 1, 2), (1, 1, 1))), strict=True
    ):
        assert torch.equal(one.augmented[0], other.augmented[0]) and torch.equal(one.augmented[2], other.augmented[2])
        assert torch.equal(still.augmented, still.augmented[:1].expand(3, -1, -1, -1))
        assert torch.equal(still.augmented[0], one.augmented[0])
        changed += not torch.equal(one.augmented, one.images)
    assert changed > 2


def test_the_change_stays_in_its_range(half: list[SyntheticFrame]) -> None:
    """Its four numbers, worked out from what one seed does to a grey step and to a plain colour."""
    step = np.full_like(half[0].image, 0.45)
    step[..., 80:] = 0.55
    plain = np.broadcast_to(np.array([0.6, 0.5, 0.4], np.float32)[:, None, None], step.shape)  # hue 1/12
    factors = []
    for grey, coloured in zip(*(draws(synthetic([replace(half[0], image=x)] * 3)) for x in (step, plain)), strict=True):
        if torch.equal(coloured.augmented, coloured.images):
            continue
        brightness = float(grey.augmented.mean()) / 0.5
        contrast = float(grey.augmented.max() - grey.augmented.min()) / 0.1 / brightness
        colour = coloured.augmented[0, :, 0, 0]
        saturation = float(colour.max() - colour.min()) / 0.2 / brightness / contrast
        hue = (colorsys.rgb_to_hsv(*colour.tolist())[0] - 1 / 12 + 0.5) % 1 - 0.5
        factors.append((brightness - 1, contrast - 1, saturation - 1, hue))
    for values, most in zip(zip(*factors, strict=True), (0.2, 0.2, 0.2, 0.1), strict=True):
        assert -most - 1e-3 < min(values) < -most / 2 and most / 2 < max(values) < most + 1e-3


def test_torchs_seed_repeats_an_item(half: list[SyntheticFrame]) -> None:
    data = synthetic(half)
    for one, other in zip(draws(data, 8, seed=3), draws(data, 8, seed=3), strict=True):
        assert torch.equal(one.augmented, other.augmented) and torch.equal(one.images, other.images)
    state = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    draws(data, 8)
    assert state == (random.getstate(), np.random.get_state()[1].tolist()), "no other generator is used"  # type: ignore[index]  # noqa: NPY002


def test_items_make_batches(root: Path, half: list[SyntheticFrame]) -> None:
    for data, size in ((KittiSequences(root, HALF, augment=True), HALF), (synthetic(half), (48, 160))):
        batch = next(iter(DataLoader(data, batch_size=2)))
        assert isinstance(batch, Frames)
        assert batch.images.shape == batch.augmented.shape == (2, 3, 3, *size) and batch.K.shape == (2, 3, 3)
        names: object = batch.name  # a tuple in a batch
        assert names == (data[0].name, data[1].name)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 5), max_size=3),
    offsets=st.lists(st.integers(-3, 3).filter(bool), min_size=1, max_size=4, unique=True),
)
def test_synthetic_items_are_the_frames_with_all_neighbours(
    half: list[SyntheticFrame], lengths: list[int], offsets: list[int]
) -> None:
    drives = [[half[i % 4] for i in range(length)] for length in lengths]
    expected = [
        (drive, frame)
        for drive, length in enumerate(lengths)
        for frame in range(length)
        if all(0 <= frame + offset < length for offset in offsets)
    ]
    if not expected:
        with pytest.raises(InputError, match=r"frames long, and none has a frame with neighbours at"):
            SyntheticSequences(drives, offsets)
        return
    data = SyntheticSequences(drives, offsets)
    assert [item.name for item in iter(data)] == [f"drive {drive}, frame {frame}" for drive, frame in expected]
    for item, (drive, frame) in zip(iter(data), expected, strict=True):
        for image, offset in zip(item.images, (0, *offsets), strict=True):
            assert np.array_equal(image.numpy(), drives[drive][frame + offset].image)


def test_a_drive_renders_on_demand(half: list[SyntheticFrame]) -> None:
    on_demand = SyntheticSequences([SyntheticDrive(3, num_frames=4, height=48, width=160)])
    assert len(on_demand) == 2 and torch.equal(on_demand[1].images, SyntheticSequences([half])[1].images)


@pytest.mark.parametrize("offsets", [(), (0,), (-1, 0), (1, 1), (0.5,), (True,), ("1",)])
def test_offsets_that_name_no_neighbours_are_refused(
    root: Path, half: list[SyntheticFrame], offsets: tuple[int, ...]
) -> None:
    message = r"offsets is \(.*\); give distinct integers other than 0, at least one"
    with pytest.raises(InputError, match=message):
        KittiSequences(root, HALF, offsets)
    with pytest.raises(InputError, match=message):
        SyntheticSequences([half], offsets)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "'nonsense' is not a frame; write <date>/<drive> <frame> <l or r>, such as '2011_09_26/"),
        (f"{NAME.format(1)} 1", "1' is not a frame"),
        (f"{NAME.format(1)} 1 m", "1 m' is not a frame"),
        (f"{NAME.format(1)} -1 l", "-1 l' is not a frame"),
        (f"{NAME.format(1)} 1 l r", "1 l r' is not a frame"),
        (b"\xff 1 l", "is not a folder"),
        (f"{NAME.format(9)} 1 l", "drive_0009_sync is not a folder; give <root>/<date>"),
        (f"{NAME.format(1)} 7 l", "drive_0001_sync has no image 7 of camera 2; complete the drive, or remove the line"),
        (f"{NAME.format(5)} 0 r", "drive_0005_sync has no image 0 of camera 3"),
        (f"{NAME.format(1)} 0 l", "frame 0 has no neighbour -1 in .*drive_0001_sync, camera 2; complete the drive, or"),
        (f"{NAME.format(1)} 2 r", "frame 2 has no neighbour 3 in .*drive_0001_sync, camera 3"),
    ],
)
def test_a_line_that_names_no_frame_is_named_with_its_number(
    root: Path, split: Path, line: str | bytes, message: str
) -> None:
    with split.open("ab") as file:
        file.write(line if isinstance(line, bytes) else line.encode())
    with pytest.raises(InputError, match=rf"split\.txt, line 5: .*{message}"):
        KittiSequences(root, HALF, split=split)


def test_other_bad_input_is_named(root: Path, split: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no drive, <date>/<date>_drive_<number>_sync; give the folder of"):
        KittiSequences(tmp_path)
    with pytest.raises(InputError, match=r"gone\.txt does not exist; give a text file with lines"):
        KittiSequences(root, split=tmp_path / "gone.txt")
    with pytest.raises(InputError, match=r"size is \(16, 64\); it must be \(H, W\) with at least 32"):
        KittiSequences(root, (16, 64))
    for cameras in ((), (1,), (2, 2)):
        with pytest.raises(InputError, match=r"cameras is \(.*\); give 2 \(left\), 3 \(right\) or both"):
            KittiSequences(root, HALF, cameras=cameras)
    with pytest.raises(InputError, match=r"kitti.* has no frame of cameras \(2, 3\) with neighbours at \(9,\); give"):
        KittiSequences(root, HALF, (9,))
    split.write_text(f"{NAME.format(1)} 1 l\n")
    with pytest.raises(InputError, match=r"split\.txt has no frame of cameras \(3,\) with neighbours at \(-1, 1\)"):
        KittiSequences(root, HALF, split=split, cameras=(3,))
    split.write_text("\n \n")
    with pytest.raises(InputError, match=r"split\.txt names no frame; write lines"):
        KittiSequences(root, HALF, split=split)
    images = [np.zeros((3, 40, 40))] * 3
    folder = write_drive(tmp_path, {2: images}, np.eye(3))
    (folder.parent / "calib_cam_to_cam.txt").unlink()
    with pytest.raises(InputError, match="calibration files lie beside"):
        KittiSequences(tmp_path, HALF)


@pytest.mark.real_data
def test_lidar_and_gps_bring_real_sources_into_the_target(data: Path) -> None:
    """At lidar points, resized neighbours look more like the target where the points are than where they stand."""
    sequences = KittiSequences(data / "kitti_mini", (192, 640))
    assert len(sequences) == 8
    for index in (0, 2, 4, 6):
        item = sequences[index]
        folder, frame, side = item.name.split()
        drive, target = KittiDrive(data / "kitti_mini" / folder, {"l": 2, "r": 3}[side]), int(frame)
        lidar = drive.lidar_depth(target)[0]
        v, u = np.nonzero(lidar)
        rays = np.linalg.inv(drive.K.astype(float)) @ np.stack([u, v, np.ones_like(u)])
        xyz = np.vstack([rays * lidar[v, u], np.ones_like(u)])
        for number, source in ((1, target - 1), (2, target + 1)):
            if source > 4:
                continue  # GPS ends there
            there = (np.linalg.inv(drive.world_T_cam(source)) @ drive.world_T_cam(target) @ xyz)[:3]
            own, moved = (item.K.double().numpy() @ points for points in (xyz[:3], there))
            colours = [read(item.images[i], points) for i, points in ((0, own), (number, own), (number, moved))]
            still, found = (float((colours[0] - other).abs().mean()) for other in colours[1:])
            print(f"{item.name}, from {source}: {found:.4f}, unmoved {still:.4f}")
            assert found < 0.75 * still


def read(image: Tensor, points: np.ndarray) -> Tensor:
    """Colours of an image at projected points (3, N), its border continued."""
    size = torch.tensor([image.shape[-1] - 1, image.shape[-2] - 1])
    grid = torch.from_numpy(points[:2] / points[2]).float().T / size * 2 - 1
    return F.grid_sample(image[None], grid[None, None], padding_mode="border", align_corners=True)[0, :, 0]


def test_two_cameras_of_a_drive_are_cut_at_one_moment(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((12, 3, 32, 64), np.float32)
    own = np.array([[50, 0, 31], [0, 50, 15], [0, 0, 1]], np.float32)
    drive = write_drive(tmp_path, {2: list(images), 3: list(images[:8])}, own)  # camera 3 has lost the last four
    training, held_out = KittiSequences(drive, (32, 64), stereo=False).split(0.25)
    assert {item.frame for item in training.items} == {1, 2, 3}
    assert {(item.source, item.frame) for item in held_out.items} == {(1, 6), *((0, frame) for frame in range(6, 11))}
    other = write_drive(tmp_path / "other", {2: list(images[:6])}, own, number=2)
    sources = [*training.sources, KittiSource(KittiDrive(other))]
    training, held_out = SourceSequences(sources, (32, 64)).split(0.5)
    assert {(item.source, item.frame) for item in training.items if item.source == 2} == {(2, 1)}


def test_whole_recordings_are_held_out() -> None:
    drives = [SyntheticDrive(seed, num_frames=5, height=48, width=64) for seed in range(4)]
    items = SyntheticSequences(drives, augment=True)
    training, held_out = items.split(0.5, whole=True)
    assert {item.source for item in training.items} == {0, 1} and {item.source for item in held_out.items} == {2, 3}
    assert len(training) == len(held_out) == 6 and training.augment is True and held_out.augment is False
    with pytest.raises(InputError, match=r"0\.9 of 1 recordings leaves none to train on"):
        SyntheticSequences(drives[:1]).split(0.9, whole=True)
