"""A stage trained by a recipe: its optimizer, its schedule, and the settings that a resumed run must have, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.utils.data import Dataset

from hybrid_encoder.training.locking import hold_run
from hybrid_encoder.training.loop import train
from hybrid_encoder.training.loop_config import LoopConfig, resolved_precision
from hybrid_encoder.training.optimizing import fused_adamw
from hybrid_encoder.training.parallel import process_state
from hybrid_encoder.training.settings import DIGEST, keep_settings, settings_of
from hybrid_encoder.training.stage import Stage
from hybrid_encoder.training.stage_recipe import StageRecipe
from hybrid_encoder.training.trained_on import items_digest, training_record


def train_stage(
    stage: Stage,
    items: Dataset[Any],
    groups: list[dict[str, Any]],
    recipe: StageRecipe,
    folder: str | Path,
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
    folder = Path(folder)
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
