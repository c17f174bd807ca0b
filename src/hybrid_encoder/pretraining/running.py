"""Both pretrainings from their first step to a folder of weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from torch.utils.data import DataLoader

from hybrid_encoder.config import SemanticConfig, SpatialConfig
from hybrid_encoder.data.street.frame import StreetFrame
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.pretraining.clip import ClipStage
from hybrid_encoder.pretraining.clip_measures import measure_clip
from hybrid_encoder.pretraining.dino import DinoStage, MultiCrop, collate_views
from hybrid_encoder.pretraining.dino_measures import LEAST_INFORMATION, measure_dino
from hybrid_encoder.pretraining.recipes import ClipRecipe, DinoRecipe
from hybrid_encoder.pretraining.regions import CaptionedRegions, collate_captions
from hybrid_encoder.pretraining.saving import save_clip, save_dino
from hybrid_encoder.training.locking import hold_run
from hybrid_encoder.training.parallel import is_main_process
from hybrid_encoder.training.running import train_stage


def pretrain_clip(
    config: SemanticConfig,
    drives: Sequence[Sequence[StreetFrame]],
    held_out: Sequence[Sequence[StreetFrame]],
    folder: str | Path,
    recipe: ClipRecipe,
    **options: Any,
) -> Path | None:
    """Train a CLIP on rendered streets and sentences about them, measure it on other streets, and save it.

    Args:
        config: of the CLIP.
        drives: frames to train on, as ``render_streets`` returns them.
        held_out: frames to measure on.
        folder: of the run; ``final`` in it holds the weights and their card.
        recipe: how long, how fast and with which settings.
        options: of :func:`hybrid_encoder.training.running.train_stage`.

    Returns:
        The file of weights; None where the run was stopped before its end.

    Raises:
        InputError, ConfigError: no frames; a CLIP without a residual image tower.
    """
    folder = Path(folder)
    set_seed(options.get("seed", 0))
    stage = ClipStage(config, recipe.shuffle_captions)
    items = CaptionedRegions(drives, recipe.regions, recipe.crops)
    others = CaptionedRegions(held_out, recipe.regions, recipe.crops, seed=0)
    batches = list(DataLoader(others, 8, collate_fn=collate_captions))
    before = measure_clip(stage, batches, others.frames)
    groups = stage.parameter_groups(recipe.lr, recipe.weight_decay)
    with hold_run(folder):
        steps = train_stage(stage, items, groups, recipe, folder, collate=collate_captions, **options)
        if steps is None:
            return None
        stage.eval().to("cpu")
        numbers = measure_clip(stage, batches, others.frames)
        numbers |= {f"{name}, untrained": before[name] for name in ("captions", "words", "order", "kinds", "colours")}
        if is_main_process():
            told = "captions permuted, as a control" if recipe.shuffle_captions else "captions that say what is where"
            notes = (
                f"Made by `pretrain_clip`: {steps} steps on {len(drives)} rendered drives, {told}, from random weights."
            )
            save_clip(stage, folder / "final", notes, numbers)
            _show(options.get("console"), numbers)
    return folder / "final" / "model.safetensors"


def pretrain_dino(
    config: SpatialConfig,
    images: Sequence[Any],
    held_out: Sequence[Sequence[StreetFrame]],
    folder: str | Path,
    recipe: DinoRecipe,
    pictures: Sequence[Any] = (),
    **options: Any,
) -> Path | None:
    """Train a DINO by self-distillation, measure it on rendered streets, and save its teacher.

    Args:
        config: of the tower.
        images: rendered ones, RGB in [0, 1] or as bytes, each (3, H, W), without any label.
        held_out: frames of streets that are not among them.
        folder, recipe, options: as for :func:`pretrain_clip`.
        pictures: to learn from as well, like ``images``.

    Returns:
        The file of weights; None where the run was stopped before its end.

    Raises:
        InputError, ConfigError: no images; a tower of another kind; a teacher that says the same of all patches.
    """
    folder = Path(folder)
    set_seed(options.get("seed", 0))
    stage = DinoStage(
        config,
        recipe.prototypes,
        recipe.momentum,
        recipe.patch_weight,
        recipe.hidden_share,
        targets=recipe.targets,
    )
    items = MultiCrop(
        [*images, *pictures], recipe.large, recipe.small, num_small=recipe.num_small, rendered=not len(pictures)
    )
    frames = [frame for drive in held_out for frame in drive]
    before = measure_dino(stage, frames)
    trained = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "lr": recipe.lr},
        {"params": [p for p in trained if p.ndim <= 1], "lr": recipe.lr, "weight_decay": 0.0},  # as in DINO
    ]
    with hold_run(folder):
        steps = train_stage(stage, items, groups, recipe, folder, collate=collate_views, **options)
        if steps is None:
            return None
        stage.eval().to("cpu")
        numbers = measure_dino(stage, frames)
        if not numbers["information"] > LEAST_INFORMATION:
            raise ConfigError(
                f"the teacher has collapsed: what it says of a patch tells {numbers['information']:.2g} nats about "
                f"which one it is, and {LEAST_INFORMATION} at least are needed; lower the learning rate, or raise the "
                "momentum."
            )
        numbers |= {f"{name}, untrained": before[name] for name in ("kinds", "kinds_linear", "depth_linear")}
        if is_main_process():
            told = f"{len(images)} rendered frames" + (f" and {len(pictures)} pictures" if len(pictures) else "")
            notes = f"Made by `pretrain_dino`: {steps} steps on {told}, from random weights, without any label."
            if not numbers["kinds_linear"] > before["kinds_linear"]:
                notes += " By a linear probe it knows kinds of things no better than an untrained tower."
            save_dino(stage, folder / "final", notes, numbers)
            _show(options.get("console"), numbers)
    return folder / "final" / "model.safetensors"


def _show(console: Any, numbers: dict[str, float]) -> None:
    if console is not None:
        for name, value in numbers.items():
            console.print(f"{name.replace('_', ' ')}: {value:.3f}", highlight=False, markup=False)
