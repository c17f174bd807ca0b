"""How depth is measured: which ground truth, which pixels, which range, each way under its name."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from hybrid_encoder.config.checking import shown
from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.metrics import CROPS, METRICS, DepthMetrics, crop_mask

Truth: TypeAlias = Literal["eigen", "annotated", "lidar", "nyu", "make3d", "cityscapes"]
Crop: TypeAlias = "str | tuple[int, int | None, int, int | None] | None"
METRICS_LOG10 = ("abs_rel", "sq_rel", "rmse", "rmse_log10")


@dataclass(frozen=True)
class Protocol:
    """One way to measure depth.

    Args:
        name: by which people ask for it.
        about: what it is and who uses it, in a line.
        truth: which ground truth it is for, as the samples must have it.
        min_truth, max_truth: a pixel counts where min_truth < truth < max_truth, in metres.
        crop: a pixel counts inside of it: ``"garg"`` or ``"eigen"``, shares of the image; (top, bottom, left, right)
            in pixels of the truth, None for a border; None for the whole image.
        min_depth, max_depth: predictions are clamped to this range, in metres.
        resize: how disparity comes to the size of the truth, ``"bilinear"`` or ``"nearest"``, before it is inverted.
        resampling: how images come to the size that a model works at, as for ``ModelPredictor``.
        depth_range: (nearest, farthest) depth that a model's disparity stands for; None for the model's own.
        metrics: those that it reports.
    """

    name: str
    about: str
    truth: Truth
    min_truth: float = 1e-3
    max_truth: float = 80.0
    crop: Crop = None
    min_depth: float = 1e-3
    max_depth: float = 80.0
    resize: Literal["bilinear", "nearest"] = "bilinear"
    resampling: Literal["lanczos", "model"] = "lanczos"
    depth_range: tuple[float, float] | None = None
    metrics: tuple[str, ...] = METRICS

    def __post_init__(self) -> None:
        if isinstance(self.crop, str) and self.crop not in CROPS:
            raise InputError(f"crop is {shown(self.crop)}; it must be one of {', '.join(map(repr, CROPS))} or None.")
        for what in ("truth", "depth"):
            low, high = (getattr(self, f"{end}_{what}") for end in ("min", "max"))
            if not 0 <= low < high:
                raise InputError(f"{what} ranges from {low} to {high}; it must be 0 <= min_{what} < max_{what}.")

    @property
    def rule(self) -> str:
        """Which pixels count, in words."""
        crop = "the whole image" if self.crop is None else f"the crop {self.crop}"
        upper = f" and below {self.max_truth:g} m" if math.isfinite(self.max_truth) else ""
        return f"truth above {self.min_truth:g} m{upper}, in {crop}"

    def valid(self, truth: Tensor) -> Tensor:
        """Return which pixels of a ground truth (H, W) count, bool, (H, W); NaN and infinity do not."""
        counts = (truth > self.min_truth) & (truth < self.max_truth)
        if isinstance(self.crop, str):
            return counts & crop_mask(self.crop, truth.shape[0], truth.shape[1]).to(truth.device)
        if self.crop is not None:
            top, bottom, left, right = self.crop
            inside = torch.zeros_like(counts)
            inside[top:bottom, left:right] = True
            counts &= inside
        return counts

    def changed(self, **fields: Any) -> Protocol:
        """Return the protocol with other values of some fields, and a name that says so; itself where none differs.

        Raises:
            InputError: a value that cannot be.
        """
        other = {name: value for name, value in fields.items() if value != getattr(self, name)}
        if not other:
            return self
        words = ", ".join(f"{name} {value}" for name, value in other.items())
        return replace(self, **{"name": f"{self.name} ({words})", **other})

    def numbers(self, metrics: DepthMetrics) -> dict[str, float]:
        """Return the metrics that the protocol reports, by name; ``rmse_log10`` is of log10, and the others as ours."""
        return {
            name: metrics.rmse_log / math.log(10) if name == "rmse_log10" else getattr(metrics, name)
            for name in self.metrics
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them, without ``about``; None where there is no limit."""
        fields = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        del fields["about"]
        return {name: None if value == math.inf else value for name, value in fields.items()}


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "eigen",
            "Monodepth2's on the Eigen split, which most papers report",
            "eigen",
            crop="garg",
        ),
        Protocol(
            "eigen-improved",
            "Monodepth2's eigen_benchmark: KITTI's annotated depth, the whole image",
            "annotated",
            min_truth=0.0,
            max_truth=math.inf,
        ),
        Protocol(
            "eigen-improved-garg",
            "the published code's on KITTI's annotated depth: from 0.1 m, Garg's crop",
            "annotated",
            min_truth=0.1,
            crop="garg",
            min_depth=0.1,
        ),
        Protocol(
            "lidar",
            "lidar as the camera sees it: its own z, without Monodepth2's shift",
            "lidar",
            crop="garg",
            resampling="model",
        ),
        Protocol(
            "nyu",
            "the published code's on NYU Depth v2, up to 10 m",
            "nyu",
            max_truth=10.0,
            crop=(45, 471, 41, 601),
            max_depth=10.0,
            depth_range=(1e-3, 10.0),
        ),
        Protocol(
            "make3d",
            "Monodepth's on Make3D, up to 70 m",
            "make3d",
            min_truth=0.0,
            max_truth=70.0,
            min_depth=0.0,
            max_depth=70.0,
            resize="nearest",
            metrics=METRICS_LOG10,
        ),
        Protocol(
            "cityscapes",
            "ManyDepth's on Cityscapes",
            "cityscapes",
            crop=(256, None, 192, 1856),
        ),
    )
}
"""The protocols by name."""


def find_protocol(protocol: str | Protocol) -> Protocol:
    """Return the protocol of this name, or the one that is given.

    Raises:
        InputError: there is none of this name.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol is {shown(protocol)}; it must be one of {', '.join(map(repr, PROTOCOLS))}.")
    return PROTOCOLS[protocol]
