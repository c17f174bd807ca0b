"""Colours for the frames of a video, whose range does not jump from frame to frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hybrid_encoder.data.images import Pixels, colorize
from hybrid_encoder.models.prediction import DepthPrediction

SLOWNESS = 0.95  # the share of the range that stays; a range of each frame's own would flicker
ENOUGH = 50_000  # values: a percentile needs no more


class SteadyColours:
    """Colour frame after frame, with a range that follows the video slowly, or stays as it was given.

    Args:
        colormap, near, far: as for ``DepthPrediction.colored``.
    """

    def __init__(self, colormap: str = "magma", near: float | None = None, far: float | None = None) -> None:
        self.colormap, self.near, self.far = colormap, near, far
        self._ends: NDArray[np.float64] | None = None

    def __call__(self, prediction: DepthPrediction) -> Pixels:
        """Return the coloured map of the next frame, uint8, (H, W, 3)."""
        if self.near is not None or self.far is not None:
            return prediction.colored(self.colormap, self.near, self.far)
        disparity = prediction.disparity[0]
        values = disparity.flatten()[:: max(1, disparity.numel() // ENOUGH)].cpu().numpy()
        ends = np.array([values.min(), np.percentile(values, 95)], np.float64)
        self._ends = ends if self._ends is None else SLOWNESS * self._ends + (1 - SLOWNESS) * ends
        return colorize(disparity, float(self._ends[0]), float(self._ends[1]), self.colormap)
