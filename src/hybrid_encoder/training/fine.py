"""The fine stage: depth and camera motion learned from neighbouring frames alone, under guidance of depth words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils.data import Dataset, default_collate

from hybrid_encoder.checkpoints.reading import read_checkpoint
from hybrid_encoder.config import NO_MEAN, NO_STD, PRESETS, HybridDepthConfig, HybridEncoderConfig, PromptConfig
from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.geometry.camera import depth_to_disparity
from hybrid_encoder.language.fitting import fit_tokens
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.models.intrinsics import LearnedIntrinsics
from hybrid_encoder.models.layouts import convolution_layout
from hybrid_encoder.models.pose_network import PoseNetwork
from hybrid_encoder.training.batches import check_finite_item
from hybrid_encoder.training.calibration import learned_intrinsics, rate_to_double
from hybrid_encoder.training.fine_results import KeepBest, save_fine, save_motion
from hybrid_encoder.training.locking import hold_run
from hybrid_encoder.training.parallel import is_main_process, process_state
from hybrid_encoder.training.pictures import FinePictures
from hybrid_encoder.training.recipes import FineRecipe
from hybrid_encoder.training.running import train_stage
from hybrid_encoder.training.trained_on import taught_by
from hybrid_encoder.training.validation import FineValidation
from hybrid_encoder.training.view_synthesis import FineStage

if TYPE_CHECKING:
    from hybrid_encoder.data.frames import Frames
    from hybrid_encoder.training.teaching import Teacher


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
        recipe: gives a new decoder's scales and the depth that it starts from, the readout of the logits among what it
            reads, the prompts that come after a coarse result's words, and the input of its towers. An encoder in
            memory keeps its own input.
        pretrained: start the towers of a preset from the weights that it names.
        prompts: replace the prompts of any source by this many learned ones, in their sentence and with their other
            settings; a whole model gets a new decoder then.

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
        fits = recipe.prompts_init == "fitted" and before is not None and before.words is not None
        taught = encoder.prompts().detach().clone() if fits and encoder.prompts is not None else None
        init: Literal["random", "words"] = "words" if recipe.prompts_init == "words" else "random"
        others = before or PromptConfig(train_text=False)  # without prompts, set_prompts says what is missing
        encoder.set_prompts(dataclasses.replace(others, words=None, num_tokens=prompts, init=init))
        if taught is not None and encoder.prompts is not None:
            fit_tokens(encoder.prompts, taught)
    if before is not None:
        encoder.set_readout(recipe.readout or before.readout)
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


def fine_stage(
    model: HybridDepthModel,
    recipe: FineRecipe,
    language_loss: float = 0.0,
    intrinsics: LearnedIntrinsics | None = None,
    teacher: Teacher | None = None,
) -> FineStage:
    """Return the stage that trains a model by a recipe, with a new pose network where the recipe names one.

    Args:
        model: trained in place.
        recipe: gives the stage's settings.
        language_loss: weight of the pixel-language loss.
        intrinsics: where the recipe learns them.
        teacher: a trained model that is followed too.

    Raises:
        ConfigError: the recipe learns intrinsics, and there are none, or nothing moves.
        CheckpointError: the recipe starts the pose network from public weights, which cannot be downloaded.
    """
    learns = recipe.intrinsics == "learn"
    if learns and (intrinsics is None or not recipe.neighbours):
        raise ConfigError(
            "intrinsics are to be learned, for which frames of a moving camera are compared; give LearnedIntrinsics, "
            "and do not compare with the right view alone."
        )
    pose = None
    if recipe.pose != "class_token" and recipe.neighbours:
        pose = PoseNetwork(recipe.pose, recipe.pose_pretrained, channels=recipe.pose_channels)
    stage = FineStage(
        model,
        pose,
        offsets=recipe.neighbours,
        automask=recipe.automask,
        smoothness=recipe.smoothness,
        language_loss=language_loss,
        levels=recipe.levels,
        refine=recipe.refine,
        intrinsics=intrinsics if learns else None,
        stereo=recipe.stereo != "no",
        teacher=teacher,
        teacher_weight=recipe.teacher_weight,
    )
    device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    layout = convolution_layout(device, trains=True)
    return stage.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]


def train_fine(
    model: HybridDepthModel,
    items: Dataset[Frames],
    folder: str | Path,
    recipe: FineRecipe,
    language_loss: float = 0.0,
    teacher: Teacher | None = None,
    validation: Dataset[Frames] | None = None,
    **options: Any,
) -> Path | None:
    """Run the fine stage from its first step to weights in this library's layout.

    Args:
        model: trained in place.
        items: frames with their neighbours, from ``KittiSequences`` or ``SyntheticSequences``.
        folder: of the run; the model is saved into its ``final``, and the network that predicts the camera's motion
            there and beside it, as ``pose.safetensors``; learned intrinsics are there, too, as ``intrinsics.json``.
        recipe: how long, how fast and with which settings.
        language_loss: weight of the pixel-language loss.
        teacher: a trained model that is followed too. What it was trained on, the weights say of themselves then.
        validation: held-out frames, not augmented, that the stage is measured on while it trains. The weights of the
            best validation are kept in ``best``, and pictures of some of these frames are made; without, of some that
            are trained on.
        options: of :func:`hybrid_encoder.training.running.train_stage`.

    Returns:
        The folder of the weights; None where the run was stopped before its end.

    Raises:
        InputError: no item has frames that differ, one is not finite, or has no right view that is asked for.
    """
    folder = Path(folder)
    processes = process_state(options.get("cpu", False)).num_processes
    intrinsics, intrinsics_lr = None, 1.0
    if recipe.intrinsics == "learn":
        planned = recipe.num_steps(len(items), processes)  # type: ignore[arg-type]
        intrinsics = learned_intrinsics(items, planned * recipe.accumulate)
        intrinsics_lr = recipe.intrinsics_lr or rate_to_double(planned, recipe.lr)
    stage = fine_stage(model, recipe, language_loss, intrinsics, teacher)
    identity = None if teacher is None else teacher.identity
    options["described"] = {**(options.get("described") or {}), "teacher_sha256": identity}
    if teacher is not None:
        model.training_history = taught_by(model.training_history, teacher.model.training_history)
    groups = stage.parameter_groups(recipe.lr, recipe.pose_lr, intrinsics_lr, lr_scale=recipe.lr_scale)
    with hold_run(folder):
        check_moves(items)
        collate = partial(collate_frames, stereo=stage.stereo)
        shown = items if validation is None else validation
        watched: dict[str, Any] = {"pictures": FinePictures(stage, shown, collate)}
        if validation is not None:
            watched["validate"] = FineValidation(
                stage, validation, recipe.batch_size, options.get("workers"), not recipe.metric, collate
            )
            watched["on_best"] = KeepBest(stage, items, recipe, folder, validation)
        num_steps = train_stage(stage, items, groups, recipe, folder, collate=collate, **watched, **options)
        if num_steps is None:
            return None
        model.eval()
        if is_main_process():
            learned = save_fine(stage, items, recipe, folder / "final", f"{num_steps} steps")
            save_motion(stage, recipe, folder)
            if (console := options.get("console")) is not None:
                for camera in learned:
                    console.print(str(camera), highlight=False, markup=False)
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


def collate_frames(items: Sequence[Frames], stereo: bool = False) -> Any:
    """Join items into a batch.

    Args:
        items: of one size.
        stereo: whether each must have a right view.

    Raises:
        InputError: images or intrinsics are not finite, or no baseline says where the right view was taken.
    """
    for item in items:
        check_finite_item(item.name, images=item.images, augmented=item.augmented, K=item.K)
        if stereo and not (item.baseline and math.isfinite(item.baseline)):
            raise InputError(
                f"{item.name} has the baseline {item.baseline} to its right view; metres other than 0 are needed: give "
                "recordings of two cameras, or leave stereo out."
            )
    batch: Frames = default_collate(list(items))
    return batch._replace(baseline=batch.baseline.float())  # type: ignore[attr-defined]  # a tensor in a batch
