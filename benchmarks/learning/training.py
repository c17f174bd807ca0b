"""One row with one seed: trained as the row says, and measured."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from rich.console import Console
from torch.utils.data import Dataset

from benchmarks.learning.measures import Numbers, measure_baseline, measure_encoder, measure_model
from benchmarks.learning.rows import Row
from benchmarks.learning.settings import LANGUAGE_LOSS, Settings
from benchmarks.learning.worlds import held_out, training_drives
from benchmarks.unet import UNet
from hybrid_encoder import HybridDepthConfig, HybridDepthEncoder, HybridEncoderConfig
from hybrid_encoder.config.parts import STREET
from hybrid_encoder.data.ordered import OrderedPatches
from hybrid_encoder.data.sequences import SyntheticSequences
from hybrid_encoder.data.tusimple import SyntheticLanes
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.training.coarse import coarse_encoder, train_coarse
from hybrid_encoder.training.demonstration import OrderedStreets
from hybrid_encoder.training.fine import collate_frames, fine_model, fine_stage
from hybrid_encoder.training.recipes import COARSE, FINE, CoarseRecipe, FineRecipe
from hybrid_encoder.training.running import train_stage


class Reordered(Dataset[OrderedPatches]):
    """Ordered patches in another order: the controls of the coarse stage.

    Args:
        items: whose lanes are reordered.
        order: the same for every lane; None draws a new one for each lane whenever it is read, from torch's generator.
    """

    def __init__(self, items: Dataset[OrderedPatches], order: torch.Tensor | None) -> None:
        self.items, self.order = items, order

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> OrderedPatches:
        item = self.items[index]
        lanes, points, _ = item.points.shape
        order = torch.rand(lanes, points).argsort(1) if self.order is None else self.order.expand(lanes, points)
        return item._replace(points=item.points.gather(1, order[..., None].expand_as(item.points)))


def wrong_order(points: int, seed: int) -> torch.Tensor:
    """Return an order of lanes that has as many pairs right as wrong, give or take one, drawn by the seed.

    A mirrored order would be as good as the true one for whatever reads the words.
    """
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.triu_indices(points, points, 1)
    while True:
        order = torch.randperm(points, generator=generator)
        right = int((order[first] < order[second]).sum())
        if abs(2 * right - len(first)) <= 1:
            return order


def run(row: Row, seed: int, settings: Settings, kitti: str | None = None, shuffled_clip: str | None = None) -> Numbers:
    """Train one row with one seed, and return its numbers on held-out frames.

    The seed sets weights, drives and their order, alike for all rows.

    Args:
        row, seed, settings: what is trained.
        kitti: folder of KITTI raw, to check on.
        shuffled_clip: weights of a CLIP that was trained on shuffled captions, for the row that is about it.

    Raises:
        ConfigError, CheckpointError: a row that needs more than this installation has.
    """
    measured = held_out(settings)
    drives = training_drives(settings, seed)[: row.drives or settings.drives]
    if row.network == "baseline":
        return measure_baseline(row.name, drives, measured, settings)
    fine = fine_recipe(row, settings)
    options: dict[str, Any] = {"cpu": settings.device == "cpu", "seed": seed, "workers": 0}
    options |= {"save_every": 10**9, "console": Console(quiet=True)}
    start = time.perf_counter()
    numbers: Numbers = {}
    with tempfile.TemporaryDirectory() as folder:
        source: HybridDepthEncoder | Path | None = None
        if row.network == "hybrid":
            source = encoder_of(row, seed, settings, shuffled_clip)
            if row.coarse != "none":
                recipe, lanes = coarse_recipe(row, settings), coarse_items(row, drives, seed, settings.lanes)
                source = train_coarse(source, lanes, Path(folder) / "coarse", recipe, **options)
                _not_stopped(source)
        set_seed(seed + 1)  # a coarse stage has drawn numbers, and decoders are to start alike
        model: Any = unet(fine, settings) if source is None else fine_model(source, fine)
        if row.language:
            numbers |= measure_encoder(model.encoder, measured)
        if row.frozen == "encoder":
            model.set_trainable(semantic=False, spatial=False, text=False, prompts=False, fusion=False)
        elif row.frozen == "towers":
            model.set_trainable(semantic=False, spatial=False)
        set_seed(seed + 2)
        stage = fine_stage(model, fine, LANGUAGE_LOSS if row.language and row.language_loss else 0.0)
        groups = stage.parameter_groups(fine.lr, fine.pose_lr)
        stereo = settings.views == "stereo"
        items = SyntheticSequences(drives, fine.neighbours, augment="flip", stereo=stereo)
        collate = partial(collate_frames, stereo=stereo)
        _not_stopped(train_stage(stage, items, groups, fine, Path(folder) / "fine", collate=collate, **options))
    numbers["seconds"] = time.perf_counter() - start
    numbers["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    return {**measure_model(model, measured, kitti), **numbers}


def _not_stopped(found: object) -> None:
    if found is None:
        raise SystemExit("stopped; what was finished before is in the file of results")


def coarse_recipe(row: Row, settings: Settings) -> CoarseRecipe:
    """Return the recipe of a row's coarse stage."""
    return dataclasses.replace(
        COARSE["small"],
        steps=settings.coarse_steps,
        lr=settings.coarse_lr,
        size=settings.size,
        freeze_spatial=row.frozen == "towers",
        margin=row.margin,
    )


def fine_recipe(row: Row, settings: Settings) -> FineRecipe:
    """Return the recipe of a row's fine stage."""
    recipe = dataclasses.replace(
        FINE["small"],
        steps=settings.steps,
        lr=settings.lr,
        size=settings.size,
        batch_size=settings.batch_size,
        readout=row.readout if row.language else "published",
    )
    return recipe.with_stereo("only") if settings.views == "stereo" else recipe


def encoder_of(row: Row, seed: int, settings: Settings, shuffled_clip: str | None = None) -> HybridDepthEncoder:
    """Return the encoder that a row starts from.

    Raises:
        ConfigError, CheckpointError: weights that this library, or the person, does not have.
    """
    set_seed(seed)
    encoder = coarse_encoder(settings.preset, COARSE["small"], pretrained=False)
    semantic, spatial = encoder.config.semantic.without_weights(), encoder.config.spatial.without_weights()
    random = encoder.config.replace(semantic=semantic, spatial=spatial)
    config = random.replace(towers=row.towers)
    if not row.language:
        config = config.replace(prompts=None)
    elif config.prompts is not None:
        config = config.replace(prompts=dataclasses.replace(config.prompts, decoder_input=row.decoder_input))
    config = with_weights(config, row, shuffled_clip)
    if config != random:
        set_seed(seed)
        encoder = HybridDepthEncoder(config, pretrained=row.weights != "random")
    if row.frozen == "towers":
        encoder.set_trainable(semantic=False, spatial=False)
    return encoder


def with_weights(config: HybridEncoderConfig, row: Row, shuffled_clip: str | None) -> HybridEncoderConfig:
    """Return a configuration that names the weights which a row's towers start from."""
    semantic, spatial = config.semantic, config.spatial
    if row.weights == "shuffled captions":
        if shuffled_clip is None:
            raise ConfigError(f"row {row.name!r} needs a CLIP trained on shuffled captions; give --shuffled-clip.")
        semantic = dataclasses.replace(semantic, pretrained=shuffled_clip)
    if "clip" in row.starts_from:
        semantic = dataclasses.replace(semantic, pretrained=STREET)
    if "dino" in row.starts_from:
        spatial = dataclasses.replace(spatial, pretrained=STREET)
    return config.replace(semantic=semantic, spatial=spatial)


def coarse_items(row: Row, drives: list[list[Any]], seed: int, lanes: int) -> Dataset[OrderedPatches]:
    """Return what the coarse stage of a row reads."""
    items: Dataset[OrderedPatches]
    items = SyntheticLanes(drives, flip=True) if row.points == "lanes" else OrderedStreets(drives, lanes)
    if row.coarse == "true":
        return items
    points = len(COARSE["small"].words)
    return Reordered(items, wrong_order(points, seed) if row.coarse == "relabelled" else None)


def unet(fine: FineRecipe, settings: Settings) -> UNet:
    """Return the U-Net that stands in for a model of the preset."""
    config = HybridDepthConfig.preset(settings.preset)
    scales = fine.scales or config.decoder.scales
    start = fine.start_depth or 1.0
    return UNet(config.replace(decoder=dataclasses.replace(config.decoder, scales=scales)), start)
