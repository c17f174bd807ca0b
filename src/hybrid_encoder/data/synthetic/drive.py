"""A small ray-cast drive: images, exact depth, intrinsics, camera poses and lane labels, from a seed.

A static street (road with lane lines, cars, houses, walls, trees) is rendered with one ray through every pixel centre.
World and camera axes are OpenCV's: x right, y down, z forward; the ground is y = 0 and the unit is the metre. Pixel
(u, v) has its centre at the integers u, v, as in KITTI and in Monodepth2's projection.

Colour is a function of the point in the world, so that frames agree photometrically; only two small terms depend on
the distance: haze, and the fading of texture that is finer than a pixel. Images and depth use only operations that
IEEE 754 rounds correctly (no sine, no exponential, no BLAS), so a seed gives the same bytes on every machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np

from hybrid_encoder.data.synthetic.layout import build_street
from hybrid_encoder.data.synthetic.rendering import GROUND, camera_rays, cast_rays, label_lanes, shade
from hybrid_encoder.data.synthetic.street import (
    Array,
    Street,
    check_baseline,
    check_drive,
    frame_number,
    moved_right,
    turn,
    wave,
)
from hybrid_encoder.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

KITTI_FOCAL = 0.58  # of the width
Frame = TypeVar("Frame")
SWING = 16  # frames, of a camera that turns to the left and to the right and back


@dataclass(frozen=True)
class SyntheticFrame:
    """One frame of a drive.

    Args:
        image: RGB in [0, 1], float32, (3, H, W).
        depth: z-depth in metres, float32, (1, H, W); ``max_depth`` where nothing is nearer than that.
        valid: bool, (1, H, W); False on the sky and on whatever is ``max_depth`` or farther away.
        K: intrinsics in pixels, float32, (3, 3).
        world_T_cam: camera to world, float32, (4, 4).
        lanes: column of every lane line, left to right, on every row of ``h_samples``, int64, (L, R);
            -2 where the line is outside the image, occluded, or beyond ``max_depth``.
        h_samples: rows, top (far) to bottom (near), int64, (R,).
        right: what a second camera sees at the same moment, like ``image``; None without one.
        baseline: metres along x from the camera to that one.
    """

    image: Array
    depth: Array
    valid: Array
    K: Array
    world_T_cam: Array
    lanes: Array
    h_samples: Array
    right: Array | None = None
    baseline: float | None = None


class RenderedDrive(Protocol):
    """Frames in order: a ``SyntheticDrive``, which renders them on demand, or a list of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> SyntheticFrame: ...


class _SizedDrive(RenderedDrive, Protocol):
    """A drive that says how large its images are before it renders one."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...


@dataclass(frozen=True)
class SyntheticDrive:
    """A short drive down a street made from ``seed``: a sequence of ``SyntheticFrame``, rendered on demand.

    The seed determines the street (road, lanes, obstacles, walls, colours, light) and the camera (height 1.2 to 1.8 m,
    pitch, 0.3 to 1 m per frame, gentle yaw). The street also depends on ``num_frames`` and ``max_depth``, because it is
    built only as long as needed, but not on which frames are rendered.

    Args:
        seed: 0 or more.
        num_frames: length of the drive.
        height, width: image size in pixels, 32 at least.
        focal: in pixels, for both axes; by default 0.58 x width, about KITTI's.
        max_depth: in metres, 10 at least; beyond it, depth is clipped and not valid.
        turning: degrees, up to 10, by which the camera also turns from frame to frame where it turns fastest, to the
            left and to the right in turn, as a car does at crossings.
        baseline: metres, up to 10, to a second camera on the right, whose images are rendered too; None for one camera.

    Raises:
        InputError: a value out of its range.
    """

    seed: int
    num_frames: int = 20
    height: int = 96
    width: int = 320
    focal: float | None = None
    max_depth: float = 80.0
    turning: float = 0.0
    baseline: float | None = None

    def __post_init__(self) -> None:
        check_drive(self.seed, self.num_frames, self.height, self.width, self.max_depth)
        if self.focal is not None and not 0 < self.focal < float("inf"):
            raise InputError(f"focal is {self.focal!r}; it must be a positive number of pixels, or None.")
        if not 0 <= self.turning <= 10:
            raise InputError(f"turning is {self.turning!r}; degrees per frame lie between 0 and 10.")
        check_baseline(self.baseline)

    @property
    def K(self) -> Array:
        """Intrinsics in pixels, (3, 3), float32; the principal point is the centre of the image."""
        f = KITTI_FOCAL * self.width if self.focal is None else self.focal
        K = [[f, 0, (self.width - 1) / 2], [0, f, (self.height - 1) / 2], [0, 0, 1]]
        return np.array(K, dtype=np.float32)

    @property
    def normalized_K(self) -> Array:
        """Monodepth2's form, (4, 4), float32: first row divided by the width, second by the height."""
        K = np.eye(4, dtype=np.float32)
        K[:3, :3] = self.K / np.array([[self.width], [self.height], [1]], dtype=np.float32)
        return K

    @property
    def h_samples(self) -> Array:
        """The labelled rows, int64, (R,): TuSimple's 240, 250, ... of 720, rounded to whole rows at other heights."""
        return np.arange(self.height // 3, self.height, max(1, self.height // 72), dtype=np.int64)

    def __len__(self) -> int:
        return self.num_frames

    def __iter__(self) -> Iterator[SyntheticFrame]:
        return (self[index] for index in range(self.num_frames))

    def __getitem__(self, index: int) -> SyntheticFrame:
        pose = self.world_T_cam(index)
        image, rays, depth, hit = self._render(pose)
        valid = depth < self.max_depth
        return SyntheticFrame(
            image=image,
            depth=np.minimum(depth, self.max_depth).astype(np.float32)[None],
            valid=valid[None],
            K=self.K,
            world_T_cam=pose.astype(np.float32),
            lanes=label_lanes(self._street, pose[:3, 3], rays, (hit == GROUND) & valid, self.h_samples),
            h_samples=self.h_samples,
            right=None if self.baseline is None else self._render(moved_right(pose, self.baseline))[0],
            baseline=self.baseline,
        )

    def _render(self, pose: Array) -> tuple[Array, Array, Array, Array]:
        """Return what a camera sees: image, rays, depth, and what each ray hits."""
        K = self.K.astype(np.float64)
        rays = camera_rays(pose, K, self.height, self.width)
        depth, hit, axis = cast_rays(self._street, pose, K, rays)
        return shade(self._street, pose[:3, 3], rays, depth, hit, axis, K[0, 0]), rays, depth, hit

    def world_T_cam(self, index: int) -> Array:
        """Return camera to world of one frame, (4, 4), float64.

        Raises:
            IndexError: the drive has no such frame.
        """
        street = self._street
        frame = frame_number(index, self.num_frames)
        x, cos, sin = street.path(street.step * frame)
        swing, _ = wave(frame, math.radians(self.turning) * SWING / 8, SWING, street.weave[2])
        cos_swing, sin_swing = turn(swing)
        cos, sin = cos * cos_swing - sin * sin_swing, sin * cos_swing + cos * sin_swing
        cos_pitch, sin_pitch = turn(street.pitch)
        pose = np.eye(4)
        pose[:3, 0] = cos, 0, -sin
        pose[:3, 1] = -sin * sin_pitch, cos_pitch, -cos * sin_pitch
        pose[:3, 2] = sin * cos_pitch, sin_pitch, cos * cos_pitch
        pose[:3, 3] = x, -street.camera_height, street.step * frame
        return pose

    @cached_property
    def _street(self) -> Street:
        return build_street(int(self.seed), self.num_frames, self.max_depth)


def render_drives(
    seeds: Sequence[int],
    num_frames: int,
    size: tuple[int, int],
    progress: Callable[[Sequence[int]], Iterable[int]] | None = None,
    turning: float = 0.0,
    baseline: float | None = None,
) -> list[list[SyntheticFrame]]:
    """Render one drive for each seed and hold all frames in memory.

    A ``SyntheticDrive`` renders a frame anew whenever it is read; training reads each frame many times.

    Args:
        seeds: one for each drive, as in ``SyntheticDrive``.
        num_frames: length of each drive.
        size: (H, W) of the images, 32 pixels at least.
        progress: wraps the seeds and shows how many are done, such as
            ``functools.partial(rich.progress.track, description="rendering drives")``.
        turning, baseline: of each drive, as in ``SyntheticDrive``.

    Returns:
        The frames of each drive, in the order of ``seeds``.

    Raises:
        InputError: a value out of its range.
    """
    height, width = size
    make = partial(
        SyntheticDrive, num_frames=num_frames, height=height, width=width, turning=turning, baseline=baseline
    )
    return rendered(make, seeds, progress)


def rendered(
    make: Callable[[int], Iterable[Frame]],
    seeds: Sequence[int],
    progress: Callable[[Sequence[int]], Iterable[int]] | None,
) -> list[list[Frame]]:
    """Return the frames of the drive that is made of each seed, all of them in memory.

    Args:
        make: a drive of a seed.
        seeds, progress: as for :func:`render_drives`.
    """
    return [list(make(seed)) for seed in (seeds if progress is None else progress(seeds))]


class SyntheticBatch(NamedTuple):
    """Frames stacked as tensors; ``SyntheticFrame`` describes each field."""

    images: Tensor  # (B, 3, H, W)
    depth: Tensor  # (B, 1, H, W)
    valid: Tensor  # (B, 1, H, W)
    K: Tensor  # (B, 3, 3)
    world_T_cam: Tensor  # (B, 4, 4)


def synthetic_batch(drives: Sequence[_SizedDrive], frames: Sequence[int] = (0,)) -> SyntheticBatch:
    """Stack the given frames of every drive as one batch, drive by drive.

    Raises:
        InputError: no drive, no frame, or drives of different sizes.
    """
    if not drives or not frames:
        raise InputError(f"the batch has {len(drives)} drives x {len(frames)} frames; give at least one of each.")
    sizes = sorted({(drive.height, drive.width) for drive in drives})
    if len(sizes) > 1:
        raise InputError(f"the drives have sizes {sizes}; a batch needs one size: render them alike.")
    import torch

    rendered = [drive[index] for drive in drives for index in frames]
    fields = ("image", "depth", "valid", "K", "world_T_cam")
    return SyntheticBatch(*(torch.from_numpy(np.stack([getattr(f, name) for f in rendered])) for name in fields))


def write_tusimple(root: str | Path, drives: Sequence[RenderedDrive]) -> Path:
    """Write drives as a TuSimple root: PNG images, and a JSON line for each in ``label_data_synthetic.json``.

    Lane lines without a visible point in a frame are left out of its ``lanes``. The label file is written last, and
    every file is written whole or not at all.

    Returns:
        Path of the label file.
    """
    from hybrid_encoder.data.images import write_png
    from hybrid_encoder.writing import write_whole

    root, lines = Path(root), []
    for number, drive in enumerate(drives):
        clip = f"clips/synthetic/{number:04d}"
        (root / clip).mkdir(parents=True, exist_ok=True)
        for index in range(len(drive)):
            frame, name = drive[index], f"{clip}/{index + 1}.png"
            write_png(root / name, np.rint(frame.image.transpose(1, 2, 0) * 255).astype(np.uint8))
            lanes = [lane.tolist() for lane in frame.lanes if (lane >= 0).any()]
            label = {"lanes": lanes, "h_samples": frame.h_samples.tolist(), "raw_file": name}
            lines.append(json.dumps(label) + "\n")
    labels = root / "label_data_synthetic.json"
    write_whole(labels, "".join(lines).encode())
    return labels
