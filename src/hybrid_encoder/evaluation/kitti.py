"""Evaluation of a single-frame model on KITTI raw, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich.console import Console
from torch import Tensor

from hybrid_encoder.data.kitti import KittiDrive
from hybrid_encoder.evaluation.evaluating import evaluate
from hybrid_encoder.evaluation.ground_truth import kitti_sample
from hybrid_encoder.evaluation.metrics import DepthMetrics
from hybrid_encoder.evaluation.predictors import FunctionPredictor
from hybrid_encoder.evaluation.protocols import PROTOCOLS
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.sizes import WorkingSize


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

    It is :func:`~hybrid_encoder.evaluation.evaluate` by the protocol ``lidar``; ask that function for others, and for
    the numbers of every image.

    Args:
        model: on any device.
        frames: from ``frames_with_lidar``, at least one.
        median_scaling: scale every prediction by the medians of its lidar and itself; needed where the model's scale is
            unknown.
        size: to predict at, as for ``infer``: by default what ``predict`` works at, too.
        crop, max_depth: as for ``depth_metrics``; ``max_depth`` in metres.
        console: where to show progress.

    Raises:
        InputError: a file that is malformed, a frame without a valid lidar point, predictions that are no depth, or
            that are all outside of the range of depth.
    """
    protocol = PROTOCOLS["lidar"].changed(crop=crop, max_truth=max_depth, max_depth=max_depth)
    samples = [kitti_sample(index, drive, frame, "lidar") for index, (drive, frame) in enumerate(frames)]

    def depth(images: Tensor) -> Tensor:
        return model.to_depth(model.infer(images, size).disparity)

    predictor = FunctionPredictor(depth, "depth", name=type(model).__name__)
    found = evaluate(predictor, samples, protocol, median_scaling=median_scaling, distances=(), console=console)
    return found.mean
