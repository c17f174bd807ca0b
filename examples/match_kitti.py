"""Depth from matching alone: real KITTI frames, GPS/IMU poses, lidar as truth. Nothing is trained here.

    python examples/match_kitti.py /data/kitti/2011_09_26/2011_09_26_drive_0001_sync --frame 2 --lookup 1 3

Prints how far the cheapest depth bin is from the lidar, compared with the best constant guess, and writes an image: the
frame, the lidar, and the disparity of the cheapest bin.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder import HybridDepthEncoder, HybridEncoderError
from hybrid_encoder.data import KittiDrive
from hybrid_encoder.data.images import colorize, contact_sheet, to_pixels, write_png
from hybrid_encoder.geometry.plane_sweep import (
    confidence_mask,
    depth_bins,
    lowest_cost_disparity,
    plane_sweep_cost_volume,
)

SIZE = (192, 640)


def features(kind: str, images: Tensor) -> Tensor:
    """Maps at a quarter of the images: 5 x 5 patches of colour, or the first map of the tiny model's CLIP tower."""
    if kind == "rgb":
        small = F.interpolate(images, scale_factor=0.25, mode="area")
        return F.unfold(small, 5, padding=2).unflatten(2, small.shape[-2:])
    semantic = HybridDepthEncoder.from_pretrained("tiny").semantic
    assert semantic is not None
    with torch.no_grad():
        return semantic(images)[0]


def match(drive: KittiDrive, frame: int, lookup: list[int], kind: str) -> tuple[Tensor, Tensor]:
    """Disparity of the cheapest bin and where to trust it, both (h, w)."""
    images = torch.stack([torch.from_numpy(drive.image(i)) for i in (frame, *lookup)])
    scale = np.array([SIZE[1] / images.shape[-1] / 4, SIZE[0] / images.shape[-2] / 4, 1])
    K = torch.eye(4)
    K[:3, :3] = torch.from_numpy(drive.K * scale[:, None])
    poses = [np.linalg.inv(drive.world_T_cam(i)) @ drive.world_T_cam(frame) for i in lookup]
    maps = features(kind, F.interpolate(images, SIZE, mode="bilinear", antialias=True))
    bins = depth_bins(3.0, 80.0, 96, "inverse")
    cost, missing = plane_sweep_cost_volume(
        maps[:1], maps[None, 1:], torch.from_numpy(np.stack(poses)).float()[None], K[None], K.inverse()[None], bins
    )
    return lowest_cost_disparity(cost, bins)[0], confidence_mask(missing)[0]


def errors(disparity: Tensor, mask: Tensor, lidar: Tensor) -> dict[str, float]:
    """Median relative depth error of the cheapest bin, and of the constant that does best, on trusted lidar pixels."""
    shape = lidar.shape[-2:]
    depth = 1 / F.interpolate(disparity[None, None], shape, mode="nearest")[0, 0]
    known = (lidar > 3) & (lidar < 80) & (F.interpolate(mask[None, None], shape, mode="nearest")[0, 0] > 0)
    truth, found = lidar[known], depth[known]
    guesses = torch.linspace(3, 80, 155)
    constant = min(float(((guess - truth).abs() / truth).median()) for guess in guesses)
    return {
        "cheapest bin": float(((found - truth).abs() / truth).median()),
        "best constant": constant,
        "nearer than the constant": float(((found - truth).abs() < (truth.median() - truth).abs()).float().mean()),
        "pixels": float(known.sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drive", type=Path)
    parser.add_argument("--frame", type=int, default=2)
    parser.add_argument("--lookup", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--output", type=Path, default=Path("match_kitti.png"))
    options = parser.parse_args()
    drive = KittiDrive(options.drive)
    lidar = torch.from_numpy(drive.lidar_depth(options.frame))[0]
    panels = [to_pixels(F.interpolate(torch.from_numpy(drive.image(options.frame))[None], SIZE, mode="area")[0])]
    for kind in ("rgb", "tiny"):
        disparity, mask = match(drive, options.frame, options.lookup, kind)
        print(f"{kind}: " + ", ".join(f"{name} {value:.3g}" for name, value in errors(disparity, mask, lidar).items()))
        shown = F.interpolate((disparity * mask)[None, None], SIZE, mode="nearest")[0, 0]
        panels.append(colorize(shown, 0, 0.15))
    inverse = torch.where(lidar > 0, 1 / lidar.clamp(min=1), lidar)
    dots = F.adaptive_max_pool2d(inverse[None, None], (SIZE[0] // 2, SIZE[1] // 2))
    panels.append(colorize(F.interpolate(dots, SIZE, mode="nearest")[0, 0], 0, 0.15))
    frame, colours, tiny, truth = panels
    titles = ("frame; below, cheapest bin of 5 x 5 colours", "lidar; below, cheapest bin of the tiny model's CLIP map")
    write_png(options.output, contact_sheet([[frame, truth], [colours, tiny]], titles))
    print(f"image -> {options.output}")


if __name__ == "__main__":
    try:
        main()
    except (HybridEncoderError, OSError) as error:  # a wrong path or frame: one sentence is enough
        sys.exit(f"error: {error}")
