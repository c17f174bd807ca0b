"""From depth of unknown scale to metres by a stereo pair, whose baseline is known.

Source of the comparison: view synthesis, as in :mod:`hybrid_encoder.losses.photometric`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.metrics import median
from hybrid_encoder.evaluation.scale import ScaleFit, one_for_each
from hybrid_encoder.geometry.camera import resized_intrinsics, warp
from hybrid_encoder.losses.photometric import photometric_error

MONODEPTH2_STEREO_SCALE = 5.4
"""Metres in one unit of what Monodepth2's stereo training learns on KITTI: it calls the baseline of 0.54 m 0.1 units.

Source: Godard et al. 2019, ``STEREO_SCALE_FACTOR`` in Monodepth2's ``evaluate_depth.py``.
"""

COARSE_WIDTH, FINE_WIDTH = 320, 640  # pixels, at which wider pairs are searched and then compared closely
LEAST_SHIFT, LARGEST_SHIFT = 1.0, 0.35  # median disparity of a pair: in pixels, and as a share of the width
STEP = 0.1  # of the search, in log scale
REFINEMENTS = 12  # of golden-section search: from STEP to less than a thousandth of the factor
MIN_GAIN = 0.2  # share by which depth must lower the photometric error of the pair; random depth reaches 0.15

NO_MATCH = (
    "no factor makes depth explain what the other image shows; check that the pairs are rectified and the sign of the "
    "baseline, or take weights that fit them better."
)


@torch.no_grad()
def scale_from_stereo(images: Tensor, others: Tensor, depth: Tensor, K: Tensor, baseline_m: float) -> ScaleFit:
    """Fit the scale to rectified stereo pairs: the factor with which the other image, warped by depth, is most alike.

    The photometric error of training (SSIM and L1) is searched over log scale. A pixel that falls outside of the other
    image counts with the error that it has without a warp. Pairs whose error depth lowers by less than a fifth, or that
    fit best at an end of the search, are left out.

    Args:
        images, others: RGB in [0, 1], (B, 3, H, W).
        depth: of ``images``, of unknown scale, (B, 1, H, W).
        K: of both cameras, (3, 3) or (B, 3, 3).
        baseline_m: position of the other camera along the x axis of this one, in metres: 0.54 from KITTI's left camera
            to its right one, -0.54 back.

    Returns:
        Its error is the photometric error that remains, as a share of that without a warp.

    Raises:
        InputError: no pair gives a scale, a baseline of 0, or shapes that do not fit.
    """
    K = one_for_each(depth, K)
    pairs = zip(images, others, depth, K, strict=True)
    return ScaleFit.combine([fit_pair(*pair, baseline_m) for pair in pairs], NO_MATCH)


@torch.no_grad()
def fit_pair(image: Tensor, other: Tensor, depth: Tensor, K: Tensor, baseline_m: float) -> ScaleFit | None:
    """Do for one pair, (3, H, W), what :func:`scale_from_stereo` does; None where no factor explains it."""
    if not 0 < abs(baseline_m) < math.inf:
        raise InputError(f"the baseline is {baseline_m} m; give a finite number other than 0.")
    if image.ndim != 3 or image.shape != other.shape or depth.shape != image[:1].shape:
        raise InputError(
            f"an image is {tuple(image.shape)}, the other {tuple(other.shape)} and depth {tuple(depth.shape)}; "
            "(3, H, W), the same, and (1, H, W) are needed."
        )
    if not bool((depth.isfinite() & (depth > 0)).all()):
        raise InputError("depth is not positive and finite everywhere; all of it must be.")
    pair = _Pair(baseline_m, *(x[None].float() for x in (image, other, depth, K)))
    coarse, fine = pair.at_most(COARSE_WIDTH), pair.at_most(FINE_WIDTH)
    # The factor that shifts the pixel of median depth by LEAST_SHIFT; smaller ones shift it further.
    last = math.log(float(coarse.K[0, 0, 0]) * abs(baseline_m) / LEAST_SHIFT / median(depth.flatten().cpu()))
    first = last - math.log(LARGEST_SHIFT * coarse.image.shape[-1] / LEAST_SHIFT)
    places = [last - STEP * index for index in range(math.ceil((last - first) / STEP) + 1)]
    errors = [coarse.error(place) for place in places]
    best = errors.index(min(errors))
    if best in (0, len(places) - 1):
        return None
    place = _golden_section(fine.error, places[best] - STEP, places[best] + STEP)
    error = fine.error(place)
    return ScaleFit(math.exp(place), None, error, (math.exp(place),)) if error < 1 - MIN_GAIN else None


@dataclass(frozen=True)
class _Pair:
    """A stereo pair with the depth of its first image; batches of one."""

    baseline: float
    image: Tensor
    other: Tensor
    depth: Tensor
    K: Tensor

    def at_most(self, width: int) -> _Pair:
        """Return the pair, made smaller where it is wider than this."""
        before = self.image.shape[-2], self.image.shape[-1]
        if before[1] <= width:
            return self
        after = max(2, round(before[0] * width / before[1])), width
        image, other, depth = (
            F.interpolate(x, after, mode="bilinear", align_corners=False, antialias=True)
            for x in (self.image, self.other, self.depth)
        )
        return _Pair(self.baseline, image, other, depth, resized_intrinsics(self.K, before, after))

    @cached_property
    def unmoved(self) -> Tensor:
        """The photometric error without a warp, (1, 1, H, W)."""
        return photometric_error(self.other, self.image)

    def error(self, log_factor: float) -> float:
        """Return the photometric error of the other image warped by scaled depth, as a share of that without a warp."""
        motion = torch.eye(4, device=self.image.device)[None]
        motion[0, 0, 3] = -self.baseline  # takes points of the first camera to the other
        warped, inside = warp(self.other, self.depth * math.exp(log_factor), self.K, motion)
        error = torch.where(inside, photometric_error(warped, self.image), self.unmoved)
        return float(error.mean() / self.unmoved.mean().clamp(min=1e-9))


def _golden_section(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function of one minimum between low and high is least (Kiefer 1953)."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(REFINEMENTS):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2
