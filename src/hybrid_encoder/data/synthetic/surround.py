"""Six cameras around a vehicle on a made-up street: images with exact depth, boxes of vehicles and road, from a seed.

The cameras are placed like those of nuScenes. Vehicle axes are x forward, y left, z up, with the origin on the ground
below the middle of the vehicle; camera axes are OpenCV's, and pixel centres are at integers. Everything on the street
stands still; the own vehicle is not in the images. Images and depth follow the rules of
:mod:`hybrid_encoder.data.synthetic.drive`: a seed gives the same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hybrid_encoder.data.synthetic.layout import build_street
from hybrid_encoder.data.synthetic.rendering import camera_rays, cast_rays, shade
from hybrid_encoder.data.synthetic.street import CAR_BOXES, Array, Street, check_drive, frame_number, turn

CAMERAS = ("front", "front_left", "front_right", "back", "back_left", "back_right")
# As numbers, because sines differ between maths libraries.
COS_55, SIN_55, TAN_35, TAN_55 = 0.573576436351046, 0.819152044288992, 0.700207538209710, 1.428148006742114
COS_110, SIN_110 = -0.342020143325669, 0.939692620785908
# Of each camera: x and y on the vehicle in metres, cosine and sine of its yaw to the left, tangent of half its field
# of view: 70 degrees, and 110 to the back. Neighbours share 10 to 20 degrees of what they see.
MOUNTS = (
    (0.8, 0.0, 1.0, 0.0, TAN_35),
    (0.6, 0.5, COS_55, SIN_55, TAN_35),
    (0.6, -0.5, COS_55, -SIN_55, TAN_35),
    (-0.8, 0.0, -1.0, 0.0, TAN_55),
    (-0.6, 0.5, COS_110, SIN_110, TAN_35),
    (-0.6, -0.5, COS_110, -SIN_110, TAN_35),
)


@dataclass(frozen=True)
class SurroundFrame:
    """What the six cameras see at one moment, in the order of ``CAMERAS``.

    Args:
        images: RGB in [0, 1], float32, (6, 3, H, W).
        depth: z-depth in metres, float32, (6, 1, H, W); ``max_depth`` where nothing is nearer than that.
        valid: bool, (6, 1, H, W); False on the sky and on whatever is ``max_depth`` or farther away.
        vehicle: which of the ``boxes`` a pixel shows, -1 for none, int64, (6, 1, H, W).
        K: intrinsics in pixels, float32, (6, 3, 3).
        vehicle_T_cam: takes points of each camera to the vehicle, float32, (6, 4, 4).
        world_T_vehicle: vehicle to world (x right, y down, z forward), float32, (4, 4).
        boxes: of all other vehicles of the street, the same ones in every frame: x, y, z of the middle, length, width,
            height in metres, yaw in radians from x to y, in the axes of the vehicle, float32, (M, 7). A box is tight;
            its yaw says where its length is, not which end is the front.
        visible: whether any pixel shows the vehicle, bool, (M,).
    """

    images: Array
    depth: Array
    valid: Array
    vehicle: Array
    K: Array
    vehicle_T_cam: Array
    world_T_vehicle: Array
    boxes: Array
    visible: Array


@dataclass(frozen=True)
class SyntheticSurround:
    """A short drive with six cameras down a street made from ``seed``: a sequence of :class:`SurroundFrame`.

    The street goes on behind the vehicle; other vehicles are ahead, behind, beside, on the other lanes and parked. As
    for :class:`hybrid_encoder.data.SyntheticDrive`, the street also depends on ``num_frames`` and ``max_depth``, but
    not on which frames are rendered.

    Args:
        seed: 0 or more.
        num_frames: length of the drive; the vehicle goes on by 0.3 to 1 m per frame.
        height, width: size of the images in pixels, 32 at least.
        max_depth: in metres, 10 at least; beyond it, depth is clipped and not valid.

    Raises:
        InputError: a value out of its range.

    Example:
        >>> frame = SyntheticSurround(seed=0, num_frames=1, height=32, width=88)[0]
        >>> frame.images.shape, frame.boxes.shape[1], bool(frame.visible.any())
        ((6, 3, 32, 88), 7, True)
    """

    seed: int
    num_frames: int = 8
    height: int = 96
    width: int = 256
    max_depth: float = 60.0

    def __post_init__(self) -> None:
        check_drive(self.seed, self.num_frames, self.height, self.width, self.max_depth)

    @property
    def K(self) -> Array:
        """Intrinsics of the cameras in pixels, (6, 3, 3), float32; principal points are the centres of the images."""
        K = np.zeros((len(MOUNTS), 3, 3))
        for k, (*_, tangent) in enumerate(MOUNTS):
            K[k, 0, 0] = K[k, 1, 1] = self.width / 2 / tangent
        K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = (self.width - 1) / 2, (self.height - 1) / 2, 1
        return K.astype(np.float32)

    def __len__(self) -> int:
        return self.num_frames

    def __iter__(self) -> Iterator[SurroundFrame]:
        return (self[index] for index in range(self.num_frames))

    def __getitem__(self, index: int) -> SurroundFrame:
        world_T_vehicle = self.world_T_vehicle(index)
        cars = np.full(len(self._street.low) + 2, -1)  # SKY and GROUND are -2 and -1, the last two
        for part in range(CAR_BOXES):
            cars[self._street.cars + part] = np.arange(len(self._street.cars))
        views = [
            self._render(_compose(world_T_vehicle, vehicle_T_cam), K, cars)
            for vehicle_T_cam, K in zip(self._vehicle_T_cam, self.K.astype(np.float64), strict=True)
        ]
        images, depth, vehicle = (np.stack(part) for part in zip(*views, strict=True))
        valid = depth < self.max_depth
        vehicle[~valid] = -1
        boxes = self._boxes(world_T_vehicle)
        return SurroundFrame(
            images=images,
            depth=np.minimum(depth, self.max_depth).astype(np.float32)[:, None],
            valid=valid[:, None],
            vehicle=vehicle[:, None],
            K=self.K,
            vehicle_T_cam=self._vehicle_T_cam.astype(np.float32),
            world_T_vehicle=world_T_vehicle.astype(np.float32),
            boxes=boxes,
            visible=np.isin(np.arange(len(boxes)), vehicle),
        )

    def world_T_vehicle(self, index: int) -> Array:
        """Return vehicle to world of one frame, (4, 4), float64.

        Raises:
            IndexError: the drive has no such frame.
        """
        street = self._street
        z = street.start + street.step * frame_number(index, self.num_frames)
        x, cos, sin = street.path(z)
        pose = np.eye(4)
        pose[:3, 0] = sin, 0, cos  # forward
        pose[:3, 1] = -cos, 0, sin  # left
        pose[:3, 2] = 0, -1, 0  # up
        pose[:3, 3] = x, 0, z
        return pose

    def road(self, index: int, points: Array) -> Array:
        """Return which points of the ground are drivable: asphalt, whatever stands on it.

        Args:
            index: of the frame.
            points: x and y in metres in the axes of the vehicle in that frame, (..., 2).

        Returns:
            bool, (...).

        Raises:
            IndexError: the drive has no such frame.
        """
        pose = self.world_T_vehicle(index)
        points = np.asarray(points, dtype=np.float64)
        x, z = (pose[k, 0] * points[..., 0] + pose[k, 1] * points[..., 1] + pose[k, 3] for k in (0, 2))
        lateral = x - self._street.centre(z)[0]
        drivable: Array = (lateral >= self._street.edges[1]) & (lateral <= self._street.edges[2])
        return drivable

    def _render(self, pose: Array, K: Array, cars: Array) -> tuple[Array, Array, Array]:
        """Return image (3, H, W), depth (H, W), infinite for the sky, and the number of the car in each pixel."""
        rays = camera_rays(pose, K, self.height, self.width)
        depth, hit, axis = cast_rays(self._street, pose, K, rays)
        return shade(self._street, pose[:3, 3], rays, depth, hit, axis, K[0, 0]), depth, cars[hit]

    def _boxes(self, world_T_vehicle: Array) -> Array:
        street, origin = self._street, world_T_vehicle[:3, 3]
        parts = street.cars[:, None] + np.arange(CAR_BOXES)
        low, high = street.low[parts].min(1), street.high[parts].max(1)
        middle, size = (low + high) / 2 - origin, high - low
        forward, left = world_T_vehicle[:3, 0], world_T_vehicle[:3, 1]
        x, y = (middle[:, 0] * axis[0] + middle[:, 2] * axis[2] for axis in (forward, left))
        yaw = np.full(len(x), np.arctan2(left[2], forward[2]))  # cars stand along the world's z
        return np.stack([x, y, -middle[:, 1], size[:, 2], size[:, 0], size[:, 1], yaw], 1).astype(np.float32)

    @cached_property
    def _street(self) -> Street:
        return build_street(int(self.seed), self.num_frames, self.max_depth, behind=self.max_depth)

    @cached_property
    def _vehicle_T_cam(self) -> Array:
        cos_pitch, sin_pitch = turn(self._street.pitch)
        poses = np.tile(np.eye(4), (len(MOUNTS), 1, 1))
        for pose, (x, y, cos, sin, _) in zip(poses, MOUNTS, strict=True):
            pose[:3, 0] = sin, -cos, 0
            pose[:3, 1] = -cos * sin_pitch, -sin * sin_pitch, -cos_pitch
            pose[:3, 2] = cos * cos_pitch, sin * cos_pitch, -sin_pitch
            pose[:3, 3] = x, y, self._street.camera_height
        return poses


def _compose(a: Array, b: Array) -> Array:
    """Return the product of two poses, without BLAS."""
    product: Array = sum(a[:, k, None] * b[k] for k in range(4))
    return product
