"""The fine stage: depth and camera motion learned from neighbouring frames alone, under guidance of depth words.

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
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from hybrid_encoder.checkpoints.reading import read_checkpoint
from hybrid_encoder.config import NO_MEAN, NO_STD, PRESETS, HybridDepthConfig, HybridEncoderConfig, PromptConfig
from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.geometry.alignment import refine_pose
from hybrid_encoder.geometry.camera import depth_to_disparity, resized_intrinsics
from hybrid_encoder.geometry.pose import pose_matrix
from hybrid_encoder.language.depth_words import bin_centers
from hybrid_encoder.losses.photometric import Reprojection, reprojection_loss, smoothness_loss
from hybrid_encoder.losses.pixel_language import pixel_language_loss
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.encoder import HybridDepthEncoder, HybridFeatures
from hybrid_encoder.models.pose_network import ClassTokenPoseHead, PoseNetwork
from hybrid_encoder.training.batches import check_finite_item
from hybrid_encoder.training.locking import hold_run
from hybrid_encoder.training.loop import Stage
from hybrid_encoder.training.parallel import is_main_process, process_state
from hybrid_encoder.training.ranges import check_number
from hybrid_encoder.training.recipes import FineRecipe, train_stage
from hybrid_encoder.training.trained_on import save_trained
from hybrid_encoder.writing import write_whole

if TYPE_CHECKING:
    from hybrid_encoder.data.sequences import Frames


class FineStage(Stage):
    """Train a depth model on frames with their neighbours, without depth labels.

    A batch is a :class:`hybrid_encoder.data.sequences.Frames`: the target frame first, then its sources.

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
    ) -> None:
        super().__init__()
        check_number("language_loss", language_loss, 0)
        check_number("smoothness", smoothness, 0)
        check_number("refine", refine, 0, whole=True)
        for level in levels:
            check_number("a level", level, 0, 16, whole=True)
        if not offsets or 0 in offsets or not levels:
            raise ConfigError(f"offsets is {offsets} and levels {levels}; neighbours, not 0, and a level are needed.")
        spatial, prompts = model.encoder.spatial, model.encoder.prompts
        if pose is None and spatial is None:
            raise ConfigError(
                "motion from class tokens needs the DINO tower; give a pose network, or take both towers."
            )
        if language_loss and prompts is None:
            raise ConfigError(
                "language_loss is set, and the encoder has no prompts; take one that has, or set it to 0."
            )
        if pose is None and spatial is not None:
            spatial.check_class_token()
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

    @property
    def motion_network(self) -> nn.Module:
        """What predicts the camera's motion: the pose network, or the layer on class tokens."""
        network = self.pose if self.pose is not None else self.token_pose
        assert network is not None  # the constructor has made one of them
        return network

    def parameter_groups(self, lr: float, pose_lr: float = 1.0) -> list[dict[str, Any]]:
        """Return the model's optimizer groups, and one more for the motion network with ``pose_lr`` times the rate."""
        motion = {"name": "pose", "params": list(self.motion_network.parameters()), "lr": lr * pose_lr}
        return [*self.model.parameter_groups(lr), motion]

    def forward(self, batch: Frames) -> dict[str, Tensor]:
        """Return the losses of a batch.

        Returns:
            Scalars: ``loss``; for the finest scale and the first level ``reprojection``, ``identity`` (the error of an
            unmoved camera) and ``moved`` (the share of pixels that count); with ``refine`` the ``motion`` loss; with
            ``language_loss`` the unweighted ``language`` loss.

        Raises:
            InputError: another number of sources than offsets, or images too small for the levels.
        """
        images, K = batch.images, batch.K
        self._check_sources(images)
        size = (images.shape[-2], images.shape[-1])
        features = self.model.encoder.forward_features(batch.augmented[:, 0])
        disparities = self.model.decoder(features.maps, size)
        motions = self.motions(batch.augmented, features.class_token)
        terms: list[Tensor] = []
        logged: dict[str, Tensor] = {}
        if self.refine:
            predicted, motions = motions, self.refined(images, self._finest_depth(disparities, size), K, motions)
            logged["motion"] = (predicted - motions)[:, :, :3].abs().mean() * len(disparities)
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
        return {"loss": total, **{name: value.detach() for name, value in logged.items()}}

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    def _check_sources(self, images: Tensor) -> None:
        if images.shape[1] != 1 + len(self.offsets):
            raise InputError(
                f"images are {tuple(images.shape)}; (B, {1 + len(self.offsets)}, 3, H, W) is needed, the target and "
                f"its neighbours at {self.offsets}."
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

    def _finest_depth(self, disparities: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        return self._to_depth(_resize(disparities[min(disparities)], size).detach())

    def _to_depth(self, disparity: Tensor) -> Tensor:
        depth: Tensor = self.model.to_depth(disparity)
        # Refined motion follows depth at any scale; without a fixed one the scale would drift.
        if self.refine:
            depth = depth * depth.reciprocal().mean((-2, -1), keepdim=True)
        return depth

    def refined(self, images: Tensor, depth: Tensor, K: Tensor, motions: Tensor) -> Tensor:
        """Refine motions by direct alignment, from the smallest images to the largest of the levels.

        Args:
            images: (B, 1 + N, 3, H, W), the target first.
            depth: of the target, (B, 1, H, W).
            K: intrinsics, (B, 3, 3).
            motions: where to start, (B, N, 4, 4); no gradient reaches them.

        Returns:
            (B, N, 4, 4).
        """
        num_sources = motions.shape[1]
        found = motions.detach().flatten(0, 1)
        for level in sorted(self.levels, reverse=True):
            frames, intrinsics = shrink(images, K, 2**level)
            small = F.interpolate(depth, frames.shape[-2:], mode="area").repeat_interleave(num_sources, 0)
            target = frames[:, :1].expand_as(frames[:, 1:]).flatten(0, 1)
            intrinsics = intrinsics.repeat_interleave(num_sources, 0)
            found = refine_pose(target, frames[:, 1:].flatten(0, 1), small, intrinsics, found, self.refine)
        return found.reshape(-1, num_sources, 4, 4)

    def motions(self, frames: Tensor, class_token: Tensor | None) -> Tensor:
        """Predict the motion from the target camera to every source camera.

        Args:
            frames: (B, 1 + N, 3, H, W), the target first.
            class_token: of the target, (B, C); needed without a pose network.

        Returns:
            (B, N, 4, 4).
        """
        found = []
        for index, offset in enumerate(self.offsets, start=1):
            target, source = frames[:, 0], frames[:, index]
            if self.pose is None:
                assert self.model.encoder.spatial is not None and class_token is not None
                target, source = class_token, self.model.encoder.spatial.class_token(source)
            later = offset > 0
            # Networks see frames in temporal order: cars mostly drive forward.
            axis_angle, translation = self.motion_network(*((target, source) if later else (source, target)))
            found.append(pose_matrix(axis_angle, translation, invert=not later))
        return torch.stack(found, dim=1)


def _resize(disparity: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(disparity.float(), size, mode="bilinear", align_corners=False)


def shrink(images: Tensor, K: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Average images (B, N, 3, H, W) down to 1 / factor of their size, with intrinsics (B, 3, 3) in the new pixels."""
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
    """Return the model that the fine stage starts from.

    Args:
        source: a preset, built anew; an encoder, or a checkpoint of one (ours, or a published stage-1 ``.ckpt``), that
            gets a new decoder; or a checkpoint of a whole model, which keeps its decoder.
        recipe: gives a new decoder's scales and the depth that it starts from, the prompts that come after a coarse
            result's words, and the input of its towers. An encoder in memory keeps its own input.
        pretrained: start a preset from the public CLIP and DINO weights.
        prompts: replace the prompts of any source by this many learned ones; a whole model gets a new decoder then.

    Raises:
        CheckpointError, ConfigError: a checkpoint that is not found, or has no words to start other prompts from.
    """
    described: HybridEncoderConfig | None = None  # before its input was changed: presets are known by that, too
    if isinstance(source, HybridDepthEncoder):
        encoder = source
    elif str(source) in PRESETS:
        config = HybridDepthConfig.preset(str(source))
        encoder = HybridDepthEncoder(config.encoder, pretrained=pretrained)
    else:
        checkpoint = read_checkpoint(source)
        if isinstance(checkpoint.config, HybridDepthConfig) and prompts is None:
            return HybridDepthModel.from_checkpoint(checkpoint)
        if recipe.raw_input and isinstance(checkpoint.config, HybridEncoderConfig):  # of a coarse stage
            described = checkpoint.config
            checkpoint = dataclasses.replace(checkpoint, config=_with_raw_input(described))
        encoder = HybridDepthEncoder.from_checkpoint(checkpoint)
    before = encoder.config.prompts
    if prompts is None and before is not None and before.words is not None:
        prompts = recipe.prompts
    if prompts is not None:
        train_text = before.train_text if before is not None else False
        encoder.set_prompts(PromptConfig(num_tokens=prompts, init=recipe.prompts_init, train_text=train_text))
    config = HybridDepthConfig.for_encoder(described or encoder.config).replace(encoder=encoder.config)
    if recipe.scales is not None:
        config = config.replace(decoder=dataclasses.replace(config.decoder, scales=recipe.scales))
    model = HybridDepthModel(config, encoder=encoder)
    if recipe.start_depth is not None and config.decoder.activation == "sigmoid":
        start = depth_to_disparity(recipe.start_depth, config.min_depth, config.max_depth)
        model.decoder.set_bias(math.log(start / (1 - start)))
    return model


def _with_raw_input(config: HybridEncoderConfig) -> HybridEncoderConfig:
    return config.replace(
        semantic=config.semantic.normalised(NO_MEAN, NO_STD),
        spatial=config.spatial.normalised(NO_MEAN, NO_STD),
    )


def fine_stage(model: HybridDepthModel, recipe: FineRecipe, language_loss: float = 0.0) -> FineStage:
    """Return the stage that trains a model by a recipe, with a new pose network where the recipe names one.

    Args:
        model: trained in place.
        recipe: gives the stage's settings.
        language_loss: weight of the pixel-language loss.

    Raises:
        CheckpointError: the recipe starts the pose network from public weights, which cannot be downloaded.
    """
    pose = None
    if recipe.pose != "class_token":
        pose = PoseNetwork(recipe.pose, recipe.pose_pretrained, channels=recipe.pose_channels)
    stage = FineStage(
        model,
        pose,
        offsets=recipe.offsets,
        automask=recipe.automask,
        smoothness=recipe.smoothness,
        language_loss=language_loss,
        levels=recipe.levels,
        refine=recipe.refine,
    )
    return stage.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # faster convolutions


def train_fine(
    model: HybridDepthModel,
    items: Dataset[Frames],
    folder: str | Path,
    recipe: FineRecipe,
    language_loss: float = 0.0,
    **options: Any,
) -> Path | None:
    """Run the fine stage from its first step to weights in this library's layout.

    Args:
        model: trained in place.
        items: frames with their neighbours, from ``KittiSequences`` or ``SyntheticSequences``.
        folder: of the run; the model is saved into its ``final``, and the network that predicts the camera's motion
            beside it, as ``pose.safetensors``.
        recipe: how long, how fast and with which settings.
        language_loss: weight of the pixel-language loss.
        options: of :func:`hybrid_encoder.training.recipes.train_stage`.

    Returns:
        The folder of the weights; None where the run was stopped before its end.

    Raises:
        InputError: no item has frames that differ, or one is not finite.
    """
    folder = Path(folder)
    stage = fine_stage(model, recipe, language_loss)
    groups = stage.parameter_groups(recipe.lr, recipe.pose_lr)
    process_state(options.get("cpu", False))
    with hold_run(folder):
        check_moves(items)
        num_steps = train_stage(stage, items, groups, recipe, folder, collate=collate_frames, **options)
        if num_steps is None:
            return None
        model.eval()
        if is_main_process():
            # Video alone has no unit: a scale that the weights had before has been trained away.
            model.config = model.config.replace(size=recipe.size, metric=False)
            notes = (
                f"The fine stage of Hybrid-depth: {num_steps} steps of view synthesis, no depth label, {recipe.size}."
            )
            save_trained(model, type(stage).__name__, items, folder / "final", notes)
            motion = stage.motion_network.state_dict()
            tensors = {name: value.detach().cpu().contiguous() for name, value in motion.items()}
            write_whole(folder / "pose.safetensors", save(tensors))
    return folder / "final"


def check_moves(items: Dataset[Frames]) -> None:
    """Check, before the first step, that frames differ from their neighbours in at least one item.

    Raises:
        InputError: they differ in none: without motion there is no depth to learn.
    """
    count = len(items)  # type: ignore[arg-type]
    for index in range(count):
        images = items[index].images
        if (images[1:] != images[:1]).any():
            return
    raise InputError(
        f"in all {count} items the neighbouring frames are the same image as the target, so nothing can be learned; "
        "check that the frames are of a moving camera."
    )


def collate_frames(items: Sequence[Frames]) -> Any:
    """Join items into a batch.

    Raises:
        InputError: images or intrinsics are not finite.
    """
    for item in items:
        check_finite_item(item.name, images=item.images, augmented=item.augmented, K=item.K)
    return default_collate(list(items))
