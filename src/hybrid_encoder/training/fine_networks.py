"""The networks that the fine stage trains, and what they say about a batch: depth, motion and intrinsics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.encoder import HybridFeatures
from hybrid_encoder.models.intrinsics import LearnedIntrinsics
from hybrid_encoder.models.pose_network import ClassTokenPoseHead
from hybrid_encoder.training.fine_motion import align_motions, motion_to_right_view, predict_motions
from hybrid_encoder.training.ranges import check_number
from hybrid_encoder.training.stage import Stage

if TYPE_CHECKING:
    from hybrid_encoder.data.frames import Frames


class FinePrediction(NamedTuple):
    """What a fine stage says about a batch.

    Args:
        features: of the targets.
        disparities: of the targets by scale, the finest under the lowest number; in [0, 1], (B, 1, h, w).
        predicted: motion from the target camera to every source camera as the motion network says it, (B, N, 4, 4).
        motions: the same, aligned with the images where the stage refines; with ``stereo`` the way to the right view
            comes last, (B, N + 1, 4, 4).
        K: intrinsics, (B, 3, 3), in pixels of the images.
    """

    features: HybridFeatures
    disparities: dict[int, Tensor]
    predicted: Tensor
    motions: Tensor
    K: Tensor


class FineNetworks(Stage):
    """A depth model, what predicts the camera's motion, and intrinsics where they are learned.

    Args:
        model, pose, offsets, levels, refine, intrinsics, stereo: of
            :class:`hybrid_encoder.training.view_synthesis.FineStage`, which adds the losses.

    Raises:
        ConfigError: no class token to read motion from, or a number out of its range.
    """

    def __init__(
        self,
        model: HybridDepthModel,
        pose: nn.Module | None,
        offsets: Sequence[int],
        levels: Sequence[int],
        refine: int,
        intrinsics: LearnedIntrinsics | None,
        stereo: bool,
    ) -> None:
        super().__init__()
        check_number("refine", refine, 0, whole=True)
        for level in levels:
            check_number("a level", level, 0, 16, whole=True)
        if not (offsets or stereo) or 0 in offsets or not levels:
            raise ConfigError(f"offsets is {offsets} and levels {levels}; neighbours, not 0, and a level are needed.")
        spatial = model.encoder.spatial
        reads_tokens = pose is None and bool(offsets)
        if reads_tokens and spatial is None:
            raise ConfigError(
                "motion from class tokens needs the DINO tower; give a pose network, or take both towers."
            )
        self.model = model
        self.pose = pose if offsets else None
        self.intrinsics = intrinsics
        self.token_pose: ClassTokenPoseHead | None = None
        if reads_tokens and spatial is not None:
            spatial.check_class_token()
            self.token_pose = ClassTokenPoseHead(spatial.channels[-1])
        self.offsets, self.stereo = tuple(offsets), stereo
        self.levels, self.refine = tuple(levels), refine

    @property
    def motion_network(self) -> nn.Module | None:
        """What predicts the camera's motion: the pose network, or the layer on class tokens; None without a motion."""
        return self.pose if self.pose is not None else self.token_pose

    def parameter_groups(
        self,
        lr: float,
        pose_lr: float = 1.0,
        intrinsics_lr: float = 1.0,
        *,
        lr_scale: Mapping[str, float] | None = None,
    ) -> list[dict[str, Any]]:
        """Return the model's optimizer groups, and more for the motion network and for learned intrinsics.

        Their rates are ``lr`` times ``pose_lr`` and ``intrinsics_lr``. Intrinsics do not decay: that would pull them
        to where they started.

        Args:
            lr: learning rate.
            pose_lr, intrinsics_lr: factors on it.
            lr_scale: factors by part: those of the model, and ``"pose"`` and ``"intrinsics"`` in place of the two
                above.

        Raises:
            ConfigError: a factor for a part that does not exist.
        """
        scale = dict(lr_scale or {})
        if self.motion_network is not None:
            pose_lr = scale.pop("pose", pose_lr)
        if self.intrinsics is not None:
            intrinsics_lr = scale.pop("intrinsics", intrinsics_lr)
        groups = self.model.parameter_groups(lr, lr_scale=scale)
        if self.motion_network is not None:
            groups.append({"name": "pose", "params": list(self.motion_network.parameters()), "lr": lr * pose_lr})
        if self.intrinsics is not None:
            learned = list(self.intrinsics.parameters())
            groups.append({"name": "intrinsics", "params": learned, "lr": lr * intrinsics_lr, "weight_decay": 0.0})
        return groups

    def predict(self, batch: Frames) -> FinePrediction:
        """Return what the networks say about a batch, and motions as they are aligned with it.

        Raises:
            InputError: another number of sources than offsets, or images too small for the levels.
        """
        images, K = batch.images, batch.K
        if self.intrinsics is not None:
            K = self.intrinsics(batch.camera, K, batch.mirrored)  # type: ignore[arg-type]  # tensors in a batch
        self.check_sources(images)
        size = (images.shape[-2], images.shape[-1])
        features = self.model.encoder.forward_features(batch.augmented[:, 0])
        disparities = self.model.decoder(features.maps, size)
        motions = predicted = self.motions(batch.augmented, features.class_token)
        if self.refine and self.offsets:
            motions = self.refined(images, self.finest_depth(disparities, size), K, predicted)
        if self.stereo:
            motions = torch.cat([motions, motion_to_right_view(batch.baseline, images)], dim=1)
        return FinePrediction(features, disparities, predicted, motions, K)

    def check_sources(self, images: Tensor) -> None:
        """Raise InputError for another number of sources than offsets, or images too small for the levels."""
        count = 1 + len(self.offsets) + self.stereo
        if images.shape[1] != count:
            raise InputError(
                f"images are {tuple(images.shape)}; (B, {count}, 3, H, W) is needed, the target and its neighbours at "
                f"{self.offsets}{', then the right view' if self.stereo else ''}."
            )
        if min(images.shape[-2:]) >> max(self.levels) < 2:
            raise InputError(
                f"images are {tuple(images.shape)}; at level {max(self.levels)} less than 2 pixels are left: take "
                "larger images, or fewer levels."
            )

    def finest_depth(self, disparities: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        """Return the depth that motions and views are made with, (B, 1, *size); no gradient comes back from it."""
        return self.view_depth(resized(disparities[min(disparities)], size).detach())

    def view_depth(self, disparity: Tensor) -> Tensor:
        """Return the depth that views are made with, which has no scale of its own where motions are refined."""
        depth: Tensor = self.model.to_depth(disparity)
        # Refined motion follows depth at any scale; without a fixed one, as a baseline fixes it, the scale would drift.
        if self.refine and not self.stereo:
            depth = depth * depth.reciprocal().mean((-2, -1), keepdim=True)
        return depth

    def refined(
        self,
        images: Tensor,
        depth: Tensor,
        K: Tensor,
        motions: Tensor,
        levels: Sequence[int] | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """Refine motions by direct alignment, from the smallest images to the largest of the levels.

        Args:
            images: (B, 1 + N, 3, H, W), the target first; a right view that comes after them is not read.
            depth: of the target, (B, 1, H, W).
            K: intrinsics, (B, 3, 3).
            motions: where to start, (B, N, 4, 4); no gradient reaches them.
            levels, steps: by default those of the stage.

        Returns:
            (B, N, 4, 4); with a gradient to ``K`` where that is learned.
        """
        steps = self.refine if steps is None else steps
        return align_motions(images, depth, K, motions, levels or self.levels, steps)

    def motions(self, frames: Tensor, class_token: Tensor | None) -> Tensor:
        """Predict the motion from the target camera to every source camera.

        Args:
            frames: (B, 1 + N, 3, H, W), the target first; a right view that comes after them is not read.
            class_token: of the target, (B, C); needed without a pose network.

        Returns:
            (B, N, 4, 4).
        """
        network = self.motion_network
        if network is None:
            return frames.new_zeros((len(frames), 0, 4, 4))
        sources = (frames[:, index] for index in range(1, 1 + len(self.offsets)))
        if self.pose is not None:
            return predict_motions(network, frames[:, 0], sources, self.offsets)
        assert self.model.encoder.spatial is not None and class_token is not None
        return predict_motions(network, class_token, map(self.model.encoder.spatial.class_token, sources), self.offsets)


def resized(disparity: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return a map (B, 1, h, w) at another size, in float32."""
    return F.interpolate(disparity.float(), size, mode="bilinear", align_corners=False)
