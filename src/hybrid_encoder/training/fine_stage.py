"""View synthesis, the fine stage's loss: reprojection, auto-masking, smoothness and the language loss.

As in Monodepth2 (Godard et al., ICCV 2019): the minimum over neighbouring frames of the reprojection error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.geometry.alignment import follow_intrinsics, refine_pose
from hybrid_encoder.geometry.camera import resized_intrinsics
from hybrid_encoder.geometry.pose import pose_matrix
from hybrid_encoder.language.depth_words import bin_centers
from hybrid_encoder.losses.distillation import distillation_loss
from hybrid_encoder.losses.photometric import Reprojection, reprojection_loss, smoothness_loss
from hybrid_encoder.losses.pixel_language import pixel_language_loss
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.encoder import HybridFeatures
from hybrid_encoder.models.intrinsics import LearnedIntrinsics
from hybrid_encoder.models.pose_network import ClassTokenPoseHead
from hybrid_encoder.training.ranges import check_number
from hybrid_encoder.training.stage import Stage

if TYPE_CHECKING:
    from hybrid_encoder.data.frames import Frames
    from hybrid_encoder.training.teaching import Teacher


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


class FineStage(Stage):
    """Train a depth model on frames with their neighbours, without depth labels.

    A batch is a :class:`hybrid_encoder.data.sequences.Frames`: the target frame first, then its sources; with
    ``stereo`` the right view is the last of them.

    Args:
        model: encoder and decoder; every scale of the decoder counts.
        pose: takes two frames in temporal order, (B, 3, H, W) each, to axis-angle and translation; None reads the
            motion from the two frames' DINO class tokens, by one linear layer.
        offsets: of the sources from the target, in frames.
        automask: leave out pixels that an unmoved camera explains better.
        smoothness: weight of edge-aware smoothness, halved from scale to scale.
        language_loss: weight of the pixel-language loss, with the model's own depth as the target; prompts stand for
            depths from ``min_depth`` to ``max_depth`` of the model, evenly spaced in log-depth.
        levels: image sizes, 1 / 2**level, at which views are compared; large motion is visible only in small images.
        refine: Gauss-Newton steps of direct alignment on every level, starting from the predicted motion. The pose
            network then learns from the aligned motion, in units of the image's harmonic mean depth; from random
            weights it would need many more steps to find it.
        intrinsics: learned together with depth and motion, starting from those of the batch; None takes those as they
            are.
        stereo: compare with the right view too, whose place is known: it is a baseline away, in metres, and so is
            depth then. Without ``offsets`` it is the only source, and nothing predicts a motion.
        teacher: a trained model that is followed too; it sees the images without their changed colours.
        teacher_weight: of :func:`hybrid_encoder.losses.distillation.distillation_loss`, between the finest scale and
            the teacher.

    Raises:
        ConfigError: no class token to read motion from, no prompts to compare with, or a number out of its range.
    """

    def __init__(
        self,
        model: HybridDepthModel,
        pose: nn.Module | None = None,
        offsets: Sequence[int] = (-1, 1),
        automask: bool = True,
        smoothness: float = 1e-3,
        language_loss: float = 0.0,
        levels: Sequence[int] = (0,),
        refine: int = 0,
        intrinsics: LearnedIntrinsics | None = None,
        stereo: bool = False,
        teacher: Teacher | None = None,
        teacher_weight: float = 0.1,
    ) -> None:
        super().__init__()
        check_number("teacher_weight", teacher_weight, 0)
        check_number("language_loss", language_loss, 0)
        check_number("smoothness", smoothness, 0)
        check_number("refine", refine, 0, whole=True)
        for level in levels:
            check_number("a level", level, 0, 16, whole=True)
        if not (offsets or stereo) or 0 in offsets or not levels:
            raise ConfigError(f"offsets is {offsets} and levels {levels}; neighbours, not 0, and a level are needed.")
        spatial, prompts = model.encoder.spatial, model.encoder.prompts
        reads_tokens = pose is None and bool(offsets)
        if reads_tokens and spatial is None:
            raise ConfigError(
                "motion from class tokens needs the DINO tower; give a pose network, or take both towers."
            )
        if language_loss and prompts is None:
            raise ConfigError(
                "language_loss is set, and the encoder has no prompts; take one that has, or set it to 0."
            )
        self.model = model
        self.pose = pose if offsets else None
        self.intrinsics = intrinsics
        self.token_pose: ClassTokenPoseHead | None = None
        if reads_tokens and spatial is not None:
            spatial.check_class_token()
            self.token_pose = ClassTokenPoseHead(spatial.channels[-1])
        self.offsets, self.stereo = tuple(offsets), stereo
        self.teacher, self.teacher_weight = teacher, teacher_weight
        self.levels, self.refine = tuple(levels), refine
        self.automask, self.smoothness, self.language_loss = automask, smoothness, language_loss
        bins = None
        if prompts is not None:
            bins = bin_centers(prompts.num_prompts, model.config.min_depth, model.config.max_depth)
        self.bin_centers: Tensor | None
        self.register_buffer("bin_centers", bins, persistent=False)

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

    def forward(self, batch: Frames) -> dict[str, Tensor]:
        """Return the losses of a batch; see :meth:`losses`.

        Raises:
            InputError: another number of sources than offsets, or images too small for the levels.
        """
        return self.losses(batch, self.predict(batch))

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    def predict(self, batch: Frames) -> FinePrediction:
        """Return what the networks say about a batch, and motions as they are aligned with it.

        Raises:
            InputError: as :meth:`forward`.
        """
        images, K = batch.images, batch.K
        if self.intrinsics is not None:
            K = self.intrinsics(batch.camera, K, batch.mirrored)  # type: ignore[arg-type]  # tensors in a batch
        self._check_sources(images)
        size = (images.shape[-2], images.shape[-1])
        features = self.model.encoder.forward_features(batch.augmented[:, 0])
        disparities = self.model.decoder(features.maps, size)
        motions = predicted = self.motions(batch.augmented, features.class_token)
        if self.refine and self.offsets:
            motions = self.refined(images, self.finest_depth(disparities, size), K, predicted)
        if self.stereo:
            motions = torch.cat([motions, _to_right_view(batch.baseline, images)], dim=1)
        return FinePrediction(features, disparities, predicted, motions, K)

    def losses(self, batch: Frames, prediction: FinePrediction) -> dict[str, Tensor]:
        """Return the losses of a batch.

        Returns:
            Scalars: ``loss``; for the finest scale and the first level ``reprojection``, ``identity`` (the error of an
            unmoved camera) and ``moved`` (the share of pixels that count); with ``refine`` the ``motion`` loss; with
            ``language_loss`` the unweighted ``language`` loss, with a teacher the unweighted ``teacher`` loss.
        """
        images = batch.images
        features, disparities, predicted, motions, K = prediction
        terms: list[Tensor] = []
        logged: dict[str, Tensor] = {}
        if self.refine and self.offsets:
            aligned = motions[:, : predicted.shape[1]].detach()
            logged["motion"] = (predicted - aligned)[:, :, :3].abs().mean() * len(disparities)
            terms.append(logged["motion"])
        pyramid = [shrink(images, K, 2**level) for level in self.levels]
        for scale, disparity in sorted(disparities.items()):
            views = [self._synthesise(disparity, frames, intrinsics, motions) for frames, intrinsics in pyramid]
            terms += [view.loss / len(pyramid) for view in views]
            small = F.interpolate(images[:, 0], disparity.shape[-2:], mode="area")
            terms.append(self.smoothness / 2**scale * smoothness_loss(disparity, small))
            if "reprojection" not in logged:
                logged["reprojection"] = views[0].error.mean()
                logged["identity"] = views[0].identity.mean()
                logged["moved"] = views[0].moved.float().mean()
        total = sum(terms, images.new_zeros(())) / len(disparities)
        if self.language_loss:
            logged["language"] = self._language(features, disparities, pyramid[0][0])
            total = total + self.language_loss * logged["language"]
        if self.teacher is not None:
            finest = disparities[min(disparities)]
            taught = self.teacher.disparity(images[:, 0], (finest.shape[-2], finest.shape[-1]))
            logged["teacher"] = distillation_loss(finest, taught)
            total = total + self.teacher_weight * logged["teacher"]
        return {"loss": total, **{name: value.detach() for name, value in logged.items()}}

    def _check_sources(self, images: Tensor) -> None:
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

    def _synthesise(self, disparity: Tensor, frames: Tensor, K: Tensor, motions: Tensor) -> Reprojection:
        """Compare the target with what the sources look like from its place, at the size of the frames."""
        depth = self._to_depth(_resize(disparity, frames.shape[-2:]))
        return reprojection_loss(frames[:, 0], frames[:, 1:], depth, K, motions, self.automask)

    def _language(self, features: HybridFeatures, disparities: dict[int, Tensor], frames: Tensor) -> Tensor:
        """Return the pixel-language loss of the finest depth, at the size of the frames, as a mean over all maps."""
        assert features.logits is not None and self.bin_centers is not None  # the constructor asks for prompts
        depth = self.model.to_depth(_resize(disparities[min(disparities)], frames.shape[-2:]))
        losses = [pixel_language_loss(logits, depth, self.bin_centers) for logits in features.logits]
        return torch.stack(losses).mean()

    def finest_depth(self, disparities: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        """Return the depth that motions and views are made with, (B, 1, *size); no gradient comes back from it."""
        return self._to_depth(_resize(disparities[min(disparities)], size).detach())

    def _to_depth(self, disparity: Tensor) -> Tensor:
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
        num_sources = motions.shape[1]
        images = images[:, : 1 + num_sources]
        found = motions.detach().flatten(0, 1)
        steps = self.refine if steps is None else steps
        for level in sorted(levels or self.levels, reverse=True):
            frames, intrinsics = shrink(images, K, 2**level)
            small = F.interpolate(depth, frames.shape[-2:], mode="area").repeat_interleave(num_sources, 0)
            target = frames[:, :1].expand_as(frames[:, 1:]).flatten(0, 1)
            sources, intrinsics = frames[:, 1:].flatten(0, 1), intrinsics.repeat_interleave(num_sources, 0)
            found = refine_pose(target, sources, small, intrinsics, found, steps)
        if K.requires_grad:
            found = follow_intrinsics(target, sources, small, intrinsics, found)
        return found.reshape(-1, num_sources, 4, 4)

    def motions(self, frames: Tensor, class_token: Tensor | None) -> Tensor:
        """Predict the motion from the target camera to every source camera.

        Args:
            frames: (B, 1 + N, 3, H, W), the target first; a right view that comes after them is not read.
            class_token: of the target, (B, C); needed without a pose network.

        Returns:
            (B, N, 4, 4).
        """
        network, found = self.motion_network, []
        if network is None:
            return frames.new_zeros((len(frames), 0, 4, 4))
        for index, offset in enumerate(self.offsets, start=1):
            target, source = frames[:, 0], frames[:, index]
            if self.pose is None:
                assert self.model.encoder.spatial is not None and class_token is not None
                target, source = class_token, self.model.encoder.spatial.class_token(source)
            later = offset > 0
            # Networks see frames in temporal order: cars mostly drive forward.
            axis_angle, translation = network(*((target, source) if later else (source, target)))
            found.append(pose_matrix(axis_angle, translation, invert=not later))
        return torch.stack(found, dim=1)


def _to_right_view(baseline: Tensor | float, images: Tensor) -> Tensor:
    """Return the motion (B, 1, 4, 4) from the target camera to that of the right view, a baseline to the right."""
    motion = torch.eye(4, device=images.device).repeat(len(images), 1, 1, 1)
    motion[:, 0, 0, 3] = -torch.as_tensor(baseline, dtype=motion.dtype, device=images.device)
    return motion


def _resize(disparity: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(disparity.float(), size, mode="bilinear", align_corners=False)


def shrink(images: Tensor, K: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Average images (B, N, 3, H, W) down to 1 / factor of their size, with intrinsics (B, 3, 3) in the new pixels."""
    if factor == 1:
        return images, K
    size = (images.shape[-2] // factor, images.shape[-1] // factor)
    small = F.interpolate(images.flatten(0, 1), size, mode="area").unflatten(0, images.shape[:2])
    return small, resized_intrinsics(K, (images.shape[-2], images.shape[-1]), size)
