"""Intrinsics that are learned from video: one focal length and one centre for each camera."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hybrid_encoder.errors import ConfigError, InputError

SHIFT_UNIT = 0.01  # of a focal length: centres move this much more slowly than focal lengths, which are less certain


class LearnedIntrinsics(nn.Module):
    """Intrinsics as a correction of those that a camera starts from, learned together with depth and motion.

    Sources: Gordon et al., "Depth from Videos in the Wild", ICCV 2019; Fang et al., "Self-Supervised Camera
    Self-Calibration from Video", ICRA 2022 (one set of intrinsics for all frames of a video).

    A focal length can only be told from rotation; :mod:`hybrid_encoder.training.calibration` says whether there was
    enough of it.

    Args:
        cameras: name of each camera, in the order of ``Frames.camera``.
        square: keep the ratio of the two focal lengths that a camera starts with, which for square pixels is known;
            False learns both by themselves.
        wait: calls in training that get the intrinsics as they start, without a gradient. While depth has no shape yet,
            a focal length far too short explains the frames best.

    Raises:
        ConfigError: no camera.
    """

    calls: Tensor

    def __init__(self, cameras: Sequence[str], square: bool = True, wait: int = 0) -> None:
        super().__init__()
        if not cameras:
            raise ConfigError("cameras is empty; learned intrinsics need one camera at least: name it.")
        self.cameras, self.square, self.wait = tuple(cameras), square, wait
        self.log_focal = nn.Parameter(torch.zeros(len(self.cameras), 1 if square else 2))  # of factors on fx and fy
        self.shift = nn.Parameter(torch.zeros(len(self.cameras), 2))  # of the centre, in SHIFT_UNIT
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))  # in training; a resumed run goes on counting

    def forward(self, camera: Tensor, K: Tensor, mirrored: Tensor) -> Tensor:
        """Return the intrinsics of a batch as they are learned so far.

        Args:
            camera: number of the camera of each item, (B,).
            K: where each item starts, (B, 3, 3), in pixels of its images.
            mirrored: whether images and ``K`` of an item are mirrored, bool, (B,).

        Returns:
            (B, 3, 3), in the same pixels.

        Raises:
            InputError: a camera that has no number here.
        """
        if int(camera.min()) < 0 or int(camera.max()) >= len(self.cameras):
            raise InputError(
                f"camera is {camera.tolist()}; the learned intrinsics are of {len(self.cameras)} cameras, numbered "
                "from 0: name all cameras of the data set."
            )
        focal = torch.stack([K[:, 0, 0], K[:, 1, 1]], dim=-1)
        sides = torch.stack([1 - 2 * mirrored.to(K.dtype), torch.ones_like(focal[:, 0])], dim=-1)
        fx, fy = (focal * self.log_focal[camera].exp()).unbind(-1)
        cx, cy = (K[:, :2, 2] + SHIFT_UNIT * self.shift[camera] * sides * focal).unbind(-1)
        zero, one = torch.zeros_like(fx), torch.ones_like(fx)
        learned: Tensor = torch.stack([fx, K[:, 0, 1], cx, zero, fy, cy, zero, zero, one], dim=-1).unflatten(-1, (3, 3))
        if self.training:
            self.calls += 1
            if self.calls <= self.wait:
                return learned.detach()
        return learned

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    @torch.no_grad()
    def estimate(self, camera: int, K: Tensor) -> Tensor:
        """Return the learned intrinsics of one camera, (3, 3), from those that it started with, in the same pixels."""
        number, start = torch.tensor([camera]), K[None].to(self.shift)
        mode, self.training = self.training, False  # not a call that counts
        found = self(number.to(start.device), start, torch.tensor([False], device=start.device))[0].cpu()
        self.training = mode
        return found
