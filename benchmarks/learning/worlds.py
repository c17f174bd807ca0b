"""Drives to train on, and held-out frames with all that is measured on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.learning.settings import APART, BASELINE, FRAMES, HELD_OUT, Settings
from hybrid_encoder.data.street.drive import StreetDrive
from hybrid_encoder.data.synthetic.drive import SyntheticDrive
from hybrid_encoder.evaluation.ordering import RATIO, random_pairs

FLAT = 0.02  # of brightness, within 3 x 3 pixels: below it nothing can be matched
NEARER = 0.95  # of a point's depth: what is nearer than that hides it
MIDDLE = FRAMES // 2
FIELDS = ("depth", "valid", "image")


@dataclass(frozen=True)
class HeldOut:
    """Frames of drives that nothing is trained on.

    Args:
        images: (N, 3, H, W).
        depth, valid: (N, 1, H, W).
        regions: masks of valid pixels where views tell nothing about depth, by name, bool, (N, 1, H, W).
        pairs: pixels (x, y), the nearer one first, (P, 2, 2).
        index: which frame a pair is of, (P,).
    """

    images: Tensor
    depth: Tensor
    valid: Tensor
    regions: dict[str, Tensor]
    pairs: Tensor
    index: Tensor

    @property
    def row_wrong(self) -> Tensor:
        """Which pairs have the nearer pixel higher in the image, bool, (P,)."""
        return self.pairs[:, 0, 1] < self.pairs[:, 1, 1]


def drive(settings: Settings, seed: int) -> Any:
    """Return one drive of a world, which renders its frames on demand."""
    height, width = settings.size
    baseline = BASELINE if settings.views == "stereo" else None
    if settings.world == "plain":
        return SyntheticDrive(seed, FRAMES, height, width, baseline=baseline)
    return StreetDrive(seed, FRAMES, height, width, camera=settings.camera, baseline=baseline)


@lru_cache(maxsize=2)
def training_drives(settings: Settings, seed: int) -> list[list[Any]]:
    """Return the rendered drives that a seed trains on; fewer drives are the first ones of these."""
    return [list(drive(settings, seed * APART + number)) for number in range(settings.drives)]


@lru_cache(maxsize=1)
def held_out(settings: Settings) -> HeldOut:
    """Return the middle frames of held-out drives, the same for every row and seed."""
    drives = [drive(settings, HELD_OUT + number) for number in range(settings.held_out)]
    frames = [[one[number] for number in (MIDDLE - 1, MIDDLE, MIDDLE + 1)] for one in drives]
    here = [three[1] for three in frames]
    depth, valid, images = (torch.from_numpy(np.stack([getattr(f, x) for f in here])) for x in FIELDS)
    regions = {"textureless": torch.stack([textureless(frame) for frame in here]) & valid}
    unseen = [hidden(*three) if settings.views == "video" else hidden_right(three[1]) for three in frames]
    regions["hidden"] = torch.from_numpy(np.stack(unseen)) & valid
    if hasattr(here[0], "moving"):
        regions["moving"] = torch.from_numpy(np.stack([frame.moving for frame in here])) & valid
    found = []
    for number in range(len(here)):
        known = torch.where(valid[number, 0], depth[number, 0], 0)
        found.append(random_pairs(known, settings.pairs, RATIO, seed=number))
    index = torch.arange(len(here)).repeat_interleave(torch.tensor([len(pairs) for pairs in found]))
    return HeldOut(images, depth, valid, regions, torch.cat(found), index)


def textureless(frame: Any) -> Tensor:
    """Return where a frame shows nothing to match, bool, (1, H, W): as the renderer knows, or as its colours say."""
    if hasattr(frame, "textureless"):
        return torch.from_numpy(frame.textureless)
    grey = torch.from_numpy(frame.image).mean(0, keepdim=True)[None]
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    spread = F.max_pool2d(padded, 3, 1) + F.max_pool2d(-padded, 3, 1)
    return spread[0] < FLAT


def hidden(before: Any, frame: Any, after: Any) -> NDArray[np.bool_]:
    """Return which pixels of a frame neither of its neighbours sees, (1, H, W)."""
    return ~(seen_in(frame, before, -1) | seen_in(frame, after, 1))


def seen_in(frame: Any, other: Any, step: int) -> NDArray[np.bool_]:
    """Return which pixels of a frame another one sees too, (1, H, W).

    Args:
        frame, other: of one drive.
        step: 1 where the other one comes next, -1 where it came before: what moves has moved by as much.
    """
    depth = frame.depth[0].astype(np.float64)
    height, width = depth.shape
    v, u = np.mgrid[:height, :width]
    points = np.linalg.inv(frame.K.astype(np.float64)) @ np.stack([u, v, np.ones_like(u)]).reshape(3, -1)
    points = points * depth.ravel()
    pose, to = frame.world_T_cam.astype(np.float64), np.linalg.inv(other.world_T_cam.astype(np.float64))
    world = pose[:3, :3] @ points + pose[:3, 3:]
    if hasattr(frame, "motion"):
        world = world + step * frame.motion.reshape(3, -1)
    x, y, z = other.K.astype(np.float64) @ (to[:3, :3] @ world + to[:3, 3:])
    front = np.where(z > 1e-6, z, 1.0)
    column, row = np.rint(x / front).astype(int), np.rint(y / front).astype(int)
    inside = (z > 1e-6) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    # The farthest of the pixels around, as a surface may be seen at an angle.
    around = F.max_pool2d(torch.from_numpy(other.depth)[None], 3, 1, 1)[0, 0].numpy()
    there = around[row.clip(0, height - 1), column.clip(0, width - 1)]
    seen: NDArray[np.bool_] = (inside & (there >= NEARER * z)).reshape(1, height, width)
    return seen


def hidden_right(frame: Any) -> NDArray[np.bool_]:
    """Return which pixels of a frame its right view does not see, (1, H, W), as far as the frame itself tells."""
    disparity = float(frame.K[0, 0]) * frame.baseline / frame.depth[0].astype(np.float64)
    height, width = disparity.shape
    rows, columns = np.mgrid[:height, :width]
    there = np.rint(columns - disparity).astype(int)
    inside = there >= 0
    nearest = np.zeros_like(disparity)
    np.maximum.at(nearest, (rows[inside], there[inside]), disparity[inside])
    hides = nearest[rows, there.clip(0)] * NEARER > disparity
    unseen: NDArray[np.bool_] = (~inside | hides)[None]
    return unseen


def shares(measured: HeldOut) -> dict[str, float]:
    """Return the share of valid pixels in every region, and of pairs whose row is wrong."""
    found = {name: float(mask.sum() / measured.valid.sum()) for name, mask in measured.regions.items()}
    return {**found, "row wrong": float(measured.row_wrong.float().mean())}


def concatenated(drives: Sequence[Sequence[Any]]) -> list[Any]:
    """Return the frames of all drives in order."""
    return [frame for one in drives for frame in one]
