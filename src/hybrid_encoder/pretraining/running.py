"""Both pretrainings from their first step to a folder of weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from torch import Tensor
from torch.utils.data import DataLoader

from hybrid_encoder.config import SemanticConfig, SpatialConfig
from hybrid_encoder.data.street.frame import StreetFrame
from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.pretraining.clip import ClipStage
from hybrid_encoder.pretraining.clip_measures import measure_clip
from hybrid_encoder.pretraining.dino import DinoStage, MultiCrop, collate_views
from hybrid_encoder.pretraining.recipes import ClipRecipe, DinoRecipe
from hybrid_encoder.pretraining.regions import CaptionedRegions, collate_captions
from hybrid_encoder.pretraining.saving import save_clip, save_dino
from hybrid_encoder.training.locking import hold_run
from hybrid_encoder.training.parallel import is_main_process
from hybrid_encoder.training.running import train_stage

NEIGHBOURS = 10  # of a patch, whose kinds are asked


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
    **options: Any,
) -> Path | None:
    """Train a DINO by self-distillation, measure it on rendered streets, and save its teacher.

    Args:
        config: of the tower.
        images: RGB in [0, 1], each (3, H, W), without any label.
        held_out: frames of streets that are not among them.
        folder, recipe, options: as for :func:`pretrain_clip`.

    Returns:
        The file of weights; None where the run was stopped before its end.

    Raises:
        InputError, ConfigError: no images; a tower of another kind; a teacher that says the same of all images.
    """
    folder = Path(folder)
    set_seed(options.get("seed", 0))
    stage = DinoStage(config, recipe.prototypes, recipe.momentum, recipe.patch_weight, recipe.hidden_share)
    items = MultiCrop(images, recipe.large, recipe.small, num_small=recipe.num_small)
    frames = [frame for drive in held_out for frame in drive]
    before, seen = measure_dino(stage, frames), torch.stack([torch.from_numpy(frame.image) for frame in frames])
    spread = stage.spread(seen)
    groups = [{"params": [p for p in stage.parameters() if p.requires_grad], "lr": recipe.lr}]
    with hold_run(folder):
        steps = train_stage(stage, items, groups, recipe, folder, collate=collate_views, **options)
        if steps is None:
            return None
        stage.eval().to("cpu")
        if not (reached := stage.spread(seen)) > spread:
            raise ConfigError(
                f"the teacher has collapsed: what it says of different images differs less than before the first step "
                f"(spread {reached:.2g} after {spread:.2g}); lower the learning rate, or raise the momentum."
            )
        numbers = measure_dino(stage, frames) | {"spread": reached, "spread, untrained": spread}
        numbers["kinds, untrained"] = before["kinds"]
        if is_main_process():
            notes = (
                f"Made by `pretrain_dino`: {steps} steps on {len(images)} images, from random weights, "
                "without any label."
            )
            save_dino(stage, folder / "final", notes, numbers)
            _show(options.get("console"), numbers)
    return folder / "final" / "model.safetensors"


@torch.no_grad()
def measure_dino(stage: DinoStage, frames: Sequence[StreetFrame]) -> dict[str, float]:
    """Ask the nearest neighbours of every patch of the second half of the frames, among the first half, what it shows.

    Returns:
        ``kinds``, the share of patches whose kind most of their 10 nearest neighbours have, by cosine similarity of the
        last map; and ``kinds_majority``, that of the most frequent kind.

    Raises:
        InputError: fewer than two frames.
    """
    if len(frames) < 2:
        raise InputError(f"there are {len(frames)} frames; two at least are needed, to compare one with the other.")
    mode = stage.training
    stage.eval()
    half = len(frames) // 2
    features, kinds = zip(*(_patches(stage, frame) for frame in frames), strict=True)
    known, asked = torch.cat(features[:half]), torch.cat(features[half:])
    names, truth = torch.cat(kinds[:half]), torch.cat(kinds[half:])
    near = names[(asked @ known.T).topk(min(NEIGHBOURS, len(known))).indices]
    found = F.one_hot(near, int(max(names.max(), truth.max())) + 1).sum(1).argmax(1)
    stage.train(mode)
    frequent = torch.bincount(names).argmax()
    return {
        "kinds": float((found == truth).double().mean()),
        "kinds_majority": float((truth == frequent).double().mean()),
    }


def _patches(stage: DinoStage, frame: StreetFrame) -> tuple[Tensor, Tensor]:
    """Return the unit features of a frame's patches, (n, C), and the most frequent kind of pixel in each, (n,)."""
    maps, _ = stage.teacher(torch.from_numpy(frame.image)[None])
    last = F.normalize(maps[-1][0].flatten(1).T, dim=1)
    kinds = torch.from_numpy(frame.kind.astype("int64"))
    shares = F.one_hot(kinds).permute(0, 3, 1, 2).float()
    return last, F.adaptive_avg_pool2d(shares, (maps[-1].shape[-2], maps[-1].shape[-1]))[0].flatten(1).argmax(0)


def _show(console: Any, numbers: dict[str, float]) -> None:
    if console is not None:
        for name, value in numbers.items():
            console.print(f"{name.replace('_', ' ')}: {value:.3f}", highlight=False, markup=False)
