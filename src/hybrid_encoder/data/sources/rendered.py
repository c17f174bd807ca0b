"""Synthetic drives as a source of frames."""

from __future__ import annotations

from collections.abc import Sequence

from hybrid_encoder.data.sources.base import Array, FrameSource
from hybrid_encoder.data.street.drive import StreetDrive
from hybrid_encoder.data.synthetic.drive import RenderedDrive, SyntheticDrive
from hybrid_encoder.errors import InputError


class RenderedSource(FrameSource):
    """Rendered frames, with exact depth and poses, and a right view where they were rendered with a baseline.

    Args:
        drive: a ``SyntheticDrive`` or ``StreetDrive``, which renders frames on demand, or a list that holds them.
        name: what messages call it.

    Raises:
        InputError: no frame.
    """

    def __init__(self, drive: RenderedDrive, name: str = "synthetic drive") -> None:
        if not len(drive):
            raise InputError(f"{name} has no frame; render one at least.")
        self.drive, self.name = drive, name
        first = drive[0]
        self.size = (first.image.shape[-2], first.image.shape[-1])
        self.K, self.baseline = first.K, first.baseline

    @property
    def frames(self) -> Sequence[int]:
        return range(len(self.drive))

    def image(self, frame: int) -> Array:
        return self.drive[frame].image

    def right(self, frame: int) -> Array:
        view = self.drive[frame].right
        if view is None:
            raise InputError(f"{self.frame_name(frame)} has no right view; render all frames with a baseline.")
        return view

    def depth(self, frame: int) -> Array:
        rendered = self.drive[frame]
        depth: Array = rendered.depth * rendered.valid
        return depth

    def world_T_cam(self, frame: int) -> Array:
        if isinstance(self.drive, SyntheticDrive | StreetDrive):  # which need not render the frame for it
            return self.drive.world_T_cam(frame)
        return self.drive[frame].world_T_cam

    def frame_name(self, frame: int) -> str:
        return f"{self.name}, frame {frame}"
