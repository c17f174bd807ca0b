"""The loss of measured depth, for whoever has it: the library's own method needs none."""

from __future__ import annotations

from torch import Tensor

from hybrid_encoder.errors import InputError

SHARE = 0.5  # of the squared mean that is taken off, as Eigen et al. train


def log_depth_loss(depth: Tensor, truth: Tensor, *, scale_counts: bool) -> Tensor:
    """Return Eigen's scale-invariant error of log-depth, the mean over the images of a batch.

    With d = log depth - log truth over the pixels of an image, it is mean(d^2) - share x mean(d)^2. The share is 1/2,
    as published, for depth in metres; for depth of unknown scale it is 1, which leaves the variance: a factor on all of
    the depth of an image costs nothing.

    Source: Depth Map Prediction from a Single Image using a Multi-Scale Deep Network, NeurIPS 2014.

    Args:
        depth: predicted, (B, h, w), above 0.
        truth: measured, of the same shape; pixels that are 0, negative or not finite are unknown.
        scale_counts: whether the depth is meant to be in metres.

    Raises:
        InputError: an image without a known pixel.
    """
    known = (truth > 0) & truth.isfinite()
    count = known.flatten(1).sum(1)
    if not bool((count > 0).all()):
        raise InputError("labels have an image without a single pixel above 0; leave such images out.")
    d = depth.log() - truth.where(known, truth.new_ones(())).to(depth.dtype).log()
    d = d.where(known, d.new_zeros(())).flatten(1)
    mean, square = d.sum(1) / count, d.square().sum(1) / count
    return (square - (SHARE if scale_counts else 1) * mean.square()).mean()
