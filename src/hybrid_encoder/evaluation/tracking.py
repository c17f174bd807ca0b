"""The path of a camera through a recording, from the motion between every two frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hybrid_encoder.data.sources.base import FrameSource
from hybrid_encoder.data.transforms import resize_images
from hybrid_encoder.errors import InputError
from hybrid_encoder.geometry.alignment import refine_pose
from hybrid_encoder.geometry.camera import resized_intrinsics
from hybrid_encoder.geometry.pose import pose_matrix
from hybrid_encoder.geometry.trajectory import chain_motions, motions_between, similarity_between
from hybrid_encoder.models.base import check_working_size
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.pose_network import ClassTokenPoseHead, PoseNetwork

Array = NDArray[Any]
FACTORS = (8, 4, 2)  # by which images are made smaller for alignment, in this order; motion is large in large images
LEAST_SIDE = 8  # pixels of an image to align
BATCH = 8  # pairs of frames


class Tracker:
    """A motion network, run over recordings.

    Args:
        network: from :func:`hybrid_encoder.models.pose_network.load_motion`.
        model: the depth model that it was trained with; needed by a layer on class tokens, and to refine.
        size: (H, W) that images are resized to; by default the one that the network was trained at.
        refine: Gauss-Newton steps of direct alignment on every image size, starting from the predicted motion.
        batch_size: pairs of frames at a time.

    Attributes:
        unit: of translations, in words.

    Raises:
        InputError: no size is known, or no depth model is given where one is needed.
    """

    def __init__(
        self,
        network: PoseNetwork | ClassTokenPoseHead,
        model: HybridDepthModel | None = None,
        size: tuple[int, int] | None = None,
        refine: int = 0,
        batch_size: int = BATCH,
    ) -> None:
        config = network.config
        size = size or config.size or (model.config.size if model is not None else None)
        if size is None:
            raise InputError("the pose network does not say which size it was trained at; give --size HEIGHTxWIDTH.")
        check_working_size(size)
        on_tokens = isinstance(network, ClassTokenPoseHead)
        if model is None and (on_tokens or refine):
            why = "motion from class tokens" if on_tokens else "direct alignment"
            raise InputError(f"{why} needs the depth model of the same training; give --depth WEIGHTS.")
        self.spatial = None
        if on_tokens:
            assert model is not None
            self.spatial = model.encoder.spatial
            if self.spatial is None or self.spatial.channels[-1] != config.channels:
                raise InputError(
                    f"the layer reads class tokens of {config.channels} channels, which the depth model does not have; "
                    "give the depth model of the same training."
                )
            self.spatial.check_class_token()
        self.network, self.model, self.size = network, model, (size[0], size[1])
        self.refine, self.batch_size = refine, batch_size
        self.unit = "metres" if config.metric else "no known unit"

    def track(
        self,
        source: FrameSource,
        frames: Sequence[int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Array:
        """Return the camera's poses, world_T_cam, (N, 4, 4), float64; the first frame's camera is the world.

        Args:
            source: a recording.
            frames: in order of time, all by default. Two that follow each other are taken for neighbours.
            progress: is told after every batch how many motions it had.

        Raises:
            InputError: no frame, one that cannot be read, or no intrinsics to refine with.
        """
        frames = list(source.frames if frames is None else frames)
        if not frames:
            raise InputError(f"{source.name} has no frame to track the camera by; give a longer recording.")
        if self.refine and source.K is None:
            raise InputError(f"{source.name} has no intrinsics, which --refine needs; give --intrinsics fx,fy,cx,cy.")
        found = [np.empty((0, 4, 4))]
        for motions in self._motions(source, frames):
            found.append(motions.double().cpu().numpy())
            if progress is not None:
                progress(len(motions))
        return chain_motions(_rigid(np.concatenate(found)))

    @torch.no_grad()
    def _motions(self, source: FrameSource, frames: Sequence[int]) -> Iterator[Tensor]:
        """Give the motion between every two frames, second_T_first, batch by batch, (B, 4, 4)."""
        last = self._image(source, frames[0])
        for start in range(1, len(frames), self.batch_size):
            images = [last, *(self._image(source, frame) for frame in frames[start : start + self.batch_size])]
            last = images[-1]
            together = torch.cat(images)
            seen = together if self.spatial is None else self.spatial.class_token(together)
            axis_angle, translation = self.network(seen[:-1], seen[1:])
            motions = pose_matrix(axis_angle, translation)
            yield self._refined(source, together, motions) if self.refine else motions

    def _image(self, source: FrameSource, frame: int) -> Tensor:
        image = torch.tensor(source.image(frame))[None]
        if (image.shape[-2], image.shape[-1]) != self.size:
            image = resize_images(image, self.size, self.network.config.resample)
        return image.to(next(self.network.parameters()).device)

    def _refined(self, source: FrameSource, images: Tensor, motions: Tensor) -> Tensor:
        assert self.model is not None  # the constructor asks for it
        first, second = images[:-1], images[1:]
        depth = self.model.to_depth(self.model(first).float())
        if self.network.config.unit == "mean depth":
            depth = depth * depth.reciprocal().mean((-2, -1), keepdim=True)
        K = resized_intrinsics(torch.as_tensor(source.K).float().to(images.device), source.size, self.size)
        for factor in FACTORS:
            small = (self.size[0] // factor, self.size[1] // factor)
            if min(small) < LEAST_SIDE:
                continue
            target, other, near = (F.interpolate(x, small, mode="area") for x in (first, second, depth))
            intrinsics = resized_intrinsics(K, self.size, small).expand(len(first), 3, 3)
            motions = refine_pose(target, other, near, intrinsics, motions, self.refine)
        return motions


class Truth(NamedTuple):
    """What is known of the true path.

    Attributes:
        frames: that have a pose, in order.
        poses: world_T_cam of these, (N, 4, 4), float64.
        problem: why the first of the others has none; empty where all have one, or the source says none.
    """

    frames: list[int]
    poses: Array
    problem: str = ""


def true_path(source: FrameSource) -> Truth:
    """Return the frames of a recording whose poses are known, with these."""
    frames, poses, problem = [], [np.empty((0, 4, 4))], ""
    for frame in source.frames:
        try:
            pose = source.world_T_cam(frame)
        except InputError as error:
            problem = problem or str(error)
            continue
        if pose is not None:
            frames.append(frame)
            poses.append(np.asarray(pose, dtype=np.float64)[None])
    return Truth(frames, np.concatenate(poses), problem)


def scaled_to(predicted: Array, truth: Array, metric: bool = False) -> tuple[Array, float]:
    """Return a path with its translations in metres, and the number that they were multiplied by.

    Args:
        predicted, truth: world_T_cam of the same frames, (N, 4, 4).
        metric: they are in metres already.
    """
    scale = 1.0 if metric else similarity_between(predicted[:, :3, 3], truth[:, :3, 3])[0]
    scaled = predicted.copy()
    scaled[:, :3, 3] *= scale
    return scaled, scale


def control_paths(predicted: Array, truth: Array, seed: int = 0) -> dict[str, Array]:
    """Return paths to compare a predicted one with, by name, each (N, 4, 4).

    - ``standing still``: no motion;
    - ``constant motion``: from frame to frame the mean of the true translations, without turning, which nobody knows
      beforehand;
    - ``shuffled``: the predicted motions in another order, which keep what does not depend on the frame.

    Args:
        predicted, truth: world_T_cam of the same frames, (N, 4, 4).
        seed: of the other order.
    """
    motions = motions_between(predicted)
    still = np.tile(np.eye(4), (len(motions), 1, 1))
    constant = still.copy()
    constant[:, :3, 3] = motions_between(truth)[:, :3, 3].mean(0) if len(motions) else 0
    shuffled = motions[np.random.default_rng(seed).permutation(len(motions))]
    named = {"standing still": still, "constant motion": constant, "shuffled": shuffled}
    return {name: chain_motions(steps) for name, steps in named.items()}


def _rigid(motions: Array) -> Array:
    """Return motions with rotations that are orthogonal in double precision: errors of single add up along a path."""
    left, _, right = np.linalg.svd(motions[:, :3, :3])
    motions = motions.copy()
    motions[:, :3, :3] = left @ right
    return motions
