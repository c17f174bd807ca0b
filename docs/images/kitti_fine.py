"""Draws kitti_fine.png: real frames, their lidar, and the disparity of a model.

hybrid-encoder train-fine KITTI_RAW --encoder tiny --no-pretrained --steps 300 --output runs/kitti
python docs/images/kitti_fine.py KITTI_RAW runs/kitti/final docs/images/kitti_fine.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.data.images import colorize, contact_sheet, to_pixels, write_png
from hybrid_encoder.evaluation.kitti_listing import frames_with_lidar

SIZE = (120, 400)


def main(root: str, weights: str, output: str) -> None:
    model = HybridDepthModel.from_pretrained(weights)
    rows = []
    for drive, frame in frames_with_lidar(root)[::2]:
        image, lidar = torch.from_numpy(drive.image(frame)), torch.from_numpy(drive.lidar_depth(frame))[None]
        near = torch.where(lidar > 0, 1 / lidar.clamp(min=1e-3), 0.0)
        near = F.adaptive_max_pool2d(near, SIZE)  # points are sparse: the nearest one of a cell
        disparity = F.interpolate(model.infer(image[None], model.config.size).disparity, SIZE, mode="area")
        small = F.interpolate(image[None], SIZE, mode="area")[0]
        rows.append([to_pixels(small), colorize(near[0, 0], low=0.0), colorize(disparity[0, 0], low=0.0)])
    write_png(Path(output), contact_sheet(rows, ("frame", "lidar (not trained on)", "disparity")))


if __name__ == "__main__":
    main(*sys.argv[1:])
