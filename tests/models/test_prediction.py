"""A prediction in colours, as files, and as points."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid_encoder.data.images import colorize, field_of_view
from hybrid_encoder.data.results import is_result
from hybrid_encoder.errors import InputError
from hybrid_encoder.models.prediction import DepthPrediction

from helpers.pictures import scene

HEIGHT, WIDTH = 40, 60


def prediction(metric: bool = False, batch: int = 0, source: object = None) -> DepthPrediction:
    """A ramp from 1 at the bottom to 100 at the top, in 1 / depth."""
    disparity = torch.linspace(0, 1, HEIGHT)[:, None].expand(1, HEIGHT, WIDTH).clone()
    if batch:
        disparity = torch.stack([disparity * (1 + index) / batch for index in range(batch)])
    depth = 1 / (0.01 + 0.99 * disparity)
    return DepthPrediction(disparity, None if metric else depth, depth if metric else None, source)


def test_colours_are_those_of_disparity() -> None:
    one = prediction()
    assert np.array_equal(one.colored(), colorize(one.disparity[0]))
    assert np.array_equal(one.colored("viridis"), colorize(one.disparity[0], name="viridis"))
    assert one.colored().shape == (HEIGHT, WIDTH, 3) and one.colored().dtype == np.uint8


def test_a_fixed_range_is_the_same_for_all_pictures() -> None:
    near, far = prediction().colored(near=1, far=100), prediction(batch=2)[0].colored(near=1, far=100)
    assert np.array_equal(near, colorize(prediction().disparity[0], 0.0, 1.0))
    # The half of the first one's disparity: row 20 of 39 has what the other has in row 39.
    assert np.abs(far[39].astype(int) - colorize(torch.full((1, 1), 0.5), 0, 1)[0, 0]).max() <= 6
    assert np.array_equal(far[0], near[0])


@pytest.mark.filterwarnings("error")
def test_the_widest_range_is_a_range() -> None:
    colours = prediction().colored(near=1e-300, far=1e300)
    assert (colours == colours[0, 0]).all(), "everything is far, measured by such a range"


def test_a_batch_is_coloured_one_by_one() -> None:
    batch = prediction(batch=3)
    assert batch.colored().shape == (3, HEIGHT, WIDTH, 3)
    assert np.array_equal(batch.colored()[1], batch[1].colored())
    assert len(list(batch)) == 3 and batch[-1].disparity.shape == (1, HEIGHT, WIDTH)
    with pytest.raises(IndexError):
        prediction()[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"near": 0}, "near is 0"),
        ({"far": float("inf")}, "far is inf"),
        ({"near": 5, "far": 2}, "near must be the smaller one"),
        ({"near": "5"}, "near is '5'; a number above 0"),
        ({"far": [5]}, "far is .*; a number above 0"),
        ({"colormap": None}, "colormap is None, which"),
        ({"colormap": "magna"}, "'magna', which matplotlib does not have; take one like magma"),
    ],
)
def test_colours_that_cannot_be(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        prediction().colored(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", [False, True])
def test_saved_numbers_are_the_numbers(tmp_path: Path, metric: bool) -> None:
    one = prediction(metric)
    files = one.save(tmp_path / "new", "a", numbers="npy")
    assert [file.name for file in files] == ["a_depth.png", "a_depth_m.npy" if metric else "a_relative_depth.npy"]
    assert np.array_equal(np.load(files[1]), one.depth[0].numpy())
    assert np.array_equal(np.asarray(Image.open(files[0])), one.colored())
    png = one.save(tmp_path, "b", numbers="png16")[1]
    values = np.asarray(Image.open(png)).astype(np.float64)
    expected = one.depth[0].numpy() * 256 if metric else one.disparity[0].numpy() * 65535
    assert np.abs(values - expected).max() <= 0.5
    assert [file.name for file in one.save(tmp_path, "c", numbers=None)] == ["c_depth.png"]
    assert all(map(is_result, tmp_path.rglob("*.*")))


def test_saving_again_replaces_what_was_saved_and_nothing_else(tmp_path: Path) -> None:
    one = prediction()
    one.save(tmp_path, "a")
    one.save(tmp_path, "a")
    (tmp_path / "b_depth.png").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"b_depth.png would be replaced, .* was not written as a prediction"):
        one.save(tmp_path, "b")
    assert (tmp_path / "b_depth.png").read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["a_depth.png", "a_relative_depth.npy", "b_depth.png"]
    for wrong in ({"numbers": "csv"}, {"cloud": "obj"}):
        with pytest.raises(InputError, match="must be"):
            one.save(tmp_path, "c", **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="goes up to 1000 m"):
        DepthPrediction(one.disparity, None, one.depth * 10).save(tmp_path, "c", numbers="png16")
    assert not list(tmp_path.glob("c_*")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["../a", "sub/a", "/tmp/a", "a\0b", 5, None])
def test_a_name_is_no_place(tmp_path: Path, name: object) -> None:
    """What leads out of the folder would be written there at once, over what a person has."""
    (tmp_path / "sub").mkdir()
    with pytest.raises(InputError, match="beginning of a file's name is needed"):
        prediction().save(tmp_path / "sub", name)  # type: ignore[arg-type]
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["sub"]


def test_a_batch_is_saved_by_number(tmp_path: Path) -> None:
    names = [file.name for file in prediction(batch=2).save(tmp_path, "a", numbers=None)]
    assert names == ["a_0_depth.png", "a_1_depth.png"]


def test_points_are_where_the_camera_sees_them() -> None:
    image = scene(HEIGHT, WIDTH)
    flat = DepthPrediction(torch.ones(1, HEIGHT, WIDTH), None, torch.full((1, HEIGHT, WIDTH), 7.0), image)
    cloud = flat.points(fov=90)
    positions = cloud.positions.reshape(HEIGHT, WIDTH, 3)
    # At 90 degrees, half of the width is as long as the distance; the outer centres are half a pixel inside.
    assert positions[0, 0, 0] == pytest.approx(-7 * (WIDTH - 1) / WIDTH, rel=1e-5)
    assert positions[0, -1, 0] == pytest.approx(7 * (WIDTH - 1) / WIDTH, rel=1e-5)
    assert np.all(positions[..., 2] == 7)
    assert np.array_equal(cloud.colors.reshape(HEIGHT, WIDTH, 3), image)
    K = [[30.0, 0, 29.5], [0, 30.0, 19.5], [0, 0, 1]]
    np.testing.assert_allclose(flat.points(intrinsics=K).positions, cloud.positions, rtol=1e-5)
    shares = [[30 / WIDTH, 0, 0.5], [0, 30 / HEIGHT, 0.5], [0, 0, 1]]
    np.testing.assert_allclose(flat.points(intrinsics=shares).positions, cloud.positions, rtol=1e-5)


def test_points_far_away_and_at_edges_are_left_out() -> None:
    one = prediction()
    assert len(one.points(fov=60, edges=None)) == HEIGHT * WIDTH
    assert one.points(fov=60, max_depth=10, edges=None).positions[:, 2].max() <= 10
    depth = torch.full((1, HEIGHT, WIDTH), 20.0)
    depth[:, 10:30, 20:40] = 5.0
    step = DepthPrediction(1 / depth, depth, None)
    assert len(step.points(fov=60, edges=None)) == HEIGHT * WIDTH
    left_out = HEIGHT * WIDTH - len(step.points(fov=60))
    assert 20 * 4 - 4 <= left_out <= 2 * (20 * 4 + 4), "one or two pixels along the edge of a square of 20"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "give fov"),
        ({"fov": 60, "intrinsics": np.eye(3)}, "leave one of them out"),
        ({"fov": 0}, "between 0 and 180"),
        ({"fov": "60"}, "fov is '60'; the horizontal"),
        ({"fov": 60, "max_depth": "5"}, "max_depth is '5'"),
        ({"fov": 60, "edges": -1}, "edges is -1"),
        ({"intrinsics": "K.json"}, "intrinsics is 'K.json'"),
        ({"intrinsics": [[1, 2], [3]]}, "intrinsics is .*3"),
        ({"intrinsics": np.eye(4)}, r"K \(3, 3\)"),
        ({"intrinsics": [[-50, 0, 30], [0, 50, 20], [0, 0, 1]]}, "focal lengths above 0"),
        ({"intrinsics": [[700, 0, 600], [0, 700, 180], [0, 0, 1]]}, "outside of the picture of 40 x 60"),
    ],
)
def test_cameras_that_cannot_be(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        prediction(source=scene(HEIGHT, WIDTH)).points(**arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="take the points of one"):
        prediction(batch=2).points(fov=60)


@pytest.mark.parametrize(
    ("size", "orientation", "fov"),
    [((60, 40), 1, 65.47), ((40, 60), 1, 46.40), ((60, 40), 6, 46.40), ((60, 40), None, 65.47)],
)
def test_the_field_of_view_of_a_photograph(
    tmp_path: Path, size: tuple[int, int], orientation: int | None, fov: float
) -> None:
    """28 mm: 2 atan(36 / 56) = 65.47 degrees along the longer side, and 2 atan(24 / 56) = 46.40 along two thirds."""
    exif = Image.Exif()
    exif[0x8769] = {0xA405: 28}
    if orientation:
        exif[0x0112] = orientation
    Image.new("RGB", size).save(tmp_path / "photo.jpg", exif=exif)
    for source in (tmp_path / "photo.jpg", str(tmp_path / "photo.jpg"), Image.open(tmp_path / "photo.jpg")):
        assert field_of_view(source) == pytest.approx(fov, abs=0.01)
    assert field_of_view(np.zeros((40, 60, 3))) is None
    Image.new("RGB", size).save(tmp_path / "plain.jpg")
    assert field_of_view(tmp_path / "plain.jpg") is None
