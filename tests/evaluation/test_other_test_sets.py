"""Make3D, NYU Depth v2 and Cityscapes in the layouts of the published scripts."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from hybrid_encoder import InputError
from hybrid_encoder.evaluation import cityscapes_samples, make3d_samples, nyu_samples, write_depth_archive


def rows(height: int, width: int) -> Any:
    """An image whose pixels say which row they are in: row // 256 as red, row % 256 as green."""
    row = np.arange(height)[:, None]
    return np.stack(np.broadcast_arrays(row // 256, row % 256, np.zeros((1, width))), -1).astype(np.uint8)


def row_of(pixels: Any) -> int:
    return int(pixels[0, 0]) * 256 + int(pixels[0, 1])


@pytest.fixture
def make3d(tmp_path: Path) -> Path:
    (tmp_path / "Test134").mkdir()
    (tmp_path / "Gridlaserdata").mkdir()
    for scale, name in enumerate(("math7-p-282t0", "op36-p-139t0"), 1):
        Image.fromarray(rows(2272, 1704)).save(tmp_path / "Test134" / f"img-{name}.jpg", format="PNG")
        grid = np.zeros((55, 305, 4))
        grid[..., 3] = scale * np.arange(55)[:, None]
        savemat(tmp_path / "Gridlaserdata" / f"depth_sph_corr-{name}.mat", {"Position3DGrid": grid, "other": [1]})
    return tmp_path


def test_make3d_is_cropped_to_the_middle(make3d: Path) -> None:
    first, second = make3d_samples(make3d)
    assert (first.name, second.name, second.index) == ("img-math7-p-282t0", "img-op36-p-139t0", 1)
    image, truth = second.read_image(), second.read_truth()
    assert image.shape == (852, 1704, 3) and row_of(image[0]) == 710 and row_of(image[-1]) == 1561
    assert truth.shape == (21, 305) and truth.dtype == np.float32
    assert truth[0, 0] == 2 * 17 and truth[-1, 304] == 2 * 37
    assert first.read_lookup is None
    (make3d / "make3d_test_files.txt").write_text("img-op36-p-139t0.jpg\nimg-math7-p-282t0.jpg\n")
    assert [sample.name for sample in make3d_samples(make3d)] == [second.name, first.name]


def test_make3d_that_is_not_whole_is_named(make3d: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laser = make3d / "Gridlaserdata" / "depth_sph_corr-math7-p-282t0.mat"
    sample = make3d_samples(make3d)[0]
    for content, says in ((b"no laser file at all" * 10, "cannot be read"), (b"\0" * 3_000_000, "3,000,000 bytes")):
        laser.write_bytes(content)
        with pytest.raises(InputError, match=says):
            sample.read_truth()
    savemat(laser, {"Position3DGrid": np.zeros((55, 305))})
    with pytest.raises(InputError, match=r"holds Position3DGrid \(55, 305\) of float64; numbers \(55, 305, 4\)"):
        sample.read_truth()
    Image.fromarray(rows(100, 75)).save(make3d / "Test134" / "img-math7-p-282t0.jpg")
    with pytest.raises(InputError, match="is 100 x 75; images of Make3D's test are 2272 x 1704"):
        sample.read_image()
    laser.unlink()
    with pytest.raises(InputError, match=r"depth_sph_corr-math7-p-282t0\.mat does not exist"):
        make3d_samples(make3d)
    with pytest.raises(InputError, match=r"Test134 is not a folder; unpack Test134\.tar\.gz"):
        make3d_samples(make3d / "Test134")
    imported = builtins.__import__

    def without_scipy(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_scipy)
    with pytest.raises(InputError, match=r"scipy is missing.*pip install 'hybrid-encoder\[make3d\]'"):
        make3d_samples(make3d)


def test_nyu_is_a_split_and_an_archive(tmp_path: Path) -> None:
    (tmp_path / "data" / "color").mkdir(parents=True)
    for number in (1, 9):
        Image.fromarray(np.full((48, 64, 3), number, np.uint8)).save(tmp_path / "data" / "color" / f"{number:04d}.png")
    split = tmp_path / "test_files.txt"
    split.write_text("color 0009 l\ncolor 0001 l\n")
    write_depth_archive(tmp_path / "gt_depths.npz", [np.full((480, 640), 9.0), np.full((480, 640), 1.0)])
    first, second = nyu_samples(tmp_path / "data", split)
    assert [first.name, second.name] == ["color 0009", "color 0001"]
    for sample, number in ((first, 9), (second, 1)):
        assert (sample.read_image() == number).all() and (sample.read_truth() == number).all()
    write_depth_archive(tmp_path / "other.npz", [np.ones((480, 640)), np.ones((240, 320))])
    with pytest.raises(InputError, match=r"holds \(240, 320\) at place 1; depth of NYU Depth v2 is 480 x 640"):
        nyu_samples(tmp_path / "data", split, tmp_path / "other.npz")
    write_depth_archive(tmp_path / "other.npz", [np.ones((480, 640))])
    with pytest.raises(InputError, match=r"holds 1 depth maps, and .* lists 2 images"):
        nyu_samples(tmp_path / "data", split, tmp_path / "other.npz")
    split.write_text("color 0009 l\ncolor 0002 l\n")
    with pytest.raises(InputError, match=r"line 2: .*0002\.png does not exist"):
        nyu_samples(tmp_path / "data", split)
    split.write_text("\n")
    with pytest.raises(InputError, match="lists no image"):
        nyu_samples(tmp_path / "data", split)
    split.write_text("color nine l\n")
    with pytest.raises(InputError, match="line 1: 'color nine l' is no image"):
        nyu_samples(tmp_path / "data", split)


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    names = ("bonn_000002_000019", "berlin_000010_000019")
    camera = {"intrinsic": {"fx": 2262.5, "fy": 2265.3, "u0": 1096.98, "v0": 513.137}}
    (tmp_path / "splits" / "gt_depths").mkdir(parents=True)
    (tmp_path / "splits" / "test_files.txt").write_text("".join(f"{name.split('_')[0]} {name}\n" for name in names))
    for index, name in enumerate(names):
        city = name.split("_")[0]
        for kind, file in (("leftImg8bit", name), ("leftImg8bit_sequence", f"{name[:-2]}17")):
            folder = tmp_path / kind / "test" / city
            folder.mkdir(parents=True)
            pixels = rows(1024, 2048)
            pixels[..., 2] = 17 if "sequence" in kind else 19
            Image.fromarray(pixels).save(folder / f"{file}_leftImg8bit.png", compress_level=1)
        folder = tmp_path / "camera_trainvaltest" / "camera" / "test" / city
        folder.mkdir(parents=True)
        (folder / f"{name}_camera.json").write_text(json.dumps(camera))
        depth = np.full((1024, 2048), index + 1.0, np.float32) * np.arange(1024, dtype=np.float32)[:, None]
        np.save(tmp_path / "splits" / "gt_depths" / f"{index:03d}_depth.npy", depth)
    return tmp_path


def test_cityscapes_leaves_the_bonnet_out_and_looks_two_frames_back(cityscapes: Path) -> None:
    bonn, berlin = cityscapes_samples(cityscapes, cityscapes / "splits" / "test_files.txt")
    assert (berlin.name, berlin.drive, berlin.frame) == ("berlin_000010_000019", "berlin_000010", 19)
    image, truth = berlin.read_image(), berlin.read_truth()
    assert image.shape == (768, 2048, 3) and row_of(image[-1]) == 767 and image[0, 0, 2] == 19
    assert truth.shape == (768, 2048) and truth[767, 0] == 2 * 767
    assert berlin.read_lookup is not None and bonn.read_lookup is not None
    before = berlin.read_lookup()
    assert before is not None and before.shape == (768, 2048, 3) and before[0, 0, 2] == 17
    assert berlin.K is not None
    K = np.array([[2262.5, 0, 1096.98], [0, 2265.3, 513.137], [0, 0, 1]])
    np.testing.assert_allclose(berlin.K, K, rtol=1e-6)
    (cityscapes / "leftImg8bit_sequence" / "test" / "bonn" / "bonn_000002_000017_leftImg8bit.png").unlink()
    assert bonn.read_lookup() is None
    (cityscapes / "leftImg8bit_sequence").rename(cityscapes / "elsewhere")
    assert cityscapes_samples(cityscapes, cityscapes / "splits" / "test_files.txt")[0].read_lookup is None


def test_cityscapes_that_is_not_whole_is_named(cityscapes: Path) -> None:
    split = cityscapes / "splits" / "test_files.txt"
    sample = cityscapes_samples(cityscapes, split)[0]
    np.save(cityscapes / "splits" / "gt_depths" / "000_depth.npy", np.ones((768, 2048)))
    with pytest.raises(InputError, match=r"\(768, 2048\); depth of Cityscapes is 1024 x 2048"):
        sample.read_truth()
    Image.fromarray(rows(512, 1024)).save(str(sample.file))
    with pytest.raises(InputError, match="is 512 x 1024; images of Cityscapes are 1024 x 2048"):
        sample.read_image()
    camera = next((cityscapes / "camera_trainvaltest").rglob("bonn*.json"))
    for content, says in (
        ("{}", "no 'intrinsic'"),
        ('{"intrinsic": {"fx": NaN, "fy": 1, "u0": 1, "v0": 1}}', "nan, 1"),
    ):
        camera.write_text(content)
        with pytest.raises(InputError, match=says):
            cityscapes_samples(cityscapes, split)
    camera.unlink()
    with pytest.raises(InputError, match=r"unpack camera_trainvaltest\.zip"):
        cityscapes_samples(cityscapes, split)
    (cityscapes / "splits" / "gt_depths" / "000_depth.npy").unlink()
    with pytest.raises(InputError, match=r"line 1: .*000_depth\.npy does not exist"):
        cityscapes_samples(cityscapes, split)
    split.write_text("bonn berlin_000010_000019\n")
    with pytest.raises(InputError, match="is no image; write lines like"):
        cityscapes_samples(cityscapes, split)


def abs_rel(truth: Any, depth: Any) -> float:
    """abs_rel of one depth for all pixels, scaled by the medians."""
    return float((np.abs(depth * np.median(truth) / np.median(depth) - truth) / truth).mean())


def test_the_command_measures_them_too(make3d: Path, cityscapes: Path, tmp_path: Path, run: Any) -> None:
    out = tmp_path / "numbers.json"
    disparities = tmp_path / "disparities.npy"
    np.save(disparities, np.full((2, 4, 8), 0.1))

    def numbers(protocol: str, *arguments: object) -> dict[str, Any]:
        code, _, err = run("evaluate", *arguments, "--protocol", protocol, "--predictions", disparities, "--json", out)
        assert code == 0, err
        return dict(json.loads(out.read_text()))

    laser = [scale * np.arange(17, 38, dtype=float) for scale in (1, 2)]  # no row has another depth than its column
    found = numbers("make3d", make3d)
    expected = [abs_rel(truth[truth < 70], np.ones(int((truth < 70).sum()))) for truth in laser]
    assert found["abs_rel"] == pytest.approx(np.mean(expected), rel=1e-6)
    assert list(found)[:5] == ["abs_rel", "sq_rel", "rmse", "rmse_log10", "count"] and found["count"] == 2

    depth = np.broadcast_to(np.linspace(1, 60, 1024, dtype=np.float32)[:, None], (1024, 2048))
    for index in range(2):
        np.save(cityscapes / "splits" / "gt_depths" / f"{index:03d}_depth.npy", depth)
    found = numbers("cityscapes", cityscapes, "--split", cityscapes / "splits" / "test_files.txt")
    assert found["abs_rel"] == pytest.approx(abs_rel(depth[256:768, 0], np.ones(512)), rel=1e-6)
    assert found["baselines"]["mean map"]["abs_rel"] < found["abs_rel"]

    rows_of = np.broadcast_to(np.linspace(0.5, 12, 480, dtype=np.float32)[:, None], (480, 640))
    (tmp_path / "color").mkdir()
    for number in (1, 2):
        Image.fromarray(np.zeros((480, 640, 3), np.uint8)).save(tmp_path / "color" / f"{number:04d}.png")
    (tmp_path / "nyu.txt").write_text("color 0001 l\ncolor 0002 l\n")
    write_depth_archive(tmp_path / "gt_depths.npz", [rows_of, rows_of])
    found = numbers("nyu", tmp_path, "--split", tmp_path / "nyu.txt")
    counts = rows_of[45:471, 0][rows_of[45:471, 0] < 10]
    assert found["abs_rel"] == pytest.approx(abs_rel(counts, np.ones(len(counts))), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("make3d", "--camera", 2), "--camera is 2, which is for KITTI; leave it out with --protocol make3d"),
        (("make3d", "--split", "list.txt"), "--split is list.txt, and Make3D's test is all of its folders"),
        (("make3d", "--depths", "x.npz"), "--depths is x.npz, and Make3D's test is all of its folders"),
        (("nyu",), "--split is missing; give the list of the test images, as nyu needs"),
        (("cityscapes",), "--split is missing; give the list of the test images, as cityscapes needs"),
    ],
)
def test_options_that_a_data_set_does_not_have(
    tmp_path: Path, run: Any, arguments: tuple[object, ...], says: str
) -> None:
    code, _, err = run("evaluate", tmp_path, "--protocol", *arguments)
    assert code == 2 and says in " ".join(err.split())
