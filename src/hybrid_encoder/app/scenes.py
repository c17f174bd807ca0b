"""The points of a picture, for a viewer on the page: what is near, and not too many."""

from __future__ import annotations

import numpy as np

from hybrid_encoder.data.point_clouds import EDGE_RTOL, PointCloud
from hybrid_encoder.models.prediction import DepthPrediction

POINTS_SHOWN, POINTS_SAVED = 250_000, 2_000_000
FAR = 2.5  # times the median depth: what is beyond, the sky above all, would make the rest of a scene small
EDGES = 0.3  # of points that are shown: a scene is easier to see with slopes in it than with holes


def saved_points(prediction: DepthPrediction, fov: float) -> PointCloud:
    """Return the points to keep: those of the prediction, at most two million.

    Args:
        prediction: of one picture.
        fov: horizontal field of view, in degrees.
    """
    return thinned(_points(prediction, fov, EDGE_RTOL), POINTS_SAVED)


def shown_points(prediction: DepthPrediction, fov: float) -> PointCloud:
    """Return the points to look at: the foreground's, at most 250,000."""
    return thinned(foreground(_points(prediction, fov, EDGES)), POINTS_SHOWN)


def _points(prediction: DepthPrediction, fov: float, edges: float) -> PointCloud:
    """Return the points of a prediction, all of them where depth jumps everywhere."""
    points = prediction.points(fov=fov, edges=edges)
    return points if len(points) else prediction.points(fov=fov, edges=None)


def foreground(cloud: PointCloud) -> PointCloud:
    """Return the points that are at most two and a half times as far as half of them."""
    depth = cloud.positions[:, 2]
    kept = depth <= FAR * np.median(depth)
    return PointCloud(cloud.positions[kept], cloud.colors[kept])


def thinned(cloud: PointCloud, most: int) -> PointCloud:
    """Return a cloud of at most so many of the points, chosen at random, the same in every run."""
    if len(cloud) <= most:
        return cloud
    chosen = np.sort(np.random.default_rng(0).choice(len(cloud), most, replace=False))
    return PointCloud(cloud.positions[chosen], cloud.colors[chosen])
