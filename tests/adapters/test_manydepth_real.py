"""Training and prediction with the real ManyDepth code on real KITTI frames, its files untouched."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid_encoder.data import KittiDrive

from helpers.checkouts import BASE, DATA, DRIVE, HEIGHT, IMAGES, WIDTH, Checkout
from helpers.plugs import plugs

CHECKOUT = os.environ.get("HYBRID_ENCODER_MANYDEPTH", "")
RUN = ["-m", "hybrid_encoder", "run", "manydepth", "--encoder", "tiny"]
TRAIN = ["--", "-m", "manydepth.train", *BASE]

pytestmark = [
    pytest.mark.manydepth,
    pytest.mark.real_data,
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path(CHECKOUT, "manydepth", "trainer.py").is_file(),
        reason="HYBRID_ENCODER_MANYDEPTH names no ManyDepth checkout",
    ),
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no KITTI frames at {DATA} (HYBRID_ENCODER_DATA)"),
]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(CHECKOUT, tmp_path / "checkout")


def _losses(output: str) -> list[float]:
    return [float(loss) for loss in re.findall(r"\| loss: ([\d.]+)", output)]


@plugs("manydepth", "`manydepth.train`, `manydepth.test_simple`", "build", "run", "train", "save", "load")
def test_fifty_steps_then_frozen_saved_resumed_and_predicting_in_both_modes(checkout: Checkout, tmp_path: Path) -> None:
    # 13 epochs of 4 steps; the last one with teacher and pose network frozen.
    log = ["--log_frequency", "1", "--log_dir", str(tmp_path / "log")]
    output = checkout.run(*RUN, *TRAIN, *log, "--num_epochs", "13", "--freeze_teacher_epoch", "12")
    losses = _losses(output)
    first, last = float(np.mean(losses[:8])), float(np.mean(losses[40:48]))
    print(f"\nmean loss of steps 1 to 8: {first:.4f}, of steps 41 to 48: {last:.4f}")
    assert len(losses) == 52 and np.isfinite(losses).all()
    assert last < first
    assert "freezing teacher and pose networks!" in output

    models = tmp_path / "log" / "mdp" / "models"
    before, after = models / "weights_11", models / "weights_12"
    encoder = torch.load(after / "encoder.pth")
    assert (encoder["height"], encoder["width"]) == (HEIGHT, WIDTH)
    assert 0 < encoder["min_depth_bin"] < encoder["max_depth_bin"]
    for name, stays in (("mono_encoder", True), ("mono_depth", True), ("pose", True), ("encoder", False)):
        one, two = (torch.load(folder / f"{name}.pth") for folder in (before, after))
        same = [torch.equal(one[key], two[key]) for key in one if isinstance(one[key], torch.Tensor)]
        assert all(same) is stays, name

    resumed = ["--load_weights_folder", str(after), "--num_epochs", "1"]
    assert len(_losses(checkout.run(*RUN, *TRAIN, *log, *resumed))) == 4
    frozen = ["--freeze_teacher_and_pose", "--mono_weights_folder", str(after)]
    assert len(_losses(checkout.run(*RUN, *TRAIN, *log, *resumed, *frozen))) == 4

    pair = tmp_path / "pair"
    shutil.copytree(IMAGES / "driving_pair", pair)
    for mode in ("multi", "mono"):
        options = ["--target_image_path", str(pair / "test_sequence_target.jpg"), "--model_path", str(after)]
        options += ["--source_image_path", str(pair / "test_sequence_source.jpg"), "--mode", mode]
        options += ["--intrinsics_json_path", str(pair / "test_sequence_intrinsics.json")]
        checkout.run(*RUN, "--", "-m", "manydepth.test_simple", *options)
        disparity = np.load(pair / f"test_sequence_target_disp_{mode}.npy")
        assert disparity.shape == (1, 1, HEIGHT, WIDTH)
        assert np.isfinite(disparity).all() and disparity.std() > 0
    assert not np.array_equal(*(np.load(pair / f"test_sequence_target_disp_{mode}.npy") for mode in ("multi", "mono")))
    checkout.assert_unmodified()


@pytest.mark.parametrize(
    "options",
    [["--decoder", "repository"], ["--teacher", "repository"], ["--decoder", "repository", "--teacher", "repository"]],
    ids=" ".join,
)
def test_one_epoch_with_networks_of_the_repository(checkout: Checkout, tmp_path: Path, options: list[str]) -> None:
    log = ["--log_frequency", "1", "--log_dir", str(tmp_path / "log"), "--num_epochs", "1"]
    losses = _losses(checkout.run(*RUN, *options, *TRAIN, *log))
    print(f"\n{' '.join(options)}: " + " ".join(f"{loss:.4f}" for loss in losses))
    assert len(losses) == 4 and np.isfinite(losses).all()


@plugs("manydepth", "`manydepth.evaluate_depth`", "build", "run", "load")
def test_evaluation(checkout: Checkout, tmp_path: Path) -> None:
    data = tmp_path / "kitti"
    shutil.copytree(DATA, data)
    for file in data.rglob("image_0[23]/data/*.png"):
        with Image.open(file) as image:
            image.save(file.with_suffix(".jpg"), quality=95)
    checkout.run(*RUN, *TRAIN, "--log_dir", str(tmp_path / "log"), "--num_epochs", "1")
    (checkout.folder / "splits" / "eigen").mkdir(exist_ok=True)
    lines = "\n".join(f"{DRIVE} {frame} l" for frame in range(1, 6))
    (checkout.folder / "splits" / "eigen" / "test_files.txt").write_text(lines)
    drive = KittiDrive(DATA / DRIVE)
    truth = np.concatenate([drive.lidar_depth(frame) for frame in range(1, 6)])
    np.savez_compressed(checkout.folder / "splits" / "eigen" / "gt_depths.npz", data=truth)
    weights = str(tmp_path / "log" / "mdp" / "models" / "weights_0")
    options = ["--data_path", str(data), "--load_weights_folder", weights, "--eval_mono", "--eval_split", "eigen"]
    output = checkout.run(*RUN, "--", "-m", "manydepth.evaluate_depth", *options, "--num_workers", "0")
    abs_rel = float(re.findall(r"&\s+([\d.]+)", output)[0])
    print(f"\nevaluate_depth: abs_rel {abs_rel}")
    assert 0 < abs_rel < 1
