"""The KITTI protocol for monocular depth: which pixels are evaluated, and the seven usual metrics."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

CROPS = {  # top, bottom, left, right as shares of height and width
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
}
METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "a1", "a2", "a3")


@dataclass(frozen=True)
class DepthMetrics:
    """Errors of depth d against ground truth g, in metres, over the valid pixels of an image.

    Over several images, these numbers are averaged with the same weight for each image (Eigen et al. 2014, "Depth Map
    Prediction from a Single Image using a Multi-Scale Deep Network").

    Args:
        abs_rel: mean |d - g| / g.
        sq_rel: mean (d - g)^2 / g, in metres.
        rmse: root of mean (d - g)^2, in metres.
        rmse_log: root of mean (ln d - ln g)^2.
        a1, a2, a3: share of pixels with max(d / g, g / d) below 1.25, 1.25^2 and 1.25^3.
        num_valid: number of valid pixels; over several images, of all together, as the next two.
        num_below: number of predictions below the range of depth, negative ones among them, that were raised to it.
        num_above: number of predictions above the range that were lowered to it.
    """

    abs_rel: float
    sq_rel: float
    rmse: float
    rmse_log: float
    a1: float
    a2: float
    a3: float
    num_valid: int = 0
    num_below: int = 0
    num_above: int = 0

    def as_dict(self) -> dict[str, float]:
        """Return the seven metrics by name, in the usual order."""
        return {name: getattr(self, name) for name in METRICS}

    @classmethod
    def mean(cls, metrics: Sequence[DepthMetrics]) -> DepthMetrics:
        """Average over images (or over batches of one size).

        Raises:
            ValueError: ``metrics`` is empty.
        """
        if not metrics:
            raise ValueError("there are 0 metrics to average; evaluate at least one image.")
        columns = {field.name: [getattr(m, field.name) for m in metrics] for field in fields(cls)}
        # statistics.mean sums exactly: the order of the images does not matter.
        means = {name: statistics.mean(column) if name in METRICS else sum(column) for name, column in columns.items()}
        return cls(**means)


def depth_metrics(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    median_scaling: bool = False,
    min_depth: float = 1e-3,
    max_depth: float = 80.0,
    crop: Literal["garg", "eigen"] | None = None,
) -> DepthMetrics:
    """Compare depth with ground truth, image by image, and average over the images.

    A pixel is valid where min_depth < target < max_depth, the mask is True, and it is inside the crop. With
    ``median_scaling``, predictions are multiplied by median(target) / median(pred) over the valid pixels; then they are
    clamped to [min_depth, max_depth]. The median of an even number of values is the mean of the middle two, as in
    numpy. The result says how many predictions were clamped: many of them mean another scale, or no depth at all.

    Args:
        pred: depth (not disparity), (B, 1, H, W) or (H, W), in metres, or of any scale with ``median_scaling``. Resize
            it to the size of the ground truth first: the protocol compares at that size.
        target: ground truth in metres, same shape; 0, infinite or NaN where unknown.
        mask: bool, same shape; False leaves a pixel out.
        median_scaling: scale each image's prediction to its ground truth.
        min_depth, max_depth: range of the ground truth, in metres.
        crop: "garg" (Garg et al. 2016, "Unsupervised CNN for Single View Depth Estimation: Geometry to the Rescue";
            usual on the Eigen split), "eigen" (Eigen et al. 2014), or None for the whole image.

    Raises:
        ValueError: shapes that differ, an unknown crop, an empty range of depth, an image without a valid pixel, or
            predictions at valid pixels that are not finite or, with ``median_scaling``, have no positive median.
    """
    return DepthMetrics.mean(
        image_metrics(
            pred,
            target,
            mask,
            median_scaling=median_scaling,
            min_depth=min_depth,
            max_depth=max_depth,
            crop=crop,
        )
    )


def image_metrics(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None,
    *,
    median_scaling: bool,
    min_depth: float,
    max_depth: float,
    crop: str | None,
    leave_out_empty: bool = False,
) -> list[DepthMetrics]:
    """Return the metrics of every image of a batch; arguments and errors as for :func:`depth_metrics`.

    Args:
        leave_out_empty: leave images without a valid pixel out, instead of refusing them.
    """
    valid = valid_pixels(pred, target, mask, min_depth=min_depth, max_depth=max_depth, crop=crop)
    height, width = target.shape[-2:]
    images = (tensor.detach().reshape(-1, height, width) for tensor in (pred, target, valid))
    return [
        _one_image(index, d[use], g[use], median_scaling, min_depth, max_depth)
        for index, (d, g, use) in enumerate(zip(*images, strict=True))
        if not leave_out_empty or bool(use.any())
    ]


def valid_pixels(
    pred: Tensor, target: Tensor, mask: Tensor | None, *, min_depth: float, max_depth: float, crop: str | None
) -> Tensor:
    """Return which pixels count, bool, of the targets' shape; arguments as for :func:`depth_metrics`.

    Raises:
        ValueError: shapes that differ, an unknown crop, an empty range of depth.
    """
    _check(pred, target, mask, min_depth, max_depth, crop)
    valid = (target > min_depth) & (target < max_depth)
    if mask is not None:
        valid &= mask
    if crop is not None:
        valid &= crop_mask(crop, target.shape[-2], target.shape[-1]).to(valid.device)
    return valid


def _check(
    pred: Tensor, target: Tensor, mask: Tensor | None, min_depth: float, max_depth: float, crop: str | None
) -> None:
    """Raise ValueError unless these arguments of ``depth_metrics`` fit together."""
    if pred.shape != target.shape or not (pred.ndim == 2 or (pred.ndim == 4 and pred.shape[1] == 1)):
        raise ValueError(
            f"pred is {_size(pred)} and target is {_size(target)}; both must be (B, 1, H, W) or both "
            "(H, W), of one size: resize the prediction to the ground truth."
        )
    if mask is not None and (mask.shape != target.shape or mask.dtype != torch.bool):
        raise ValueError(
            f"mask is {_size(mask)} of {mask.dtype}; it must be {_size(target)} of torch.bool: convert it."
        )
    if crop is not None and crop not in CROPS:
        raise ValueError(f"crop is {crop!r}; it must be one of {', '.join(map(repr, CROPS))} or None.")
    if not 0 < min_depth < max_depth:
        raise ValueError(f"depth ranges from {min_depth} to {max_depth}; it must be 0 < min_depth < max_depth.")


def _one_image(
    index: int, pred: Tensor, target: Tensor, scale: bool, min_depth: float, max_depth: float
) -> DepthMetrics:
    """Return the metrics of one image from its valid pixels, (N,) each."""
    if target.numel() == 0:
        raise ValueError(
            f"image {index} of the batch has 0 valid pixels; each needs one with ground truth between "
            f"{min_depth} and {max_depth} inside mask and crop: leave the image out."
        )
    d, g = pred.cpu().double(), target.cpu().double()  # not every device has float64
    num_bad = int((~d.isfinite()).sum())
    if num_bad:
        raise ValueError(f"image {index} of the batch has {num_bad} predictions that are not finite; all must be.")
    if scale:
        middle = median(d)
        if middle <= 0:
            raise ValueError(
                f"image {index} of the batch has a median prediction of {middle:g}; median scaling needs a "
                "positive one: give depth, which is positive."
            )
        d = d * (median(g) / middle)
    num_below, num_above = int((d < min_depth).sum()), int((d > max_depth).sum())
    d = d.clamp(min_depth, max_depth)
    return pixel_metrics(d, g, num_below=num_below, num_above=num_above)


def pixel_metrics(pred: Tensor, target: Tensor, *, num_below: int = 0, num_above: int = 0) -> DepthMetrics:
    """Compare depth with ground truth at pixels that all count, as they are: nothing is scaled, clamped or left out.

    Args:
        pred: positive depth in metres, (N,).
        target: positive ground truth in metres, (N,).
        num_below, num_above: how many predictions were clamped before.

    Raises:
        ValueError: no pixel.
    """
    if not target.numel():
        raise ValueError("there are 0 pixels to compare; give at least one.")
    d, g = pred.double(), target.double()
    error, ratio = d - g, torch.maximum(d / g, g / d)
    return DepthMetrics(
        abs_rel=float((error.abs() / g).mean()),
        sq_rel=float((error**2 / g).mean()),
        rmse=float((error**2).mean().sqrt()),
        rmse_log=float(((d.log() - g.log()) ** 2).mean().sqrt()),
        a1=float((ratio < 1.25).double().mean()),
        a2=float((ratio < 1.25**2).double().mean()),
        a3=float((ratio < 1.25**3).double().mean()),
        num_valid=d.numel(),
        num_below=num_below,
        num_above=num_above,
    )


def median(values: Tensor) -> float:
    """Return numpy's median; ``torch.median`` returns the lower of the middle two values."""
    ordered, n = values.sort().values, values.numel()
    return float((ordered[(n - 1) // 2] + ordered[n // 2]) / 2)


def crop_mask(crop: str, height: int, width: int) -> Tensor:
    """Return True inside the crop, bool, (H, W)."""
    top, bottom, left, right = CROPS[crop]
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[int(top * height) : int(bottom * height), int(left * width) : int(right * width)] = True
    return inside


def _size(tensor: Tensor) -> str:
    return "(" + ", ".join(map(str, tensor.shape)) + ")"
