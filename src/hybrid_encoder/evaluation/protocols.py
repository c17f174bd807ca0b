"""A model on KITTI raw: its depth against the lidar's, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track

from hybrid_encoder.data.kitti import KittiDrive
from hybrid_encoder.data.sequences import find_drives, frame_name, read_split
from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.metrics import DepthMetrics, depth_metrics
from hybrid_encoder.models.depth import HybridDepthModel


def frames_with_lidar(
    root: str | Path, split: str | Path | None = None, camera: int | None = None
) -> list[tuple[KittiDrive, int]]:
    """The frames that have a picture and lidar, in order.

    Args:
        root: KITTI raw, the folder of the dates; without a split, one drive's folder will do.
        split: a text file with a frame a line, ``<date>/<drive> <frame> <l or r>``, as Monodepth2 has them.
        camera: 2 (left) or 3 (right), without a split; by default 2.

    Raises:
        InputError: no drive or no such frame, a camera beside a split, a line of the split that is malformed or names a
            frame that is not there, a calibration file that is missing or wrong.
    """
    found: list[tuple[KittiDrive, int]] = []
    if split is None:
        for drive in (KittiDrive(folder, 2 if camera is None else camera) for folder in find_drives(root)):
            found += [(drive, frame) for frame in drive.frames if _scan(drive, frame).is_file()]
    elif camera is not None:
        raise InputError(
            f"camera is {camera}, and a split is given, whose lines name theirs; leave one of the two out."
        )
    else:
        for drive, frame, place in read_split(root, split):
            if not _scan(drive, frame).is_file():
                raise InputError(
                    f"{place}: {_scan(drive, frame)} does not exist; complete the drive, or take the line out."
                )
            found.append((drive, frame))
    if not found:
        raise InputError(f"{root} has no frame with both a picture and velodyne points; complete a drive.")
    for drive in dict.fromkeys(drive for drive, _ in found):
        _ = drive.size, drive.cam_T_velo  # reads the calibration
    return found


def evaluate_kitti(
    model: HybridDepthModel,
    frames: Sequence[tuple[KittiDrive, int]],
    *,
    median_scaling: bool,
    size: tuple[int, int] | None = None,
    crop: Literal["garg", "eigen"] | None = "garg",
    max_depth: float = 80.0,
    console: Console | None = None,
) -> DepthMetrics:
    """Compare predictions with lidar at its own size (that of the rectified pictures), and average over the frames.

    Args:
        model: on any device.
        frames: of ``frames_with_lidar``, at least one.
        median_scaling: give every prediction the scale of its lidar, as a model of unknown scale needs it.
        size: (H, W) to predict at; by default the one that the model was fitted at, or else the pictures' own.
        crop, max_depth: as in ``depth_metrics``, in metres.
        console: where to show progress.

    Raises:
        InputError: a file that does not hold what it should, a frame without a lidar point that counts, predictions
            that are not finite.
    """
    metrics = []
    for drive, frame in track(frames, description="evaluating", console=console, disable=console is None):
        truth = torch.from_numpy(drive.lidar_depth(frame))[None]
        disparity = model.infer(torch.from_numpy(drive.image(frame))[None], size or model.config.size).disparity
        if disparity.shape != truth.shape:  # the pictures were resized
            disparity = F.interpolate(disparity, truth.shape[-2:], mode="bilinear", align_corners=False)
        depth = model.to_depth(disparity).cpu()
        try:
            metrics.append(depth_metrics(depth, truth, median_scaling=median_scaling, max_depth=max_depth, crop=crop))
        except ValueError as error:
            raise InputError(f"{frame_name(drive, frame)}: {error}") from None
    return DepthMetrics.mean(metrics)


def _scan(drive: KittiDrive, frame: int) -> Path:
    return drive.folder / "velodyne_points" / "data" / f"{frame:010d}.bin"
