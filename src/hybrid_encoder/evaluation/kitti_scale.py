"""The scale of a model's depth, fitted on KITTI raw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor

from hybrid_encoder.data.kitti import KittiDrive
from hybrid_encoder.data.kitti_splits import frame_name
from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.scale import NO_ROAD, ScaleFit, fit_road, fit_scale
from hybrid_encoder.evaluation.stereo_scale import NO_MATCH, fit_pair
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.sizes import WorkingSize

ScaleSource = Literal["lidar", "camera-height", "stereo"]
KITTI_CAMERA_HEIGHT = 1.65  # metres over the road, as the sensor setup of Geiger et al. 2013 says


def fit_kitti_scale(
    model: HybridDepthModel,
    frames: Sequence[tuple[KittiDrive, int]],
    source: ScaleSource = "lidar",
    *,
    camera_height: float = KITTI_CAMERA_HEIGHT,
    size: WorkingSize = None,
    crop: Literal["garg", "eigen"] | None = "garg",
    max_depth: float = 80.0,
    console: Console | None = None,
) -> ScaleFit:
    """Fit the factor from a model's depth to metres; :meth:`DepthModel.set_metric_scale` takes it.

    Frames that a model is evaluated on must be others, of other drives: a factor fitted to the same frames knows their
    scale.

    Args:
        model: on any device.
        frames: from ``kitti_frames``, with lidar or both cameras where the source needs them.
        source: ``"lidar"``, ``"camera-height"`` or ``"stereo"``: :func:`fit_scale`,
            :func:`scale_from_camera_height`, or :func:`scale_from_stereo` with the baseline of the calibration.
        camera_height: in metres over the road.
        size: to predict at, as for ``infer``.
        crop, max_depth: of the lidar that counts, as for :func:`evaluate_kitti`.
        console: where to show progress.

    Raises:
        InputError: another source, a file that is malformed, a frame without lidar inside the crop, or no frame with a
            road, or whose pair depth explains.
    """
    if source not in get_args(ScaleSource):
        raise InputError(f"source is {source!r}; it must be one of {', '.join(map(repr, get_args(ScaleSource)))}.")
    fits: list[ScaleFit | None] = []
    for drive, frame in track(frames, description="fitting", console=console, disable=console is None):
        depth = _predicted(model, drive, frame, size)
        try:
            if source == "lidar":
                truth = torch.from_numpy(drive.lidar_depth(frame))[None]
                fits.append(fit_scale(depth, truth, max_depth=max_depth, crop=crop))
            elif source == "camera-height":
                fits.append(fit_road(depth[0], torch.from_numpy(drive.K), camera_height))
            else:
                image, other = (_rectified(view, frame) for view in (drive, drive.other))
                fits.append(fit_pair(image, other, depth[0], torch.from_numpy(drive.K), drive.baseline))
        except ValueError as error:
            raise InputError(f"{frame_name(drive, frame)}: {error}") from None
    return ScaleFit.combine(fits, NO_ROAD if source == "camera-height" else NO_MATCH)


def _predicted(model: HybridDepthModel, drive: KittiDrive, frame: int, size: WorkingSize) -> Tensor:
    """Return depth at the size of the rectified images, in the model's unit, on the CPU, (1, 1, H, W)."""
    disparity = model.infer(torch.from_numpy(drive.image(frame))[None], size).disparity
    if disparity.shape[-2:] != drive.size:  # the image files were resized
        disparity = F.interpolate(disparity, drive.size, mode="bilinear", align_corners=False)
    return model.to_depth(disparity).cpu()


def _rectified(drive: KittiDrive, frame: int) -> Tensor:
    """Return an image at the size that its calibration is for, (3, H, W)."""
    image = torch.from_numpy(drive.image(frame))
    if image.shape[-2:] == drive.size:
        return image
    return F.interpolate(image[None], drive.size, mode="bilinear", align_corners=False, antialias=True)[0]
