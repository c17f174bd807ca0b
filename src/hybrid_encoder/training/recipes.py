"""How long and how fast each stage trains: the published recipes, and small ones for the tiny preset."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch.utils.data import Dataset

from hybrid_encoder.config import DEPTH_WORDS, MIN_SIZE
from hybrid_encoder.config.checking import check_value
from hybrid_encoder.config.parts import MAX_PROMPTS
from hybrid_encoder.data.transforms import Jitter, Resample, Size
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.losses.coarse import Sampling
from hybrid_encoder.training.locking import hold_run
from hybrid_encoder.training.loop import train
from hybrid_encoder.training.loop_config import LoopConfig, resolved_precision
from hybrid_encoder.training.optimizing import fused_adamw
from hybrid_encoder.training.parallel import process_state
from hybrid_encoder.training.ranges import check_number
from hybrid_encoder.training.settings import DIGEST, keep_settings, settings_of
from hybrid_encoder.training.stage import Stage
from hybrid_encoder.training.trained_on import items_digest, training_record

MOST_STEPS = 10**12  # far more than anybody waits for
STEREO_START = 10.0  # metres


@dataclass(frozen=True)
class StageRecipe:
    """The settings that both stages have.

    Args:
        lr: learning rate of AdamW, up to 1.
        weight_decay: of AdamW, from 0 to 10.
        batch_size: items in a step, for each process.
        epochs: passes over the items, where ``steps`` is 0.
        steps: optimizer steps, whatever the number of items.
        schedule: ``"one_cycle"`` (up for ``warm_up`` of the steps, two at least, then down to little; with one or two
            steps in all the rate is constant), or ``"steps"`` (a tenth of the rate after every ``drop`` of the steps).
        warm_up, drop: shares of all steps.
        div_factor, final_div_factor: of the one cycle, which starts at ``lr / div_factor`` and ends at that divided by
            ``final_div_factor``.
        clip: largest norm of the gradient; None does not clip.
        accumulate: batches whose gradients make one optimizer step.
        ema: decay of an exponential moving average of the weights, which is then what is validated and kept; None keeps
            the weights as they are.
        lr_scale: factors on the learning rate by part of the model, for example ``{"spatial": 0.1}``.
    """

    lr: float
    weight_decay: float
    batch_size: int
    epochs: int = 0
    steps: int = 0
    schedule: Literal["one_cycle", "steps"] = "one_cycle"
    warm_up: float = 0.3
    drop: float = 0.5
    clip: float | None = None
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    accumulate: int = 1
    ema: float | None = None
    lr_scale: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "steps"):
            check_number(name, getattr(self, name), 0, MOST_STEPS, whole=True)
        if self.epochs < 1 and self.steps < 1:
            raise ConfigError(f"epochs is {self.epochs} and steps {self.steps}; one of them must be at least 1.")
        check_number("lr", self.lr, above=0, high=1)
        check_number("weight_decay", self.weight_decay, 0, 10)
        check_number("batch_size", self.batch_size, above=0, whole=True)
        check_number("accumulate", self.accumulate, 1, MOST_STEPS, whole=True)
        if self.ema is not None:
            check_number("ema", self.ema, 0, 1)
        check_number("warm_up", self.warm_up, 0, 1)
        check_number("drop", self.drop, above=0, high=1)
        check_number("div_factor", self.div_factor, 1)
        check_number("final_div_factor", self.final_div_factor, 1)
        if self.clip is not None:
            check_number("clip", self.clip, above=0)
        if self.schedule not in ("one_cycle", "steps"):
            raise ConfigError(f"schedule is {self.schedule!r}; it must be 'one_cycle' or 'steps'.")

    def num_steps(self, num_items: int, num_processes: int = 1) -> int:
        """Return the optimizer steps for a number of items, which the processes share."""
        return self.steps or self.epochs * max(1, num_items // (self.batch_size * self.accumulate * num_processes))

    def scheduler(self, optimizer: torch.optim.Optimizer, num_steps: int) -> Any:
        """Return what sets the learning rates, to be stepped after every optimizer step."""
        if self.schedule == "steps":
            return torch.optim.lr_scheduler.StepLR(optimizer, max(1, round(num_steps * self.drop)))
        if num_steps < 3:  # no room to rise and fall: constant
            return torch.optim.lr_scheduler.StepLR(optimizer, num_steps)
        # The first step is the lowest. OneCycleLR divides by zero where the second is not within the warm-up, or where
        # nothing comes after it.
        warm_up = min(max(self.warm_up, 2 / num_steps), 1 - 1 / num_steps)
        rates = [group["lr"] for group in optimizer.param_groups]
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            rates,
            total_steps=num_steps,
            pct_start=warm_up,
            div_factor=self.div_factor,
            final_div_factor=self.final_div_factor,
        )


@dataclass(frozen=True)
class CoarseRecipe(StageRecipe):
    """The settings of the coarse stage.

    Args:
        freeze_spatial: keep the DINO tower as it is.
        freeze_text: keep CLIP's text tower as it is, so that the words stay where CLIP has them.
        two_sided, sampling, box: of :class:`hybrid_encoder.losses.coarse.CoarsePatchLoss`.
        words: the prompts, from near to far; a lane has as many points.
        size: (H, W) of the images; or the least that their shorter side may have, at the aspect of each image.
        flip: mirror half of the items.
        jitter: change the colours of all items.
    """

    freeze_spatial: bool = True
    freeze_text: bool = False
    two_sided: bool = False
    sampling: Sampling = "cell"
    box: float = 32.0
    words: tuple[str, ...] = DEPTH_WORDS
    size: Size = (224, 224)
    flip: bool = True
    jitter: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("box", self.box, above=0)
        check_number("the number of words", len(self.words), 2)
        _check_size(self.size)


@dataclass(frozen=True)
class FineRecipe(StageRecipe):
    """The settings of the fine stage.

    Args:
        pose: ``"class_token"``, or the name of a timm backbone for a pose network.
        pose_pretrained: start that backbone from timm's public weights.
        pose_channels: of the pose network's convolutions.
        pose_lr: factor on the pose network's learning rate.
        scales: of the decoder; None keeps the preset's.
        levels, refine, automask, smoothness: of :class:`hybrid_encoder.training.fine.FineStage`.
        start_depth: the depth that an untrained decoder with a sigmoid predicts everywhere; None leaves its bias alone.
        size: (H, W) of the frames.
        offsets: of the neighbouring frames from the target, in frames.
        prompts: how many learned prompts take the place of a coarse result's words; None keeps the words.
        prompts_init: learned prompts that come after words start from noise (std 0.02), ``"random"``, or from
            ``"words"``, interpolated.
        raw_input: feed both towers of a coarse result raw RGB in [0, 1]; else with its own normalisation.
        stereo: compare with the right view too, ``"add"``, or with it alone, ``"only"``, which needs no motion; either
            gives depth in metres.
        intrinsics: as the recordings say, ``"given"``, or learned, ``"learn"``, one camera for each recording.
        intrinsics_lr: factor on the learning rate of learned intrinsics; None lets a focal length double or halve
            within the run, whatever its steps and ``lr``.
        teacher_weight: of the loss that follows a teacher, where there is one.
        jitter, resample: of :class:`hybrid_encoder.data.sequences.SourceSequences`.
    """

    pose: str = "resnet18"
    pose_pretrained: bool = False
    pose_channels: int = 256
    pose_lr: float = 1.0
    scales: tuple[int, ...] | None = None
    levels: tuple[int, ...] = (0,)
    refine: int = 0
    automask: bool = True
    smoothness: float = 1e-3
    start_depth: float | None = None
    size: tuple[int, int] = (192, 640)
    offsets: tuple[int, ...] = (-1, 1)
    prompts: int | None = None
    prompts_init: Literal["random", "words"] = "random"
    raw_input: bool = False
    stereo: Literal["no", "add", "only"] = "no"
    intrinsics: Literal["given", "learn"] = "given"
    intrinsics_lr: float | None = None
    teacher_weight: float = 0.1
    jitter: Jitter = "per_item"
    resample: Resample = "bilinear"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("pose_channels", self.pose_channels, 1, whole=True)
        check_number("pose_lr", self.pose_lr, above=0, high=1 / self.lr)
        check_number("smoothness", self.smoothness, 0)
        check_number("refine", self.refine, 0, whole=True)
        if self.start_depth is not None:
            check_number("start_depth", self.start_depth, above=0)
        _check_size(self.size)
        if self.prompts is not None:
            check_number("prompts", self.prompts, 2, MAX_PROMPTS, whole=True)
        check_value(Literal["random", "words"], self.prompts_init, "prompts_init")
        check_value(Literal["no", "add", "only"], self.stereo, "stereo")
        check_value(Literal["given", "learn"], self.intrinsics, "intrinsics")
        if self.intrinsics_lr is not None:
            check_number("intrinsics_lr", self.intrinsics_lr, above=0, high=1 / self.lr)
        check_number("teacher_weight", self.teacher_weight, 0)
        check_value(Jitter, self.jitter, "jitter")
        check_value(Resample, self.resample, "resample")
        for level in self.levels:
            check_number("a level", level, 0, 16, whole=True)
        if not self.levels or min(self.size) >> max(self.levels) < 2:
            raise ConfigError(f"levels is {self.levels} for images of {self.size}; 2 pixels at least must be left.")
        if not self.offsets or 0 in self.offsets:
            raise ConfigError(f"offsets is {self.offsets}; it must name neighbours, such as (-1, 1), and not 0.")

    @property
    def neighbours(self) -> tuple[int, ...]:
        """The offsets of the frames in time that are compared: none where the right view is compared alone."""
        return () if self.stereo == "only" else self.offsets

    @property
    def metric(self) -> bool:
        """Whether depth comes out in metres, which only a known baseline can say."""
        return self.stereo != "no"

    def with_stereo(self, stereo: Literal["add", "only"]) -> FineRecipe:
        """Return these settings with the right view; a decoder that starts from a depth starts from 10 m then.

        The depths that recipes for video start from have no unit. Where all is as near as 0.6 m, say, the right view
        shows nothing of the target.
        """
        start = None if self.start_depth is None else STEREO_START
        return replace(self, stereo=stereo, start_depth=start)


def _check_size(size: Size) -> None:
    if isinstance(size, int):
        check_number("the shorter side, size,", size, MIN_SIZE, whole=True)
        return
    for name, side in zip(("height", "width"), size, strict=True):
        check_number(f"the {name} of size", side, MIN_SIZE, whole=True)


COARSE = {
    "published": CoarseRecipe(
        3.57e-4,
        0.1,
        6,
        # 20 epochs, which there count the 23,157 lines of a KITTI list beside TuSimple's 3,626 pictures.
        steps=20 * math.ceil((3626 + 23157) / 6),
        clip=0.1,
        final_div_factor=100.0,
        freeze_text=True,
        size=224,
        flip=False,
        jitter=True,
    ),
    # Features are averaged over patches of one cell's size: lanes in small images have several points in a cell.
    "small": CoarseRecipe(
        1e-3,
        0.1,
        6,
        steps=120,
        clip=1.0,
        freeze_spatial=False,
        two_sided=True,
        sampling="box",
        box=14.0,
        size=(96, 320),
    ),
}
FINE = {
    "published": FineRecipe(
        1e-4,
        0.01,
        16,
        epochs=30,
        schedule="steps",
        pose="resnet18.tv_in1k",
        pose_pretrained=True,
        scales=(0,),
        size=(224, 672),
        prompts=256,
        raw_input=True,
        jitter="per_frame",
        resample="lanczos",
    ),
    # From random weights the pose network learns more slowly than depth, and depth drifts far away, where the images
    # look as if the camera stood still. Direct alignment (refine) finds the motion from the first step on. Views are
    # compared on small images (levels), where a wrong motion still makes them overlap.
    "small": FineRecipe(
        1e-3,
        0.01,
        4,
        steps=400,
        warm_up=0.1,
        clip=1.0,
        pose="test_resnet",
        pose_channels=64,
        pose_lr=0.5,
        scales=(1,),
        levels=(1, 2, 3),
        refine=3,
        smoothness=1e-2,
        start_depth=0.6,
        size=(96, 320),
    ),
}


def train_stage(
    stage: Stage,
    items: Dataset[Any],
    groups: list[dict[str, Any]],
    recipe: StageRecipe,
    folder: Path,
    *,
    described: dict[str, Any] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    resume: bool | str = False,
    console: Console | None = None,
    validate: Callable[[], Mapping[str, float]] | None = None,
    on_best: Callable[[int, Mapping[str, float]], None] | None = None,
    pictures: Callable[[], Mapping[str, Any]] | None = None,
    log_with: Sequence[Any] = (),
    **loop: Any,
) -> int | None:
    """Train a stage by a recipe, and keep the settings in ``run.json``; a resumed run must have the same.

    Args:
        stage: everything that trains.
        items: a data set with a length.
        groups: the optimizer's parameter groups.
        recipe: how long and how fast.
        folder: of the run.
        described: further settings for ``run.json``, such as where the data comes from.
        collate, resume, console, validate, on_best, pictures, log_with: of
            :func:`hybrid_encoder.training.loop.train`.
        loop: what :class:`hybrid_encoder.training.loop_config.LoopConfig` has and the recipe has not: ``workers``,
            ``save_every``, ``log_every``, ``validate_every``, ``patience``, ``precision`` (a resumed run keeps its own
            where it is ``"auto"``), ``compile``, ``checkpoint_activations``, ``seed`` and ``cpu``.

    Returns:
        The number of steps of the completed run; None where SIGTERM stopped it earlier, with a checkpoint.

    Raises:
        ConfigError: resumed with other settings, and as :func:`hybrid_encoder.training.loop.train`.
    """
    state = process_state(loop.get("cpu", False))
    num_steps = recipe.num_steps(len(items), state.num_processes)  # type: ignore[arg-type]
    config = LoopConfig(
        num_steps, recipe.batch_size, clip=recipe.clip, accumulate=recipe.accumulate, ema=recipe.ema, **loop
    )
    if config.precision == "auto":
        before = settings_of(folder).get("precision") if resume else None
        config = replace(config, precision=before or resolved_precision("auto", state.device))
    settings = {
        **(described or {}),
        **asdict(recipe),
        "steps": num_steps,
        "seed": config.seed,
        "precision": config.precision,
        "compile": config.compile,
        "processes": state.num_processes,
        "trained_on": training_record(type(stage).__name__, items),
    }
    if (digest := items_digest(items)) is not None:
        settings[DIGEST] = digest
    # A setting that an earlier release did not know has the default that does what it did.
    defaults = {entry.name: entry.default for entry in fields(recipe) if entry.default is not MISSING}
    defaults |= {"lr_scale": {}, "compile": False}
    defaults |= {name: settings.get(name) for name in ("trained_on", DIGEST, "pretrained", "replace_prompts")}
    # With float16 a fused step would itself skip what overflows, and the loop would not know.
    adamw = torch.optim.AdamW if config.precision == "fp16" else fused_adamw
    optimizer = adamw(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
    scheduler = recipe.scheduler(optimizer, num_steps)
    with hold_run(folder):
        keep_settings(folder, settings, bool(resume), defaults)
        done = train(
            stage,
            items,
            optimizer,
            scheduler,
            folder,
            config,
            collate=collate,
            resume=resume,
            console=console,
            validate=validate,
            on_best=on_best,
            pictures=pictures,
            log_with=log_with,
        )
    return done.step if done.complete else None
