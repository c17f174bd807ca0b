"""The command line as a user types it: what it writes, what it says, and how it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid_encoder import HybridDepthEncoder, HybridDepthModel
from hybrid_encoder.config import PromptConfig

from helpers.published_layout import small_config, stage1_config, write_published, write_stage1


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = HybridDepthModel(small_config(prompts=PromptConfig(num_tokens=6)), pretrained=False)
    return write_published(model, tmp_path_factory.mktemp("published"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (
        ("a.png", (40, 64, 3)),
        ("b.jpg", (64, 50, 3)),
        ("grey.png", (48, 48)),
    ):
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(folder / name)
    return folder


def test_predict_writes_pictures_and_numbers_at_the_original_size(
    run, pictures: Path, tmp_path: Path, published: Path
) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = run(
        "predict",
        pictures,
        "--weights",
        published,
        "--output",
        tmp_path / "out",
        "--size",
        "64x96",
    )
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
        picture = Image.open(tmp_path / "out" / f"{stem}_depth.png")
        assert (picture.mode, picture.size) == ("RGB", size[::-1])


def test_predict_writes_16_bit_pngs(run, pictures: Path, tmp_path: Path, published: Path) -> None:  # type: ignore[no-untyped-def]
    arguments = (
        "predict",
        pictures / "a.png",
        "--weights",
        published,
        "--device",
        "cpu",
    )
    assert run(*arguments, "--output", tmp_path / "png", "--numbers", "png16")[0] == 0
    assert run(*arguments, "--output", tmp_path / "npy")[0] == 0
    disparity = np.asarray(Image.open(tmp_path / "png" / "a_disparity_x65535.png")).astype(np.float64) / 65535
    depth = np.load(tmp_path / "npy" / "a_relative_depth.npy")
    np.testing.assert_allclose(disparity, (1 / depth - 0.01) / 9.99, atol=1e-4)


def test_predict_with_the_shipped_weights_and_a_glob(run, pictures: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = run("predict", pictures / "*.png", "--output", tmp_path / "out")
    assert code == 0
    assert "2 images" in out


def test_convert_and_info(run, published: Path, tmp_path: Path, images) -> None:  # type: ignore[no-untyped-def]
    assert run("convert", published, tmp_path / "ours")[0] == 0
    ours, theirs = (HybridDepthModel.from_pretrained(path) for path in (tmp_path / "ours", published))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=0)
    for source, layout in (
        (published, "Hybrid-depth stage 2"),
        (tmp_path / "ours", "hybrid-encoder"),
    ):
        code, out, _ = run("info", source)
        assert code == 0
        for part in (
            layout,
            "encoder and decoder",
            "6 learned tokens",
            "concat",
            "interp_conv1x1",
            "70 x 98",
        ):
            assert part in out
    code, _, err = run("convert", published, tmp_path / "ours")
    assert code == 2
    assert "exists already" in err


def test_convert_a_stage_1_checkpoint(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = write_stage1(HybridDepthModel(stage1_config(), pretrained=False), tmp_path / "stage1.ckpt")
    assert run("convert", path, tmp_path / "ours")[0] == 0
    assert HybridDepthEncoder.from_pretrained(tmp_path / "ours").config.prompts is not None
    assert "7 words" in run("info", path)[1]


def test_a_short_demo_leaves_picture_and_weights(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = run(
        "demo",
        "--output",
        tmp_path / "demo.png",
        "--coarse-steps",
        3,
        "--fine-steps",
        2,
        "--drives",
        2,
        "--cpu",
        "--save",
        tmp_path / "w",
    )
    assert code == 0
    assert "nearer is said to be nearer: 0." in out
    assert "abs_rel (median-scaled) on held-out drives: 0." in out
    assert Image.open(tmp_path / "demo.png").size[0] > 1000
    assert "demo --coarse-steps 3 --fine-steps 2 --drives 2 --seed 0" in (tmp_path / "w" / "README.md").read_text()
    assert HybridDepthModel.from_pretrained(tmp_path / "w").config.size == (96, 320)


def _text(path: Path) -> Path:
    path.write_text("no picture")
    return path


def _cut(source: Path, path: Path) -> Path:
    content = source.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def _small(path: Path) -> Path:
    Image.new("RGB", (64, 8)).save(path)
    return path


def test_bad_input_is_one_sentence_and_exit_status_2(refused, pictures: Path, published: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    picture = pictures / "a.png"
    (tmp_path / "empty").mkdir()
    twin = tmp_path / "twin"
    twin.mkdir()
    Image.open(picture).save(twin / "a.png")
    cases = [
        (["predict", tmp_path / "gone.jpg"], "gone.jpg does not exist"),
        (["predict", _text(tmp_path / "text.jpg")], "text.jpg is not an image"),
        (
            ["predict", _cut(pictures / "b.jpg", tmp_path / "cut.jpg")],
            "cannot be read as an image",
        ),
        (
            ["predict", _small(tmp_path / "small.png")],
            "small.png is 8 x 64; height and width must be at least 32",
        ),
        (["predict", tmp_path / "empty"], "holds no images"),
        (["predict", tmp_path / "*.nothing"], "matches no file"),
        (["predict", picture, twin / "a.png"], "same files"),
        (["predict", picture, "--size", "224"], "--size is '224'; give HEIGHTxWIDTH"),
        (["predict", picture, "--device", "nonsense"], "--device is 'nonsense'"),
        (["predict", picture, "--weights", tmp_path / "gone"], "is no file or folder"),
        (["predict", picture, "--weights", tmp_path / "empty"], "holds no checkpoint"),
        (["predict", picture, "--output", picture], "cannot be made"),
        (["info", tmp_path / "text.jpg"], "no checkpoint that torch can read"),
        (["convert", tmp_path / "gone.ckpt", tmp_path / "x"], "is no file or folder"),
        (["demo", "--output", tmp_path / "no" / "demo.png"], "is no folder"),
        (["demo", "--fine-steps", 0], "--fine-steps"),
        (["predict"], "Missing argument"),
        (["fly"], "No such command"),
    ]
    for arguments, says in cases:
        refused(says, *arguments)


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, hybrid_encoder.cli; print([m for m in ('torch', 'timm', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.real_data
@pytest.mark.slow
def test_a_real_frame_with_a_full_size_published_checkpoint(run, data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """At its original size and at 224 x 672 (weights drawn by name: the picture means nothing, the path does)."""
    from test_parity import FOLDER, fill

    manifest = FOLDER / "stage2_default.keys.json"
    torch.save(fill.state_dict(manifest, "encoder"), tmp_path / "encoder.pth")
    torch.save(fill.state_dict(manifest, "depth"), tmp_path / "depth.pth")
    frame = data / "kitti_mini/2011_09_26/2011_09_26_drive_0001_sync/image_02/data/0000000001.png"
    for size in ([], ["--size", "224x672"]):
        code, _, err = run("predict", frame, "--weights", tmp_path, "--output", tmp_path / "out", *size)
        assert code == 0, err
        depth = np.load(tmp_path / "out" / "0000000001_relative_depth.npy")
        assert depth.shape == Image.open(frame).size[::-1]
        assert np.isfinite(depth).all()
