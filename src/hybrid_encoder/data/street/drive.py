"""Drives down streets with curves, crossings, slopes, traffic, weather and shadows: frames with all that is known.

World and camera axes are OpenCV's: x right, y down, z forward; the unit is the metre, and pixel centres are at
integers. As for :class:`hybrid_encoder.data.SyntheticDrive`, a seed gives the same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from hybrid_encoder.data.street.captions import DEPTH_LIMITS, KINDS, frame_captions, side_of
from hybrid_encoder.data.street.casting import Solids, cast, place, shadowed
from hybrid_encoder.data.street.frame import StreetFrame, StreetObject
from hybrid_encoder.data.street.lanes import label_lanes
from hybrid_encoder.data.street.layout import CameraKind, build_world
from hybrid_encoder.data.street.shading import FAR, View, shade
from hybrid_encoder.data.street.world import World
from hybrid_encoder.data.synthetic.drive import rendered
from hybrid_encoder.data.synthetic.rendering import camera_rays
from hybrid_encoder.data.synthetic.street import (
    Array,
    check_baseline,
    check_drive,
    frame_number,
    moved_right,
    turn,
)
from hybrid_encoder.errors import InputError

CAMERA_KINDS = ("kitti", "random")
GROUND_SHARE = 0.05  # of a frame: ground that covers less of it is not told


@dataclass(frozen=True)
class StreetDrive:
    """A short drive down a street made from ``seed``: a sequence of ``StreetFrame``, rendered on demand.

    The seed determines the street, what moves on it, weather and light, the way of the camera (0.25 to 1.3 metres per
    frame, along the road or around a corner; rarely it stands) and, unless told otherwise, the camera. The street also
    depends on ``num_frames`` and ``max_depth``, but not on which frames are rendered.

    Args:
        seed: 0 or more.
        num_frames: length of the drive.
        height, width: image size in pixels, 32 at least.
        camera: "kitti" is 1.65 m high, looks ahead, and has a focal length of 0.58 x width; "random" draws a height of
            0.8 to 2.5 m, a focal length of 0.45 to 1.1 x width, pitch, roll and the principal point from the seed.
        max_depth: in metres, 42 at least, since there begins what is "very distant"; beyond it, depth is clipped and
            not valid.
        baseline: metres, up to 10, to a second camera on the right, whose images are rendered too; None for one camera.

    Raises:
        InputError: a value out of its range.

    Example:
        >>> frame = StreetDrive(seed=3, num_frames=1, height=32, width=96)[0]
        >>> frame.image.shape, frame.depth.shape, len(frame.captions) > 1
        ((3, 32, 96), (1, 32, 96), True)
    """

    seed: int
    num_frames: int = 5
    height: int = 96
    width: int = 320
    camera: CameraKind = field(default="random", kw_only=True)
    max_depth: float = field(default=80.0, kw_only=True)
    baseline: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_drive(self.seed, self.num_frames, self.height, self.width, self.max_depth)
        if self.camera not in CAMERA_KINDS:
            raise InputError(f"camera is {self.camera!r}; it must be one of {', '.join(CAMERA_KINDS)}.")
        if self.max_depth < DEPTH_LIMITS[-1]:
            raise InputError(f"max_depth is {self.max_depth!r}; the words for distances need at least 42 metres.")
        check_baseline(self.baseline)

    @property
    def K(self) -> Array:
        """Intrinsics in pixels, (3, 3), float32."""
        camera = self._world.camera
        f, (x, y) = camera.focal * self.width, camera.centre
        cx, cy = (self.width - 1) / 2 + x * self.width, (self.height - 1) / 2 + y * self.height
        return np.array([[f, 0, cx], [0, f, cy], [0, 0, 1]], dtype=np.float32)

    @property
    def h_samples(self) -> Array:
        """The labelled rows, int64, (R,), from a quarter of the height down."""
        return np.arange(self.height // 4, self.height, max(1, self.height // 72), dtype=np.int64)

    def __len__(self) -> int:
        return self.num_frames

    def __iter__(self) -> Iterator[StreetFrame]:
        return (self[index] for index in range(self.num_frames))

    def __getitem__(self, index: int) -> StreetFrame:
        frame = frame_number(index, self.num_frames)
        world, pose, shape = self._world, self.world_T_cam(frame), (self.height, self.width)
        solids = place(world.rows, world.owner, world.poses(frame))
        image, textureless, surface, view = self._render(pose, solids)
        depth, points = view.depth.reshape(shape), view.points.reshape(3, *shape)
        hit = view.hit.reshape(shape)
        valid = depth < self.max_depth
        thing = np.where(hit >= 0, world.owner[hit], -1)
        kind = self._kinds[np.where(thing >= 0, thing + 4, surface.reshape(shape) + 1)]
        clipped = np.minimum(depth, self.max_depth).astype(np.float32)
        moves = world.moving[thing] & (thing >= 0)
        instance, objects = self._objects(np.where(valid, thing, -1), clipped)
        ground = {
            KINDS[k]: float(np.median(clipped[kind == k]))
            for k in np.flatnonzero(np.bincount(kind[valid & (thing < 0)], minlength=1) >= GROUND_SHARE * kind.size)
        }
        moved = moved_right(pose, self.baseline) if self.baseline is not None else None
        return StreetFrame(
            image=image,
            depth=clipped[None],
            valid=valid[None],
            K=self.K,
            world_T_cam=pose.astype(np.float32),
            lanes=label_lanes(world, points, depth, (hit < 0) & valid, self.h_samples),
            h_samples=self.h_samples,
            right=None if moved is None else self._render(moved, solids)[0],
            baseline=self.baseline,
            moving=moves[None],
            motion=self._motion(frame, points, thing, moves),
            textureless=textureless.reshape(1, *shape),
            kind=kind[None],
            instance=instance[None],
            objects=objects,
            captions=frame_captions(objects, ground, world.weather, kind.size),
            weather=world.weather,
        )

    def world_T_cam(self, index: int) -> Array:
        """Return camera to world of one frame, (4, 4), float64.

        Raises:
            IndexError: the drive has no such frame.
        """
        world = self._world
        x, z, cos, sin = world.path[frame_number(index, self.num_frames)]
        level, rise = turn(float(world.ground.slope(z)) * cos)
        ahead = (sin * level, -rise, cos * level)
        right = (cos, 0.0, -sin)
        down = _cross(ahead, right)
        cos_pitch, sin_pitch = turn(world.camera.pitch)
        cos_roll, sin_roll = turn(world.camera.roll)
        pose = np.eye(4)
        for k in range(3):
            y = cos_pitch * down[k] - sin_pitch * ahead[k]
            pose[k, 0] = cos_roll * right[k] + sin_roll * y
            pose[k, 1] = cos_roll * y - sin_roll * right[k]
            pose[k, 2] = cos_pitch * ahead[k] + sin_pitch * down[k]
        pose[:3, 3] = x, -float(world.ground.height(z)) - world.camera.height, z
        return pose

    def _render(self, pose: Array, solids: Solids) -> tuple[Array, Array, Array, View]:
        """Return image, (3, H, W), and flat: which pixels have no texture, what the ground is, and what is seen."""
        world, K, shape = self._world, self.K.astype(np.float64), (self.height, self.width)
        rays = camera_rays(pose, K, *shape)
        flat = rays.reshape(3, -1)
        depth, hit = cast(solids, pose, K, rays, world.ground.cast(pose[:3, 3], flat).reshape(shape))
        far = np.minimum(depth, FAR)
        points = pose[:3, 3, None, None] + far * rays
        on_ground = (hit < 0) & (depth < self.max_depth)
        below = -world.ground.height(solids.middle[:, 2])
        dark = shadowed(solids, np.array(world.light.sun), pose, K, points, on_ground, below)
        view = View(
            rays=flat,
            norm=np.sqrt(flat[0] ** 2 + flat[1] ** 2 + flat[2] ** 2),
            depth=depth.ravel(),
            hit=hit.ravel(),
            dark=dark.ravel(),
            points=points.reshape(3, -1),
            pixel=(far.ravel() / K[0, 0]).astype(np.float32),
        )
        image, textureless, surface = shade(world, solids, view)
        return image.reshape(3, *shape), textureless, surface, view

    def _motion(self, frame: int, points: Array, thing: Array, moves: Array) -> Array:
        motion = np.zeros((3, moves.size), dtype=np.float32)
        some = np.flatnonzero(moves)
        if len(some):
            owner = thing.ravel()[some]
            x, y, z, cos, sin = self._world.poses(frame).T[:, owner]
            x2, y2, z2, cos2, sin2 = self._world.poses(frame + 1).T[:, owner]
            here = points.reshape(3, -1)[:, some]
            across, along = cos * (here[0] - x) - sin * (here[2] - z), sin * (here[0] - x) + cos * (here[2] - z)
            motion[0, some] = x2 + cos2 * across + sin2 * along - here[0]
            motion[1, some] = y2 - y
            motion[2, some] = z2 - sin2 * across + cos2 * along - here[2]
        return motion.reshape(points.shape)

    def _objects(self, thing: Array, depth: Array) -> tuple[Array, tuple[StreetObject, ...]]:
        """Return ``StreetFrame.instance``, (H, W), and ``StreetFrame.objects``."""
        world, flat = self._world, thing.ravel()
        seen = np.flatnonzero(flat >= 0)
        seen = seen[np.argsort(flat[seen].astype(np.int16), kind="stable")]
        ordered = flat[seen]
        first = np.flatnonzero(np.diff(ordered, prepend=-1))
        names, ends = ordered[first], [*first[1:].tolist(), len(seen)]
        numbers = np.zeros(len(world.kinds) + 1, dtype=np.int64)  # the last one is for -1
        numbers[names] = 1 + np.arange(len(names))
        far, moving, objects = depth.ravel()[seen], world.moving, []
        rows, columns = seen // self.width, seen % self.width
        for name, start, stop in zip(names.tolist(), first.tolist(), ends, strict=True):
            across, near = columns[start:stop], np.sort(far[start:stop])
            box = int(across.min()), int(rows[start]), int(across.max()) + 1, int(rows[stop - 1]) + 1
            distance = (float(near[(len(near) - 1) // 2]) + float(near[len(near) // 2])) / 2
            about = world.kinds[name], world.colours[name], box, distance, side_of(box, self.width)
            objects.append(StreetObject(*about, bool(moving[name]), stop - start))
        return numbers[thing], tuple(objects)

    @cached_property
    def _world(self) -> World:
        return build_world(int(self.seed), self.num_frames, self.max_depth, self.camera)

    @cached_property
    def _kinds(self) -> Array:
        """The kind of sky, road, pavement, what lies beside them, and every thing, as indices into ``KINDS``."""
        names = ("sky", "road", "pavement", self._world.verge, *self._world.kinds)
        return np.array([KINDS.index(name) for name in names], dtype=np.uint8)


def _cross(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def render_streets(
    seeds: Sequence[int],
    num_frames: int,
    size: tuple[int, int],
    progress: Callable[[Sequence[int]], Iterable[int]] | None = None,
    *,
    camera: CameraKind = "random",
    baseline: float | None = None,
) -> list[list[StreetFrame]]:
    """Render one drive for each seed and hold all frames in memory.

    Args:
        seeds: one for each drive, as in ``StreetDrive``.
        num_frames: length of each drive.
        size: (H, W) of the images, 32 pixels at least.
        progress: wraps the seeds and shows how many are done, such as
            ``functools.partial(rich.progress.track, description="rendering drives")``.
        camera, baseline: of each drive, as in ``StreetDrive``.

    Returns:
        The frames of each drive, in the order of ``seeds``.

    Raises:
        InputError: a value out of its range.
    """
    height, width = size
    make = partial(StreetDrive, num_frames=num_frames, height=height, width=width, camera=camera, baseline=baseline)
    return rendered(make, seeds, progress)
