"""How long and how fast each stage trains: the published way, and one for the tiny preset."""

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

from hybrid_encoder.config import DEPTH_WORDS
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.losses import Sampling
from hybrid_encoder.training.loop import LoopConfig, Stage, find_checkpoint, train
from hybrid_encoder.writing import write_whole


@dataclass(frozen=True)
class Recipe:
    """What both stages have.

    Args:
        lr: learning rate of AdamW.
        weight_decay: of AdamW.
        batch_size: items a step, for each process.
        epochs: passes over the items, where ``steps`` is 0.
        steps: optimizer steps, whatever the number of items.
        schedule: ``"one_cycle"`` (up for ``warm_up`` of the steps, then down to nothing), or ``"steps"`` (a tenth of
            the rate after every ``drop`` of the steps).
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
        if self.epochs < 1 and self.steps < 1:
            raise ConfigError(f"epochs is {self.epochs} and steps {self.steps}; one of them must be at least 1.")
        for name in ("lr", "batch_size"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0.")

    def count(self, items: int) -> int:
        """Optimizer steps for a number of items, over all processes."""
        return self.steps or self.epochs * max(1, items // (self.batch_size * _processes()))

    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> Any:
        """What sets the learning rates, stepped after every optimizer step."""
        if self.schedule == "one_cycle":
            rates = [group["lr"] for group in optimizer.param_groups]
            return torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=self.warm_up)
        return torch.optim.lr_scheduler.StepLR(optimizer, max(1, round(steps * self.drop)))


@dataclass(frozen=True)
class CoarseRecipe(Recipe):
    """Of the coarse stage.

    Args:
        freeze_spatial: leave DINO as it is.
        two_sided, sampling, box: of :class:`hybrid_encoder.losses.CoarsePatchLoss`.
        words: the prompts, from near to far; a lane has as many points.
        size: (H, W) of the pictures.
    """

    freeze_spatial: bool = True
    two_sided: bool = False
    sampling: Sampling = "cell"
    box: float = 32.0
    words: tuple[str, ...] = DEPTH_WORDS
    size: tuple[int, int] = (224, 224)


@dataclass(frozen=True)
class FineRecipe(Recipe):
    """Of the fine stage.

    Args:
        pose: ``"class_token"``, or the name of a timm backbone for a pose network.
        pose_channels: of the pose network's convolutions.
        pose_lr: factor on the pose network's learning rate.
        scales: of the decoder; None leaves the preset's.
        levels, refine, automask, smoothness: of :class:`hybrid_encoder.training.fine.FineStage`.
        start_depth: what an untrained decoder with a sigmoid says everywhere; None leaves it as it comes.
        size: (H, W) of the frames.
        offsets: of the neighbours, in frames.
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


COARSE = {
    "published": CoarseRecipe(3.57e-4, 0.1, 6, epochs=20, clip=0.1),
    # Patches of one cell's size, averaged: lanes on small pictures have several points in a cell.
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
    # From random weights a pose network learns slower than depth, which meanwhile flees to where no motion is needed:
    # direct alignment finds motion from the start. Views are compared at small sizes, where they overlap.
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


def run(
    stage: Stage,
    items: Dataset[Any],
    groups: list[dict[str, Any]],
    recipe: Recipe,
    folder: Path,
    *,
    described: dict[str, Any] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    resume: bool = False,
    console: Console | None = None,
    **loop: Any,
) -> bool:
    """Train a stage by a recipe. What the run is made of is kept in ``run.json``; a resumed one must be the same.

    Returns:
        Whether it came to its end: SIGTERM stops it earlier, with a checkpoint.

    Raises:
        ConfigError: resumed with other settings, and as :func:`hybrid_encoder.training.loop.train`.
    """
    steps = recipe.count(len(items))  # type: ignore[arg-type]
    content = {
        **(described or {}),
        **asdict(recipe),
        "steps": steps,
        "seed": loop.get("seed", 0),
        "precision": loop.get("precision", "no"),
        "processes": _processes(),
    }
    content = json.loads(json.dumps(content, default=str))
    file = folder / "run.json"
    if resume and file.is_file():
        before = json.loads(file.read_text())
        for name, value in content.items():
            if before.get(name) != value:
                raise ConfigError(f"{name} is {value}, and the run in {folder} began with {before.get(name)}; keep it.")
    elif writes() and find_checkpoint(folder) is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, (json.dumps(content, indent=2) + "\n").encode())
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
    scheduler = recipe.scheduler(optimizer, steps)
    config = LoopConfig(steps, recipe.batch_size, clip=recipe.clip, **loop)
    train(stage, items, optimizer, scheduler, folder, config, collate=collate, resume=resume, console=console)
    newest = find_checkpoint(folder)
    return newest is not None and int(newest.name[5:]) == steps


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def writes() -> bool:
    """Whether this process is the one that writes."""
    return int(os.environ.get("RANK", 0)) == 0
