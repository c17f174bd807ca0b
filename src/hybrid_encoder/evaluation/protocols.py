"""Evaluation on KITTI raw: predicted depth against lidar, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor

from hybrid_encoder.data.kitti import KittiDrive
from hybrid_encoder.data.opening import is_file
from hybrid_encoder.data.sequences import find_drives, frame_name, read_split
from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.metrics import DepthMetrics, depth_metrics
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.sizes import WorkingSize

Needs = Literal["image", "lidar", "stereo"]


def frames_with_lidar(
    root: str | Path, split: str | Path | None = None, camera: int | None = None
) -> list[tuple[KittiDrive, int]]:
    """List the frames that have an image and lidar, in order: :func:`kitti_frames` with ``needs="lidar"``."""
    return kitti_frames(root, split, camera, needs="lidar")


def kitti_frames(
    root: str | Path, split: str | Path | None = None, camera: int | None = None, needs: Needs = "image"
) -> list[tuple[KittiDrive, int]]:
    """List the frames that have an image and what else is needed, in order.

    Args:
        root: of KITTI raw, the folder with the dates; without a split, also the folder of one drive.
        split: a text file with one frame a line, ``<date>/<drive> <frame> <l or r>``, as Monodepth2's splits.
        camera: 2 (left) or 3 (right), only without a split; by default 2.
        needs: ``"lidar"``, ``"stereo"`` (an image of the other colour camera), or ``"image"``, nothing else.

    Raises:
        InputError: no drive, no frame with all that is needed, a camera and a split, a line of the split that is
            malformed or names a frame that does not exist, a calibration file that does not exist or is malformed.
    """
    frames_of = cache(lambda drive: frozenset(drive.frames))

    def missing(drive: KittiDrive, frame: int) -> Path | None:
        if needs == "lidar":
            return None if is_file(drive.lidar_file(frame)) else drive.lidar_file(frame)
        if needs == "stereo" and frame not in frames_of(drive.other):
            return drive.folder / f"image_0{drive.other.camera}" / "data" / f"{frame:010d}.png"
        return None

    found: list[tuple[KittiDrive, int]] = []
    if split is None:
        for drive in (KittiDrive(folder, 2 if camera is None else camera) for folder in find_drives(root)):
            found += [(drive, frame) for frame in drive.frames if not missing(drive, frame)]
    elif camera is not None:
        raise InputError(
            f"camera is {camera}, and a split is given, whose lines name a camera each; leave one of the two out."
        )
    else:
        for drive, frame, place in read_split(root, split):
            if file := missing(drive, frame):
                raise InputError(f"{place}: {file} does not exist; complete the drive, or remove the line.")
            found.append((drive, frame))
    if not found:
        what = {"lidar": "both an image and velodyne points", "stereo": "images of both colour cameras"}
        raise InputError(f"{root} has no frame with {what.get(needs, 'an image')}; complete a drive.")
    for drive in dict.fromkeys(drive for drive, _ in found):  # a faulty calibration is found before any prediction
        _ = drive.size, drive.K, needs == "lidar" and drive.cam_T_velo, needs == "stereo" and drive.baseline
    return found


def evaluate_kitti(
    model: HybridDepthModel,
    frames: Sequence[tuple[KittiDrive, int]],
    *,
    median_scaling: bool,
    size: WorkingSize = None,
    crop: Literal["garg", "eigen"] | None = "garg",
    max_depth: float = 80.0,
    console: Console | None = None,
) -> DepthMetrics:
    """Compare predictions with lidar at the size of the rectified images, and average over the frames.

    Args:
        model: on any device.
        frames: from ``frames_with_lidar``, at least one.
        median_scaling: scale every prediction by the medians of its lidar and itself; needed where the model's scale is
            unknown.
        size: to predict at, as for ``infer``: by default what ``predict`` works at, too.
        crop, max_depth: as for ``depth_metrics``; ``max_depth`` in metres.
        console: where to show progress.

    Raises:
        InputError: a file that is malformed, a frame without a valid lidar point, predictions that are not finite, or
            that are all outside of the range of depth.
    """
    metrics = []
    for drive, frame in track(frames, description="evaluating", console=console, disable=console is None):
        truth = torch.from_numpy(drive.lidar_depth(frame))[None]
        depth = predict_frame(model, drive, frame, size)
        try:
            metrics.append(depth_metrics(depth, truth, median_scaling=median_scaling, max_depth=max_depth, crop=crop))
        except ValueError as error:
            raise InputError(f"{frame_name(drive, frame)}: {error}") from None
    result = DepthMetrics.mean(metrics)
    if result.num_below + result.num_above == result.num_valid:
        raise InputError(
            f"all of {result.num_valid} predictions are outside of the range of depth, {result.num_below} below and "
            f"{result.num_above} above; the weights do not give metres: scale by medians, or take other weights."
        )
    return result


def predict_frame(model: HybridDepthModel, drive: KittiDrive, frame: int, size: WorkingSize) -> Tensor:
    """Return the depth of one frame at the size of the rectified images, in the model's unit, on the CPU, (1, 1, H, W).

    Args:
        model: on any device.
        drive, frame: of KITTI.
        size: as for :func:`evaluate_kitti`.
    """
    disparity = model.infer(torch.from_numpy(drive.image(frame))[None], size).disparity
    if disparity.shape[-2:] != drive.size:  # the image files were resized
        disparity = F.interpolate(disparity, drive.size, mode="bilinear", align_corners=False)
    return model.to_depth(disparity).cpu()
