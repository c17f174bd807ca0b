"""The fine stage: depth and camera motion from neighbouring frames alone, with the words beside them.

View synthesis as in Monodepth2 (Godard et al., ICCV 2019): the minimum over neighbouring frames of the reprojection
error, auto-masking, edge-aware smoothness.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from hybrid_encoder.checkpoints.reading import read_checkpoint
from hybrid_encoder.config import PRESETS, HybridDepthConfig, PromptConfig
from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.geometry.alignment import refine_pose
from hybrid_encoder.geometry.camera import depth_to_disparity, resized_intrinsics
from hybrid_encoder.geometry.pose import pose_matrix
from hybrid_encoder.language.depth_words import bin_centers
from hybrid_encoder.losses.photometric import reprojection_loss, smoothness_loss
from hybrid_encoder.losses.pixel_language import pixel_language_loss
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.models.pose_network import ClassTokenPoseHead, PoseNetwork
from hybrid_encoder.training.loop import Stage
from hybrid_encoder.training.recipes import FineRecipe, run, writes
from hybrid_encoder.writing import write_whole

if TYPE_CHECKING:
    from hybrid_encoder.data.sequences import Frames


class FineStage(Stage):
    """Trains a depth model on frames with their neighbours (:class:`hybrid_encoder.data.Frames`), without depth labels.

    Args:
        model: encoder and decoder; every scale of the decoder counts.
        pose: takes two frames in temporal order, (B, 3, H, W) each, to axis-angle and translation; None is one linear
            layer on the two frames' DINO class tokens.
        offsets: of the sources from the target, in frames.
        automask: leave out pixels that no motion explains better.
        smoothness: weight of edge-aware smoothness, halved from scale to scale.
        language_loss: weight of the pixel-language loss, with the model's own depth as the target; prompts stand for
            depths from ``min_depth`` to ``max_depth`` of the model, even in log-depth.
        levels: image sizes, 1 / 2**level, at which views are compared; motion of many pixels is seen on small ones.
        refine: Gauss-Newton steps of direct alignment on every level, from the predicted motion on; the pose network
            then learns from what they find, in units of the image's harmonic mean depth. It spares training from random
            weights the long search for motion.

    Raises:
        ConfigError: no class token to read motion from, or no prompts to compare with.
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
    ) -> None:
        super().__init__()
        spatial, prompts = model.encoder.spatial, model.encoder.prompts
        if pose is None and spatial is None:
            raise ConfigError(
                "motion from class tokens needs the DINO tower; give a pose network, or take both towers."
            )
        if language_loss and prompts is None:
            raise ConfigError(
                "language_loss is set, and the encoder has no prompts; take one that has, or set it to 0."
            )
        self.model = model
        self.pose = pose
        self.token_pose = ClassTokenPoseHead(spatial.channels[-1]) if pose is None and spatial is not None else None
        self.offsets = tuple(offsets)
        self.levels, self.refine = tuple(levels), refine
        self.automask, self.smoothness, self.language_loss = automask, smoothness, language_loss
        bins = None
        if prompts is not None:
            bins = bin_centers(prompts.num_prompts, model.config.min_depth, model.config.max_depth)
        self.bin_centers: Tensor | None
        self.register_buffer("bin_centers", bins, persistent=False)

    def forward(self, batch: Frames) -> dict[str, Tensor]:
        """``loss``, and what it came from.

        Returns:
            ``loss``; of the finest scale and the first level ``reprojection``, ``identity`` (what an unmoved camera
            would reach) and ``moved`` (the share of pixels that count); with ``refine`` the ``motion`` loss; with
            ``language_loss`` ``language``, unweighted.

        Raises:
            InputError: another number of sources than offsets.
        """
        images, seen, K = batch.images, batch.augmented, batch.K
        if images.shape[1] != 1 + len(self.offsets):
            raise InputError(
                f"images are {tuple(images.shape)}; (B, {1 + len(self.offsets)}, 3, H, W) is needed, the target and "
                f"its neighbours at {self.offsets}."
            )
        size = (images.shape[-2], images.shape[-1])
        features = self.model.encoder.forward_features(seen[:, 0])
        disparities = self.model.decoder(features.maps, size)
        motions = self.motions(seen, features.class_token)
        total = images.new_zeros(())
        logged: dict[str, Tensor] = {}
        if self.refine:
            finest = F.interpolate(disparities[min(disparities)].float(), size, mode="bilinear", align_corners=False)
            guess, motions = motions, self.refined(images, self._to_depth(finest.detach()), K, motions.detach())
            total = logged["motion"] = (guess - motions)[:, :, :3].abs().mean() * len(disparities)
        pyramid = [shrink(images, K, 2**level) for level in self.levels]
        for scale, disparity in sorted(disparities.items()):
            for frames, intrinsics in pyramid:
                resized = F.interpolate(disparity.float(), frames.shape[-2:], mode="bilinear", align_corners=False)
                depth = self._to_depth(resized)
                found = reprojection_loss(frames[:, 0], frames[:, 1:], depth, intrinsics, motions, self.automask)
                total = total + found.loss / len(pyramid)
                if "reprojection" not in logged:
                    logged["reprojection"] = found.error.mean()
                    logged["identity"] = found.identity.mean()
                    logged["moved"] = found.moved.float().mean()
                    nearest = self.model.to_depth(resized)
            small = F.interpolate(images[:, 0], disparity.shape[-2:], mode="area")
            total = total + self.smoothness / 2**scale * smoothness_loss(disparity, small)
        total = total / len(disparities)
        if self.language_loss and features.logits is not None and self.bin_centers is not None:
            words = [pixel_language_loss(logits, nearest, self.bin_centers) for logits in features.logits]
            logged["language"] = torch.stack(words).mean()
            total = total + self.language_loss * logged["language"]
        return {"loss": total, **{name: value.detach() for name, value in logged.items()}}

    def _to_depth(self, disparity: Tensor) -> Tensor:
        depth: Tensor = self.model.to_depth(disparity)
        # Refined motion follows any scale of depth, which nothing then would keep from drifting.
        if self.refine:
            depth = depth * depth.reciprocal().mean((-2, -1), keepdim=True)
        return depth

    def refined(self, images: Tensor, depth: Tensor, K: Tensor, motions: Tensor) -> Tensor:
        """Motions (B, N, 4, 4) after direct alignment, from the smallest of the images to the finest of the levels."""
        sources = motions.shape[1]
        found = motions.flatten(0, 1)
        for level in sorted(self.levels, reverse=True):
            frames, intrinsics = shrink(images, K, 2**level)
            small = F.interpolate(depth, frames.shape[-2:], mode="area").repeat_interleave(sources, 0)
            target = frames[:, :1].expand_as(frames[:, 1:]).flatten(0, 1)
            intrinsics = intrinsics.repeat_interleave(sources, 0)
            found = refine_pose(target, frames[:, 1:].flatten(0, 1), small, intrinsics, found, self.refine)
        return found.reshape(-1, sources, 4, 4)

    def motions(self, frames: Tensor, class_token: Tensor | None) -> Tensor:
        """Target camera to every source camera, (B, N, 4, 4), from (B, 1 + N, 3, H, W) and the target's class token."""
        found = []
        for index, offset in enumerate(self.offsets, start=1):
            later = offset > 0
            if self.pose is not None:
                pair = (frames[:, 0], frames[:, index])
            else:
                assert self.model.encoder.spatial is not None and class_token is not None
                pair = (class_token, self.model.encoder.spatial(frames[:, index])[1])
            network = self.pose if self.pose is not None else self.token_pose
            assert network is not None
            # Networks see frames in temporal order, as motion of cars is mostly forward.
            axis_angle, translation = network(*(pair if later else pair[::-1]))
            found.append(pose_matrix(axis_angle, translation, invert=not later))
        return torch.stack(found, dim=1)


def shrink(images: Tensor, K: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Images (B, N, 3, H, W) averaged down to 1 / factor of their size, and intrinsics (B, 3, 3) in its pixels."""
    if factor == 1:
        return images, K
    size = (images.shape[-2] // factor, images.shape[-1] // factor)
    small = F.interpolate(images.flatten(0, 1), size, mode="area").unflatten(0, images.shape[:2])
    return small, resized_intrinsics(K, (images.shape[-2], images.shape[-1]), size)


def fine_model(
    source: str | Path | HybridDepthEncoder,
    recipe: FineRecipe,
    pretrained: bool = True,
    prompts: int | None = None,
) -> HybridDepthModel:
    """A model as the fine stage starts from it.

    Args:
        source: a preset, built anew; an encoder or a stage-1 result, ours or a published ``.ckpt``, that gets a
            decoder; or a whole model, which keeps its own.
        recipe: says a new decoder's scales and where it starts.
        pretrained: a preset starts from the public CLIP and DINO weights.
        prompts: put so many learned prompts in place of a stage-1 result's words, started from these.

    Raises:
        CheckpointError, ConfigError: a checkpoint that is not found, or has no prompts to start others from.
    """
    if isinstance(source, HybridDepthEncoder):
        encoder = source
    elif str(source) in PRESETS:
        config = HybridDepthConfig.preset(str(source))
        encoder = HybridDepthEncoder(config.encoder, pretrained=pretrained)
    else:
        checkpoint = read_checkpoint(source)
        if isinstance(checkpoint.config, HybridDepthConfig) and prompts is None:
            return HybridDepthModel.from_checkpoint(checkpoint)
        encoder = HybridDepthEncoder.from_checkpoint(checkpoint)
    if prompts is not None:
        train_text = bool(encoder.config.prompts and encoder.config.prompts.train_text)
        encoder.set_prompts(PromptConfig(num_tokens=prompts, init="words", train_text=train_text))
    config = HybridDepthConfig.for_encoder(encoder.config)
    if recipe.scales is not None:
        config = config.replace(decoder=dataclasses.replace(config.decoder, scales=recipe.scales))
    model = HybridDepthModel(config, encoder=encoder)
    if recipe.start_depth is not None and config.decoder.activation == "sigmoid":
        start = depth_to_disparity(recipe.start_depth, config.min_depth, config.max_depth)
        model.decoder.set_bias(math.log(start / (1 - start)))
    return model


def train_fine(
    model: HybridDepthModel,
    items: Dataset[Frames],
    folder: str | Path,
    recipe: FineRecipe,
    language_loss: float = 0.0,
    **options: Any,
) -> Path | None:
    """The fine stage from its first step to weights in the Hub layout.

    Args:
        model: trained in place.
        items: frames with their neighbours: ``KittiSequences``, ``SyntheticSequences``.
        folder: of the run; the model comes into its ``final``, and a pose network beside it, ``pose.safetensors``.
        recipe: how.
        language_loss: weight of the pixel-language loss.
        options: of :func:`hybrid_encoder.training.recipes.run`.

    Returns:
        The folder of the weights; None where the run was stopped before its end.
    """
    from safetensors.torch import save

    folder = Path(folder)
    pose = None
    if recipe.pose != "class_token":
        pose = PoseNetwork(recipe.pose, channels=recipe.pose_channels)
    stage = FineStage(
        model,
        pose,
        recipe.offsets,
        recipe.automask,
        recipe.smoothness,
        language_loss,
        recipe.levels,
        recipe.refine,
    )
    motion: Any = pose if pose is not None else stage.token_pose
    groups = model.parameter_groups(recipe.lr)
    groups.append({"name": "pose", "params": list(motion.parameters()), "lr": recipe.lr * recipe.pose_lr})
    stage.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster convolutions
    if not run(stage, items, groups, recipe, folder, **options):
        return None
    model.eval()
    if writes():
        model.config = model.config.replace(size=recipe.size)
        steps = recipe.count(len(items))  # type: ignore[arg-type]
        notes = f"The fine stage of Hybrid-depth: {steps} steps of view synthesis, no depth label, {recipe.size}."
        model.save_pretrained(folder / "final", notes=notes)
        tensors = {name: value.detach().cpu().contiguous() for name, value in motion.state_dict().items()}
        write_whole(folder / "pose.safetensors", save(tensors))
    return folder / "final"
