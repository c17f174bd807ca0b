"""``hybrid-encoder predict``: the files it writes, and how it refuses wrong input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of different sizes and kinds."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (40, 64, 3)), ("b.jpg", (64, 50, 3)), ("grey.png", (48, 48))):
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(folder / name)
    return folder


def test_maps_and_numbers_have_the_size_of_their_image(run: Run, folder: Path, tmp_path: Path, published: Path) -> None:
    code, out, _ = run("predict", folder, "--weights", published, "--output", tmp_path / "out", "--size", "64x96")
    assert code == 0
    assert "3 images" in out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        f"{stem}_{end}" for stem in ("a", "b", "grey") for end in ("depth.png", "relative_depth.npy")
    )
    for stem, size in (("a", (40, 64)), ("b", (64, 50)), ("grey", (48, 48))):
        depth = np.load(tmp_path / "out" / f"{stem}_relative_depth.npy")
        assert depth.shape == size
        assert depth.dtype == np.float32
        assert np.isfinite(depth).all()
        assert (depth > 0).all()
        coloured = Image.open(tmp_path / "out" / f"{stem}_depth.png")
        assert (coloured.mode, coloured.size) == ("RGB", size[::-1])


def test_numbers_as_16_bit_pngs(run: Run, folder: Path, tmp_path: Path, published: Path) -> None:
    arguments = ("predict", folder / "a.png", "--weights", published, "--device", "cpu")
    assert run(*arguments, "--output", tmp_path / "png", "--numbers", "png16")[0] == 0
    assert run(*arguments, "--output", tmp_path / "npy")[0] == 0
    disparity = np.asarray(Image.open(tmp_path / "png" / "a_disparity_x65535.png")).astype(np.float64) / 65535
    depth = np.load(tmp_path / "npy" / "a_relative_depth.npy")
    np.testing.assert_allclose(disparity, (1 / depth - 0.01) / 9.99, atol=1e-4)


def test_shipped_weights_and_a_glob(run: Run, folder: Path, tmp_path: Path) -> None:
    code, out, _ = run("predict", folder / "*.png", "--output", tmp_path / "out")
    assert code == 0
    assert "2 images" in out


def _text(path: Path) -> Path:
    path.write_text("not an image")
    return path


def _cut(source: Path, path: Path) -> Path:
    content = source.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def _small(path: Path) -> Path:
    Image.new("RGB", (64, 8)).save(path)
    return path


def test_wrong_input_is_refused_in_one_sentence(refused: Callable[..., None], folder: Path, tmp_path: Path) -> None:
    image = folder / "a.png"
    (tmp_path / "empty").mkdir()
    twin = tmp_path / "twin"
    twin.mkdir()
    Image.open(image).save(twin / "a.png")
    cases: list[tuple[list[object], str]] = [
        ([tmp_path / "gone.jpg"], "gone.jpg does not exist"),
        ([_text(tmp_path / "text.jpg")], "text.jpg is not an image"),
        ([_cut(folder / "b.jpg", tmp_path / "cut.jpg")], "cannot be read as an image"),
        ([_small(tmp_path / "small.png")], "small.png is 8 x 64; height and width must be at least 32"),
        ([tmp_path / "empty"], "holds no images"),
        ([tmp_path / "*.nothing"], "matches no file"),
        ([image, twin / "a.png"], "same files"),
        ([image, "--size", "224"], "--size is '224'; give HEIGHTxWIDTH"),
        ([image, "--device", "nonsense"], "--device is 'nonsense'"),
        ([image, "--numbers", "jpg"], "'jpg' is not one of 'npy', 'png16'"),
        ([image, "--weights", tmp_path / "gone"], "gone is neither a file or folder nor a Hub id"),
        ([image, "--weights", tmp_path / "empty"], "holds no checkpoint"),
        ([image, "--output", image], "cannot be made"),
        ([], "Missing argument"),
    ]
    for arguments, says in cases:
        refused(says, "predict", *arguments)


@pytest.mark.real_data
@pytest.mark.slow
def test_a_real_frame_with_a_full_size_published_checkpoint(run: Run, data: Path, tmp_path: Path) -> None:
    """At its original size and at 224 x 672; the weights are drawn by name, so that only the path is tested."""
    from parity import fill

    manifest = Path(__file__).parents[1] / "parity" / "stage2_default.keys.json"
    torch.save(fill.state_dict(manifest, "encoder"), tmp_path / "encoder.pth")
    torch.save(fill.state_dict(manifest, "depth"), tmp_path / "depth.pth")
    frame = data / "kitti_mini/2011_09_26/2011_09_26_drive_0001_sync/image_02/data/0000000001.png"
    for size in ([], ["--size", "224x672"]):
        code, _, err = run("predict", frame, "--weights", tmp_path, "--output", tmp_path / "out", *size)
        assert code == 0, err
        depth = np.load(tmp_path / "out" / "0000000001_relative_depth.npy")
        assert depth.shape == Image.open(frame).size[::-1]
        assert np.isfinite(depth).all()


@pytest.mark.real_data
def test_predict_gives_the_depth_that_evaluate_measures(run: Run, data: Path, tmp_path: Path) -> None:
    """With nothing said about sizes: an abs_rel of 0.245 on KITTI frames, not the 0.882 of their own size."""
    from hybrid_encoder.data.kitti import KittiDrive
    from hybrid_encoder.evaluation.metrics import DepthMetrics, depth_metrics

    drive = KittiDrive(data / "kitti_mini/2011_09_26/2011_09_26_drive_0001_sync")
    images = data / "kitti_mini/2011_09_26/2011_09_26_drive_0001_sync/image_02/data"
    results = {}
    for name, size in (("default", ()), ("native", ("--size", "native"))):
        assert run("predict", images, "-o", tmp_path / name, "--quiet", *size)[0] == 0
        metrics = []
        for frame in drive.frames:
            depth = torch.from_numpy(np.load(tmp_path / name / f"{frame:010d}_relative_depth.npy"))
            truth = torch.from_numpy(drive.lidar_depth(frame))
            metrics.append(depth_metrics(depth, truth.reshape(depth.shape), median_scaling=True, crop="garg"))
        results[name] = DepthMetrics.mean(metrics).abs_rel
    assert results["default"] == pytest.approx(0.245, abs=0.002)
    assert results["native"] == pytest.approx(0.882, abs=0.002)
