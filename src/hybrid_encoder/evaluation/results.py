"""What an evaluation found: the numbers of every image, their mean, and what they were made with."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hybrid_encoder.evaluation.metrics import DepthMetrics
from hybrid_encoder.evaluation.ordering import WordOrder


@dataclass(frozen=True)
class ImageResult:
    """The numbers of one image.

    Args:
        name: of the :class:`~hybrid_encoder.evaluation.samples.Sample`.
        metrics: over all its valid pixels.
        scale: that the prediction was multiplied by, of median scaling and a fixed factor together.
        parts: metrics over some of the valid pixels by the name of the part, such as ``"0-20 m"``; a part without a
            valid pixel is left out.
        order: of random pairs of pixels, by the words and by depth; None where it was not measured.
    """

    name: str
    metrics: DepthMetrics
    scale: float = 1.0
    parts: Mapping[str, DepthMetrics] = field(default_factory=dict)
    order: WordOrder | None = None


@dataclass(frozen=True)
class Evaluation:
    """What one predictor reached on one test set by one protocol.

    Args:
        predictor: what predicted, in words.
        protocol: its name.
        images: in the order of the test set.
        mean: over the images, each with the same weight.
        settings: all that the numbers depend on, as JSON has it: the protocol's fields, size, flip, split, hashes.
    """

    predictor: str
    protocol: str
    images: tuple[ImageResult, ...]
    mean: DepthMetrics
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def order(self) -> WordOrder | None:
        """The order of random pairs in all images, each pair with the same weight; None where it was not measured."""
        found = [image.order for image in self.images if image.order is not None]
        return WordOrder.pooled(found) if found else None

    @property
    def scale(self) -> float:
        """The median of what the predictions were multiplied by."""
        return statistics.median(image.scale for image in self.images)

    @property
    def scale_spread(self) -> float:
        """Standard deviation of what they were multiplied by, over its median, as Monodepth2 prints it."""
        return statistics.pstdev(image.scale / self.scale for image in self.images)
