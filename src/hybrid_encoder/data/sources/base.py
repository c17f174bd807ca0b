"""What a recording owes to whoever trains on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


class FrameSource:
    """A recording by one camera: frames in order of time, and whatever else is known about them.

    Subclass it for data of your own: set ``name`` and ``size``, and define ``frames`` and ``image``; the rest is
    optional. A source is handed to worker processes, so it holds paths and numbers, no open file.

    Attributes:
        name: what error messages and results call it, such as the path of a video.
        size: (H, W) of every image.
        K: intrinsics in pixels of the images, (3, 3); None where they are unknown. Pixel centres are at integers. A
            person may set others; ``depth`` must not depend on them.
        camera: sources with the same text here have the same intrinsics, which are then learned together; None for a
            camera of its own.
        baseline: metres along the camera's x axis to the camera of the right view; None where there is no right view.
    """

    name: str
    size: tuple[int, int]
    K: Array | None = None
    camera: str | None = None
    baseline: float | None = None

    @property
    def frames(self) -> Sequence[int]:
        """Numbers of the frames, rising; frames are neighbours in time where their numbers differ by one."""
        raise NotImplementedError

    def image(self, frame: int) -> Array:
        """Return RGB in [0, 1], float32, (3, H, W).

        Raises:
            InputError: it cannot be read.
        """
        raise NotImplementedError

    def right(self, frame: int) -> Array:
        """Return the rectified view of the right camera at the same moment, like :meth:`image`; asked for where
        ``baseline`` is set.
        """
        raise NotImplementedError

    def depth(self, frame: int) -> Array | None:
        """Return depth along the optical axis in metres, 0 where unknown, float32, (1, h, w); None where there is none.

        The map may have another size than the image; it shows the same view.
        """
        return None

    def world_T_cam(self, frame: int) -> Array | None:
        """Return camera to world, (4, 4), in metres; None where it is unknown."""
        return None

    def recorded(self, frame: int) -> tuple[str, int, str] | None:
        """Return which frame of a published data set it is: the recording, the number in it, and the side, ``"l"`` or
        ``"r"``, or empty where there is one camera; None where it is not known. A test on that data set then tells
        whether weights have seen its frames.
        """
        return None

    def file(self, frame: int) -> Path | None:
        """Return the file that an image is read from, by which a cache notices that it has changed; None where an image
        is no file of its own.
        """
        return None

    def frame_name(self, frame: int) -> str:
        """Return what error messages call a frame."""
        return f"{self.name} {frame}"
