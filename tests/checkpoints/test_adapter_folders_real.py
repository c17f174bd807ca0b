"""What the real Monodepth2 and ManyDepth train under a patch on real KITTI frames, read as models of ours."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms.functional import to_tensor

from hybrid_encoder import HybridDepthModel, HybridMatchingModel

from helpers.checkouts import BASE, DATA, DRIVE, HEIGHT, WIDTH, Checkout

Run = Callable[..., tuple[int, str, str]]
MONODEPTH2 = os.environ.get("HYBRID_ENCODER_MONODEPTH2", "")
MANYDEPTH = os.environ.get("HYBRID_ENCODER_MANYDEPTH", "")
MODEL = "mono_640x192"  # test_simple.py takes the names of the published models only
FRAME = DATA / DRIVE / "image_02" / "data" / "0000000005.png"
HYBRID = ["-m", "hybrid_encoder", "run"]

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no KITTI frames at {DATA} (HYBRID_ENCODER_DATA)"),
]


@pytest.mark.monodepth2
@pytest.mark.skipif(not Path(MONODEPTH2, "trainer.py").is_file(), reason="HYBRID_ENCODER_MONODEPTH2 names no checkout")
@pytest.mark.parametrize("decoder", ["dpt", "repository"])
def test_a_model_of_ours_gives_what_the_repositorys_script_does(run: Run, tmp_path: Path, decoder: str) -> None:
    checkout = Checkout(MONODEPTH2, tmp_path / "checkout")
    hybrid = [*HYBRID, "monodepth2", "--encoder", "tiny", "--decoder", decoder, "--"]
    log = ["--log_dir", str(tmp_path / "log"), "--num_epochs", "1", "--max_depth", "80"]
    checkout.run(*hybrid, "train.py", *BASE, *log)
    weights = tmp_path / "log" / "mdp" / "models" / "weights_0"

    shutil.copytree(weights, checkout.folder / "models" / MODEL)
    frame = tmp_path / "frame.png"
    shutil.copy(FRAME, frame)
    checkout.run(*hybrid, "test_simple.py", "--image_path", str(frame), "--model_name", MODEL, "--no_cuda")
    theirs = np.load(tmp_path / "frame_disp.npy")

    model = HybridDepthModel.from_pretrained(weights)
    assert model.config.size == (HEIGHT, WIDTH) and model.config.max_depth == 80.0
    with PIL.Image.open(frame) as image:
        images = to_tensor(image.convert("RGB").resize((WIDTH, HEIGHT), PIL.Image.Resampling.LANCZOS))[None]
    with torch.no_grad():
        disparity = model(images)
    depth = model.to_depth(disparity)
    # test_simple.py writes 1 / depth of its own range, 0.1 to 100, whatever was trained.
    script = 1 / 100 + (1 / 0.1 - 1 / 100) * disparity
    np.testing.assert_allclose(script.numpy(), theirs, rtol=0, atol=1e-5)
    assert depth.max() <= 80.0

    code, out, err = run("info", weights)
    assert code == 0, err
    assert "trained under patch()" in out
    code, _, err = run("predict", frame, "--weights", weights, "--output", tmp_path / "out")
    assert code == 0, err
    assert np.isfinite(np.load(tmp_path / "out" / "frame_relative_depth.npy")).all()
    code, out, err = run("evaluate", DATA / DRIVE, "--weights", weights, "--device", "cpu")
    assert code == 0, err
    assert "abs_rel" in out


@pytest.mark.manydepth
@pytest.mark.skipif(not Path(MANYDEPTH, "manydepth").is_dir(), reason="HYBRID_ENCODER_MANYDEPTH names no checkout")
@pytest.mark.parametrize("decoder", ["dpt", "repository"])
def test_manydepths_student_and_teacher_are_models_of_ours(run: Run, tmp_path: Path, decoder: str) -> None:
    checkout = Checkout(MANYDEPTH, tmp_path / "checkout")
    hybrid = [*HYBRID, "manydepth", "--encoder", "tiny", "--decoder", decoder, "--", "-m", "manydepth.train"]
    checkout.run(*hybrid, *BASE, "--log_dir", str(tmp_path / "log"), "--num_epochs", "1")
    weights = next((tmp_path / "log").rglob("weights_0"))
    student = HybridMatchingModel.from_pretrained(weights)
    bins = student.encoder.depth_bins
    assert bins[0] == pytest.approx(student.config.encoder.min_depth_bin)
    assert bins[-1] == pytest.approx(student.config.encoder.max_depth_bin) and len(bins) == 96
    teacher = HybridDepthModel.from_pretrained(weights / "mono_encoder.pth")
    assert student.config.size == (HEIGHT, WIDTH)
    assert type(teacher.config.decoder) is type(student.config.decoder)
    for source, kind in ((weights, "HybridMatchingModel"), (weights / "mono_encoder.pth", "HybridDepthModel")):
        code, out, err = run("convert", source, tmp_path / kind)
        assert code == 0, err
        assert out.startswith(kind)
