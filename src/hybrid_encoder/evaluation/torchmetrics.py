"""The seven usual numbers as a metric of torchmetrics, for Lightning and for loops of one's own."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor

from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.metrics import METRICS, DepthMetrics, image_metrics

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ImportError(
        f"the package {error.name or 'torchmetrics'} is missing; pip install 'hybrid-encoder[metrics]'."
    ) from error

LIMBS, BITS = 4, 32  # a sum is a whole number and three parts of 32 bits: exact to 2^-96


class DepthMetric(Metric):
    """The seven usual metrics of depth, over all images that were given: :func:`depth_metrics` in steps.

    Every image has the same weight, whatever batches it came in. The sums are kept as whole numbers: several processes
    give the very number that one gives on all their images, in any order, and a module's conversion to half precision
    does not touch them. ``DistributedSampler`` repeats images where they do not divide evenly, and these count twice
    in any metric; give it a number of images that does, or a sampler that repeats none.

    .. code-block:: python

        metric = DepthMetric(median_scaling=True, crop="garg")
        for images, truth in loader:
            metric.update(model.to_depth(model(images)), truth)
        metric.compute()  # {"abs_rel": ..., "sq_rel": ..., ...}

    Args:
        median_scaling, min_depth, max_depth, crop: as for :func:`depth_metrics`.
        leave_out_empty: leave images without a valid pixel out, instead of refusing them.
        options: of ``torchmetrics.Metric``, such as ``process_group``.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    sums: Tensor
    counts: Tensor
    made_with: Tensor

    def __init__(
        self,
        *,
        median_scaling: bool = False,
        min_depth: float = 1e-3,
        max_depth: float = 80.0,
        crop: Literal["garg", "eigen"] | None = None,
        leave_out_empty: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.protocol: dict[str, Any] = {
            "median_scaling": median_scaling,
            "min_depth": float(min_depth),
            "max_depth": float(max_depth),
            "crop": crop,
        }
        self.leave_out_empty = leave_out_empty
        # A MetricCollection updates one of all metrics whose states agree after the first batch. Two of other settings
        # may agree there by chance; this makes them differ. Early versions compare the first state alone.
        digest = hashlib.sha256(repr((self.protocol, leave_out_empty)).encode()).digest()
        self.add_state("made_with", torch.tensor(list(digest), dtype=torch.int64), dist_reduce_fx="max")
        self.add_state("sums", torch.zeros(len(METRICS), LIMBS, dtype=torch.int64), dist_reduce_fx="sum")
        # Images, then valid pixels, those below the range and those above it.
        self.add_state("counts", torch.zeros(4, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Add the images of a batch.

        Args:
            preds: depth (not disparity), (B, 1, H, W) or (H, W), in metres, or of any scale with ``median_scaling``.
            target: ground truth in metres, same shape; 0, infinite or NaN where unknown.
            mask: bool, same shape; False leaves a pixel out.

        Raises:
            ValueError: as :func:`depth_metrics`; no image of the batch is counted then.
        """
        found = image_metrics(preds, target, mask, **self.protocol, leave_out_empty=self.leave_out_empty)
        for metrics in found:
            self.sums += torch.tensor([_split(getattr(metrics, name)) for name in METRICS], device=self.sums.device)
            numbers = [1, metrics.num_valid, metrics.num_below, metrics.num_above]
            self.counts += torch.tensor(numbers, device=self.counts.device)

    def compute(self) -> dict[str, Tensor]:
        """Return the seven metrics by name, in the usual order, float64 (where the device has it).

        Raises:
            InputError: no image was given.
        """
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        numbers = self.depth_metrics().as_dict()
        return {name: torch.tensor(value, dtype=kind, device=self.device) for name, value in numbers.items()}

    def depth_metrics(self) -> DepthMetrics:
        """Return what this process has seen, with the numbers of pixels; ``compute`` is over all processes.

        Raises:
            InputError: no image was given.
        """
        num_images, num_valid, num_below, num_above = self.counts.tolist()
        if not num_images:
            raise InputError("no image with a valid pixel was given to DepthMetric; update it before compute().")
        means = (float(_joined(parts) / num_images) for parts in self.sums.tolist())
        numbers = dict(zip(METRICS, means, strict=True))
        return DepthMetrics(**numbers, num_valid=num_valid, num_below=num_below, num_above=num_above)


def _split(value: float) -> list[int]:
    """Write a number of 0 or more as a whole number and parts of 32 bits, the greatest first."""
    total = round(Fraction(value) * 2 ** (BITS * (LIMBS - 1)))
    parts = []
    for _ in range(LIMBS - 1):
        total, part = divmod(total, 2**BITS)
        parts.append(part)
    return [total, *reversed(parts)]


def _joined(parts: list[int]) -> Fraction:
    """Return the number that parts, or sums of parts, stand for."""
    return sum((Fraction(part, 2 ** (BITS * place)) for place, part in enumerate(parts)), Fraction(0))
