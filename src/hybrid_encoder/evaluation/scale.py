"""From depth of unknown scale to metres: the one factor between them, from lidar or the height of the camera."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.metrics import median, valid_pixels
from hybrid_encoder.geometry.ground import fit_ground

NO_ROAD = (
    "fewer than half of the pixels in the lower middle agree on a level plane; take images of an open road, weights "
    "that fit them better, or another source of scale."
)


@dataclass(frozen=True)
class ScaleFit:
    """The factor from depth to metres, and how far one factor holds.

    Args:
        factor: metres in one unit of depth, the median over the images.
        spread: standard deviation of the images' own factors, as a share of ``factor`` (as Monodepth2 prints it); None
            for a single image. Depth in metres is off by about as much from image to image, whatever else it is.
        error: how badly depth of the right scale fits what it was measured by; each function says in what.
        factors: of the images that were used.
        left_out: number of images that gave no factor.
    """

    factor: float
    spread: float | None
    error: float
    factors: tuple[float, ...]
    left_out: int = 0

    @classmethod
    def combine(cls, fits: Sequence[ScaleFit | None], otherwise: str = "give at least one image.") -> ScaleFit:
        """Return the fit over all images of several, of which None is an image without a factor.

        Args:
            fits: of the images.
            otherwise: why no image gave a factor, and what to do about it, for the error.

        Raises:
            InputError: no image gave a factor.
        """
        found = [fit for fit in fits if fit is not None]
        factors = tuple(factor for fit in found for factor in fit.factors)
        left_out = sum(1 if fit is None else fit.left_out for fit in fits)
        if not factors:
            raise InputError(f"none of {left_out} images gives a scale: {otherwise}")
        factor = statistics.median(factors)
        spread = statistics.pstdev(factors) / factor if len(factors) > 1 else None
        error = statistics.median(fit.error for fit in found for _ in fit.factors)
        return cls(factor, spread, error, factors, left_out)


def fit_scale(
    depth: Tensor,
    truth: Tensor,
    mask: Tensor | None = None,
    *,
    min_depth: float = 1e-3,
    max_depth: float = 80.0,
    crop: Literal["garg", "eigen"] | None = None,
) -> ScaleFit:
    """Fit the scale to sparse depth such as lidar: the median of truth / depth of each image, then over the images.

    Pixels count as in :func:`~hybrid_encoder.evaluation.depth_metrics`, whose median scaling divides medians instead:
    the two differ where the shape of the depth is wrong, and then this one is nearer in the middle of all pixels.

    Args:
        depth: positive, of unknown scale, (B, 1, H, W) or (H, W).
        truth: in metres, same shape; 0, infinite or NaN where unknown.
        mask: bool, same shape; False leaves a pixel out.
        min_depth, max_depth: range of the truth that counts, in metres.
        crop: ``"garg"``, ``"eigen"`` or None.

    Returns:
        Its error is the median relative difference of an image's depth, scaled by its own factor, from the truth.

    Raises:
        InputError: shapes that differ, an image without a pixel that counts, depth there that is not positive and
            finite.
    """
    height, width = truth.shape[-2:]
    try:
        valid = valid_pixels(depth, truth, mask, min_depth=min_depth, max_depth=max_depth, crop=crop)
    except ValueError as error:
        raise InputError(str(error)) from None
    images = (tensor.detach().reshape(-1, height, width) for tensor in (depth, truth, valid))
    fits: list[ScaleFit | None] = []
    for index, (d, g, use) in enumerate(zip(*images, strict=True)):
        ratios = g[use].cpu().double() / d[use].cpu().double()
        if not len(ratios):
            raise InputError(
                f"image {index} of the batch has no known truth between {min_depth:g} and {max_depth:g} m inside mask "
                "and crop; leave the image out."
            )
        factor = median(ratios)
        if not (bool((ratios > 0).all()) and 0 < factor < math.inf):
            raise InputError(f"image {index} of the batch has depth that is not positive and finite; all must be.")
        fits.append(ScaleFit(factor, None, median((factor / ratios - 1).abs()), (factor,)))
    return ScaleFit.combine(fits)


def scale_from_camera_height(depth: Tensor, K: Tensor, height_m: float) -> ScaleFit:
    """Fit the scale to a known height of the camera over a flat road.

    The road is looked for in the lower middle of the image (:func:`~hybrid_encoder.geometry.fit_ground`), and its
    distance from the camera is compared with the height. Images in which no road is found are left out.

    Args:
        depth: of unknown scale, (B, 1, H, W).
        K: in pixels of ``depth``, (3, 3) or (B, 3, 3).
        height_m: of the camera above the road, in metres: 1.65 for KITTI.

    Returns:
        Its error is the median relative difference of depth on the road from that of the plane.

    Raises:
        InputError: no road in any image, a height that is not positive, or shapes that do not fit.
    """
    K = one_for_each(depth, K)
    fits = [fit_road(image, k, height_m) for image, k in zip(depth, K, strict=True)]
    return ScaleFit.combine(fits, NO_ROAD)


def fit_road(depth: Tensor, K: Tensor, height_m: float) -> ScaleFit | None:
    """Do for one image, (1, H, W), what :func:`scale_from_camera_height` does; None where there is no road."""
    if not 0 < height_m < math.inf:
        raise InputError(f"the camera's height is {height_m} m; give a positive, finite number.")
    ground = fit_ground(depth, K)
    if ground is None:
        return None
    factor = float(height_m) / ground.distance
    return ScaleFit(factor, None, ground.error, (factor,))


def one_for_each(depth: Tensor, K: Tensor) -> Tensor:
    """Return intrinsics for each image of a batch, (B, 3, 3), on the device of the depth."""
    if depth.ndim != 4 or depth.shape[1] != 1 or tuple(K.shape) not in ((3, 3), (len(depth), 3, 3)):
        raise InputError(
            f"depth is {tuple(depth.shape)} and K {tuple(K.shape)}; (B, 1, H, W) and (3, 3) or (B, 3, 3) are needed."
        )
    return K.to(depth.device).float().expand(len(depth), 3, 3)
