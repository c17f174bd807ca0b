"""View synthesis, the fine stage's loss: reprojection, auto-masking, smoothness and the language loss.

As in Monodepth2 (Godard et al., ICCV 2019): the minimum over neighbouring frames of the reprojection error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.errors import ConfigError
from hybrid_encoder.language.depth_words import bin_centers
from hybrid_encoder.losses.distillation import distillation_loss
from hybrid_encoder.losses.photometric import Reprojection, reprojection_loss, smoothness_loss
from hybrid_encoder.losses.pixel_language import pixel_language_loss
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.encoder import HybridFeatures
from hybrid_encoder.models.intrinsics import LearnedIntrinsics
from hybrid_encoder.training.fine_motion import shrink
from hybrid_encoder.training.fine_networks import FineNetworks, FinePrediction, resized
from hybrid_encoder.training.ranges import check_number

if TYPE_CHECKING:
    from hybrid_encoder.data.frames import Frames
    from hybrid_encoder.training.teaching import Teacher


class FineStage(FineNetworks):
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
        check_number("teacher_weight", teacher_weight, 0)
        check_number("language_loss", language_loss, 0)
        check_number("smoothness", smoothness, 0)
        super().__init__(model, pose, offsets, levels, refine, intrinsics, stereo)
        prompts = model.encoder.prompts
        if language_loss and prompts is None:
            raise ConfigError(
                "language_loss is set, and the encoder has no prompts; take one that has, or set it to 0."
            )
        self.teacher, self.teacher_weight = teacher, teacher_weight
        self.automask, self.smoothness, self.language_loss = automask, smoothness, language_loss
        bins = None
        if prompts is not None:
            bins = bin_centers(prompts.num_prompts, model.config.min_depth, model.config.max_depth)
        self.bin_centers: Tensor | None
        self.register_buffer("bin_centers", bins, persistent=False)

    def forward(self, batch: Frames) -> dict[str, Tensor]:
        """Return the losses of a batch; see :meth:`losses`.

        Raises:
            InputError: another number of sources than offsets, or images too small for the levels.
        """
        return self.losses(batch, self.predict(batch))

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

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

    def _synthesise(self, disparity: Tensor, frames: Tensor, K: Tensor, motions: Tensor) -> Reprojection:
        """Compare the target with what the sources look like from its place, at the size of the frames."""
        depth = self.view_depth(resized(disparity, frames.shape[-2:]))
        return reprojection_loss(frames[:, 0], frames[:, 1:], depth, K, motions, self.automask)

    def _language(self, features: HybridFeatures, disparities: dict[int, Tensor], frames: Tensor) -> Tensor:
        """Return the pixel-language loss of the finest depth, at the size of the frames, as a mean over all maps."""
        assert features.logits is not None and self.bin_centers is not None  # the constructor asks for prompts
        depth = self.model.to_depth(resized(disparities[min(disparities)], frames.shape[-2:]))
        losses = [pixel_language_loss(logits, depth, self.bin_centers) for logits in features.logits]
        return torch.stack(losses).mean()
