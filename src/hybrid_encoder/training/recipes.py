"""How long and how fast each stage trains: the published recipes, and small ones for the tiny preset."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch.utils.data import Dataset

from hybrid_encoder.config import DEPTH_WORDS, MIN_SIZE
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.losses.coarse import Sampling
from hybrid_encoder.training.checkpointing import checkpoint_step, newest_checkpoint
from hybrid_encoder.training.locking import hold_run
from hybrid_encoder.training.loop import LoopConfig, Stage, train
from hybrid_encoder.training.parallel import is_main_process, process_state
from hybrid_encoder.training.ranges import check_number
from hybrid_encoder.writing import write_whole

MOST_STEPS = 10**12  # far more than anybody waits for
LARGEST_SETTINGS = 1 << 20  # bytes of a run.json


@dataclass(frozen=True)
class StageRecipe:
    """The settings that both stages have.

    Args:
        lr: learning rate of AdamW, up to 1.
        weight_decay: of AdamW, from 0 to 10.
        batch_size: items in a step, for each process.
        epochs: passes over the items, where ``steps`` is 0.
        steps: optimizer steps, whatever the number of items.
        schedule: ``"one_cycle"`` (up for ``warm_up`` of the steps, two at least, then down to nothing; with one or two
            steps in all the rate is constant), or ``"steps"`` (a tenth of the rate after every ``drop`` of the steps).
        warm_up, drop: shares of all steps.
        clip: largest norm of the gradient; None does not clip.
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

    def __post_init__(self) -> None:
        for name in ("epochs", "steps"):
            check_number(name, getattr(self, name), 0, MOST_STEPS, whole=True)
        if self.epochs < 1 and self.steps < 1:
            raise ConfigError(f"epochs is {self.epochs} and steps {self.steps}; one of them must be at least 1.")
        check_number("lr", self.lr, above=0, high=1)
        check_number("weight_decay", self.weight_decay, 0, 10)
        check_number("batch_size", self.batch_size, above=0, whole=True)
        check_number("warm_up", self.warm_up, 0, 1)
        check_number("drop", self.drop, above=0, high=1)
        if self.clip is not None:
            check_number("clip", self.clip, above=0)
        if self.schedule not in ("one_cycle", "steps"):
            raise ConfigError(f"schedule is {self.schedule!r}; it must be 'one_cycle' or 'steps'.")

    def num_steps(self, num_items: int, num_processes: int = 1) -> int:
        """Return the optimizer steps for a number of items, which the processes share."""
        return self.steps or self.epochs * max(1, num_items // (self.batch_size * num_processes))

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
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=num_steps, pct_start=warm_up)


@dataclass(frozen=True)
class CoarseRecipe(StageRecipe):
    """The settings of the coarse stage.

    Args:
        freeze_spatial: keep the DINO tower as it is.
        two_sided, sampling, box: of :class:`hybrid_encoder.losses.coarse.CoarsePatchLoss`.
        words: the prompts, from near to far; a lane has as many points.
        size: (H, W) of the images.
    """

    freeze_spatial: bool = True
    two_sided: bool = False
    sampling: Sampling = "cell"
    box: float = 32.0
    words: tuple[str, ...] = DEPTH_WORDS
    size: tuple[int, int] = (224, 224)

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
        pose_channels: of the pose network's convolutions.
        pose_lr: factor on the pose network's learning rate.
        scales: of the decoder; None keeps the preset's.
        levels, refine, automask, smoothness: of :class:`hybrid_encoder.training.fine.FineStage`.
        start_depth: the depth that an untrained decoder with a sigmoid predicts everywhere; None leaves its bias alone.
        size: (H, W) of the frames.
        offsets: of the neighbouring frames from the target, in frames.
    """

    pose: str = "resnet18"
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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("pose_channels", self.pose_channels, 1, whole=True)
        check_number("pose_lr", self.pose_lr, above=0, high=1 / self.lr)
        check_number("smoothness", self.smoothness, 0)
        check_number("refine", self.refine, 0, whole=True)
        if self.start_depth is not None:
            check_number("start_depth", self.start_depth, above=0)
        _check_size(self.size)
        for level in self.levels:
            check_number("a level", level, 0, 16, whole=True)
        if not self.levels or min(self.size) >> max(self.levels) < 2:
            raise ConfigError(f"levels is {self.levels} for images of {self.size}; 2 pixels at least must be left.")
        if not self.offsets or 0 in self.offsets:
            raise ConfigError(f"offsets is {self.offsets}; it must name neighbours, such as (-1, 1), and not 0.")


def _check_size(size: tuple[int, int]) -> None:
    for name, side in zip(("height", "width"), size, strict=True):
        check_number(f"the {name} of size", side, MIN_SIZE, whole=True)


COARSE = {
    "published": CoarseRecipe(3.57e-4, 0.1, 6, epochs=20, clip=0.1),
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
    "published": FineRecipe(1e-4, 0.01, 16, epochs=30, schedule="steps", size=(224, 672)),
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
        collate, resume, console: of :func:`hybrid_encoder.training.loop.train`.
        loop: ``workers``, ``save_every``, ``log_every``, ``precision``, ``seed`` and ``cpu`` of
            :class:`hybrid_encoder.training.loop.LoopConfig`.

    Returns:
        The number of steps of the completed run; None where SIGTERM stopped it earlier, with a checkpoint.

    Raises:
        ConfigError: resumed with other settings, and as :func:`hybrid_encoder.training.loop.train`.
    """
    state = process_state(loop.get("cpu", False))
    num_steps = recipe.num_steps(len(items), state.num_processes)  # type: ignore[arg-type]
    config = LoopConfig(num_steps, recipe.batch_size, clip=recipe.clip, **loop)
    settings = {
        **(described or {}),
        **asdict(recipe),
        "steps": num_steps,
        "seed": config.seed,
        "precision": config.precision,
        "processes": state.num_processes,
    }
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
    scheduler = recipe.scheduler(optimizer, num_steps)
    with hold_run(folder):
        _keep_settings(folder, settings, bool(resume))
        train(stage, items, optimizer, scheduler, folder, config, collate=collate, resume=resume, console=console)
        newest = newest_checkpoint(folder)
    return num_steps if newest is not None and checkpoint_step(newest) == num_steps else None


def _keep_settings(folder: Path, settings: dict[str, Any], resume: bool) -> None:
    """Write the settings of a new run to ``run.json``, or compare them with those that a resumed run began with."""
    settings = json.loads(json.dumps(settings, default=str))
    file = folder / "run.json"
    if resume and os.path.lexists(file):
        before = _read_settings(file)
        for name, value in settings.items():
            if before.get(name) != value:
                raise ConfigError(f"{name} is {value}, and the run in {folder} began with {before.get(name)}; keep it.")
    elif is_main_process() and (resume or newest_checkpoint(folder) is None):
        write_whole(file, (json.dumps(settings, indent=2) + "\n").encode())


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        if not file.is_file():
            raise ValueError("it is no file")
        with file.open("rb") as opened:
            found = json.loads(opened.read(LARGEST_SETTINGS))
        if not isinstance(found, dict):
            raise ValueError("it holds no settings")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{file} is damaged ({error}); put the right one back, or remove it to resume with the settings given now."
        ) from None
    return found
