"""The fine stage's language loss: every pixel among the depth words.

Near before far: prompt 0 and depth bin 0 are the nearest. The published fine stage has no loss of its own; this one is
a cross-entropy between the words and the depth of the model. Sums are in float32 or finer whatever the inputs are, and
without a valid pixel the loss is zero and still carries a gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.errors import InputError
from hybrid_encoder.geometry.plane_sweep import check_tensors
from hybrid_encoder.similarity import at_least_float32


def pixel_language_loss(logits: Tensor, depth: Tensor, bin_centers: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the cross-entropy between the words of a pixel and its depth.

    The target is soft: log-depth falls between the logs of two bin centres, which share the weight as in linear
    interpolation; depth beyond the ends counts as the end. Where depth is finer than the logits, a cell's log-depth is
    the mean over its valid pixels.

    Args:
        logits: pixels against prompts from near to far, (B, n, h, w).
        depth: detached inside, (B, 1, H, W), in the unit of the bins.
        bin_centers: rising depths that the prompts stand for, (n,).
        mask: valid pixels, bool, (B, 1, H, W); by default where depth is positive and finite.

    Returns:
        A scalar, the mean over cells with a valid pixel; 0 without any.

    Raises:
        InputError: shapes that do not fit, a mask that is not bool, or centres that do not rise from above 0. Centres
            on an accelerator are not looked at; :class:`PixelLanguageLoss` looks at its own once.

    Example:
        >>> logits = torch.tensor([4.0, 0.0, 0.0]).view(1, 3, 1, 1)
        >>> pixel_language_loss(logits, torch.full((1, 1, 1, 1), 2.0), torch.tensor([2.0, 4.0, 8.0]))
        tensor(0.0360)
    """
    check_logits_and_bins(logits, bin_centers)
    if depth.ndim != 4 or depth.shape[:2] != (len(logits), 1) or (mask is not None and mask.shape != depth.shape):
        shapes = f"{tuple(depth.shape)}" + ("" if mask is None else f" and mask {tuple(mask.shape)}")
        raise InputError(f"depth is {shapes}; (B, 1, H, W) is needed, for the {len(logits)} images of the logits.")
    if mask is not None and mask.dtype != torch.bool:
        raise InputError(f"mask is of {mask.dtype}; bool is needed: compare it, for example mask > 0.5.")
    logits = at_least_float32(logits)
    depth = depth.detach()
    valid = (depth > 0) & depth.isfinite()
    if mask is not None:
        valid = valid & mask
    size = (logits.shape[-2], logits.shape[-1])
    share = F.adaptive_avg_pool2d(valid.to(logits.dtype), size)
    place = F.adaptive_avg_pool2d(torch.where(valid, depth, 1).to(logits.dtype).log() * valid, size)
    target = _interpolation_weights(place / share.clamp(min=1e-12), bin_centers.to(logits).log())
    loss = -(target * logits.log_softmax(1)).sum(1, keepdim=True)
    seen = share > 0
    return torch.where(seen, loss, 0).sum() / seen.sum().clamp(min=1)


class PixelLanguageLoss(nn.Module):
    """:func:`pixel_language_loss` that keeps its bin centres.

    Args:
        bin_centers: rising depths that the prompts stand for, (n,); see :func:`hybrid_encoder.language.bin_centers`.
    """

    bin_centers: Tensor

    def __init__(self, bin_centers: Tensor) -> None:
        super().__init__()
        check_bins(bin_centers)
        self.register_buffer("bin_centers", bin_centers, persistent=False)

    def forward(self, logits: Tensor, depth: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the loss; arguments and result are those of the function."""
        return pixel_language_loss(logits, depth, self.bin_centers, mask)

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any


def check_logits_and_bins(logits: Tensor, bin_centers: Tensor) -> None:
    """Raise InputError unless there is a rising depth for each of at least two prompts."""
    check_tensors(logits=logits, bin_centers=bin_centers)
    if logits.ndim != 4 or bin_centers.shape != logits.shape[1:2] or len(bin_centers) < 2:
        raise InputError(
            f"logits is {tuple(logits.shape)} and bin_centers {tuple(bin_centers.shape)}; (B, n, h, w) and (n,) are "
            "needed: a depth for every prompt, at least two."
        )
    # Looking at values stalls an accelerator, so that only centres on the CPU are looked at.
    if bin_centers.device.type == "cpu":
        check_bins(bin_centers)


def check_bins(bin_centers: Tensor) -> None:
    """Raise InputError unless depths rise from above 0, apart from each other in float32 logs, and are finite."""
    logs = bin_centers.detach().float().log()
    if bin_centers.ndim != 1 or len(logs) < 2 or not (logs.isfinite().all() and (logs.diff() > 0).all()):
        raise InputError(f"bin_centers is {bin_centers.tolist()}; they must rise from above 0: near before far.")


def _interpolation_weights(place: Tensor, centers: Tensor) -> Tensor:
    """Return weights (B, n, h, w) with which rising centres (n,) interpolate to values (B, 1, h, w)."""
    place = place.clamp(centers[0], centers[-1])
    upper = torch.searchsorted(centers, place.contiguous()).clamp(1, len(centers) - 1)
    low, high = centers[upper - 1], centers[upper]
    weight = (place - low) / (high - low)
    target = place.new_zeros(len(place), len(centers), *place.shape[2:])
    return target.scatter(1, upper - 1, 1 - weight).scatter(1, upper, weight)
