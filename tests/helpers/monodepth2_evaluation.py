"""Monodepth2's own ground truth, loader, post-processing and evaluation, in an unmodified checkout.

python monodepth2_evaluation.py RESULT DATA SPLIT WEIGHTS HEIGHT WIDTH

Runs in the checkout's folder. SPLIT lists frames of KITTI raw at DATA; WEIGHTS are of a single-frame model of ours. It
leaves in the folder RESULT: ``gt_eigen.npz`` and ``gt_eigen_benchmark.npz``, the repository's ground truth;
``plain.npy`` and ``flip.npy``, scaled disparities of the model on what the repository's loader reads, without and with
its post-processing; and ``errors.json``, what its ``compute_errors`` returned for every image in each evaluation.
Packages that the repository needs may be in the folder that the environment variable PACKAGES names.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

sys.path.insert(0, os.getcwd())
if os.environ.get("PACKAGES"):
    sys.path.append(os.environ["PACKAGES"])

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.adapters.patching import legacy

result, data, split, weights = (Path(word) for word in sys.argv[1:5])
height, width = int(sys.argv[5]), int(sys.argv[6])
legacy.apply_shims(os.getcwd())
sys.argv[1:] = []

import datasets  # type: ignore[import-not-found]  # noqa: E402  (modules of the checkout)
import evaluate_depth  # type: ignore[import-not-found]  # noqa: E402
from kitti_utils import generate_depth_map  # type: ignore[import-not-found]  # noqa: E402
from layers import disp_to_depth  # type: ignore[import-not-found]  # noqa: E402
from options import MonodepthOptions  # type: ignore[import-not-found]  # noqa: E402

lines = split.read_text().splitlines()
truths: dict[str, list[Any]] = {"eigen": [], "eigen_benchmark": []}
annotated = []
for index, line in enumerate(lines):
    folder, frame, _ = line.split()
    scan = data / folder / "velodyne_points" / "data" / f"{int(frame):010d}.bin"
    calibration = data / folder.split("/")[0]
    truths["eigen"].append(generate_depth_map(calibration, scan, 2, True).astype(np.float32))
    png = data / folder / "proj_depth" / "groundtruth" / "image_02" / f"{int(frame):010d}.png"
    if png.is_file():
        truths["eigen_benchmark"].append(np.array(PIL.Image.open(png)).astype(np.float32) / 256)
        annotated.append(index)
for name, maps in truths.items():
    Path("splits", name).mkdir(exist_ok=True)
    np.savez_compressed(f"splits/{name}/gt_depths.npz", data=np.array(maps))
    shutil.copy(f"splits/{name}/gt_depths.npz", result / f"gt_{name}.npz")

dataset = datasets.KITTIRAWDataset(str(data), lines, height, width, [0], 4, is_train=False, img_ext=".png")
model = HybridDepthModel.from_pretrained(weights).eval()
plain, flipped = [], []
for index in range(len(lines)):
    color = dataset[index][("color", 0, 0)][None]
    with torch.no_grad():  # in batches as ours, whose size changes the last digits: a pixel may change its threshold
        scaled, _ = disp_to_depth(model(color), 0.1, 100)
        plain.append(scaled[0, 0].numpy())
        scaled, _ = disp_to_depth(model(torch.cat((color, torch.flip(color, [3])), 0)), 0.1, 100)
    maps = scaled[:, 0].numpy()
    flipped.append(evaluate_depth.batch_post_process_disparity(maps[:1], maps[1:, :, ::-1])[0])
np.save(result / "plain.npy", np.stack(plain))
np.save(result / "flip.npy", np.stack(flipped))
np.save(result / "annotated.npy", np.stack(plain)[annotated])

computed: list[list[float]] = []
original = evaluate_depth.compute_errors


def remember(gt: Any, pred: Any) -> Any:
    found = original(gt, pred)
    computed.append([float(number) for number in found])
    return found


evaluate_depth.compute_errors = remember
errors = {}
for name, file, options in (
    ("plain", "plain.npy", ["--eval_mono"]),
    ("flip", "flip.npy", ["--eval_mono"]),
    ("stereo", "plain.npy", ["--eval_stereo"]),
    ("unscaled", "plain.npy", ["--eval_mono", "--disable_median_scaling", "--pred_depth_scale_factor", "2"]),
    ("annotated", "annotated.npy", ["--eval_mono", "--eval_split", "eigen_benchmark"]),
):
    sys.argv[1:] = ["--ext_disp_to_eval", str(result / file), *options]
    computed.clear()
    evaluate_depth.evaluate(MonodepthOptions().parse())
    errors[name] = list(computed)
(result / "errors.json").write_text(json.dumps(errors))
