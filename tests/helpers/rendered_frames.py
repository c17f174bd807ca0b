"""What is known of rendered frames, worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from hybrid_encoder.data import SyntheticFrame


def to_world(frame: SyntheticFrame) -> Any:
    """World points of all pixel centres, (3, H, W), float64."""
    v, u = np.indices(frame.depth.shape[1:], dtype=np.float64)
    rays = np.linalg.inv(frame.K.astype(np.float64)) @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
    points = frame.world_T_cam[:3, :3].astype(np.float64) @ (rays * frame.depth.ravel())
    return (points + frame.world_T_cam[:3, 3:]).reshape(3, *u.shape)
