"""The training of a bird's-eye view: from the images of six cameras to maps of vehicles and road."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from hybrid_encoder.bev.losses import bev_loss
from hybrid_encoder.bev.model import BevModel
from hybrid_encoder.config.bev import BevConfig, DepthKind
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.training.batches import check_finite_item
from hybrid_encoder.training.bev_items import BevItem
from hybrid_encoder.training.locking import hold_run
from hybrid_encoder.training.parallel import is_main_process, process_state
from hybrid_encoder.training.ranges import check_number
from hybrid_encoder.training.running import train_stage
from hybrid_encoder.training.stage import Stage
from hybrid_encoder.training.stage_recipe import StageRecipe
from hybrid_encoder.training.trained_on import save_trained


@dataclass(frozen=True)
class BevRecipe(StageRecipe):
    """The settings of the training of a bird's-eye view.

    Args:
        encoder_lr: factor on the learning rate of the depth model, which has been trained before.
        centre_weight: of the loss of centres, as in :func:`hybrid_encoder.bev.bev_loss`.
        size: (H, W) of the images.
    """

    encoder_lr: float = 0.1
    centre_weight: float = 0.1
    size: tuple[int, int] = (128, 352)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("encoder_lr", self.encoder_lr, above=0, high=1 / self.lr)
        check_number("centre_weight", self.centre_weight, 0)
        for name, side in zip(("height", "width"), self.size, strict=True):
            check_number(f"the {name} of size", side, 32, whole=True)


BEV = {
    # Lift-Splat-Shoot's size, batch, rate and decay; its 300,000 steps are for nuScenes.
    "published": BevRecipe(1e-3, 1e-7, 4, steps=300_000, clip=5.0),
    "small": BevRecipe(2e-3, 0.01, 1, steps=800, warm_up=0.1, clip=1.0, size=(64, 176)),
}


class BevStage(Stage):
    """Train a bird's-eye view on batches of :class:`hybrid_encoder.training.bev_items.BevItem`.

    Args:
        model: trained in place.
        centre_weight: of the loss of centres.
    """

    def __init__(self, model: BevModel, centre_weight: float = 0.1) -> None:
        super().__init__()
        self.model = model
        self.centre_weight = centre_weight

    def forward(self, batch: BevItem) -> dict[str, Tensor]:
        """Return the losses of a batch: ``loss``, and its parts by class; all scalars."""
        depth = batch.depth if self.model.config.depth == "exact" else None
        logits = self.model(batch.images, batch.K, batch.vehicle_T_cam, depth)
        losses = bev_loss(logits, batch.targets, centre_weight=self.centre_weight)
        return {name: loss if name == "loss" else loss.detach() for name, loss in losses.items()}

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    def describe(self, batch: BevItem) -> str:
        return ", ".join(batch.name)


def bev_model(weights: str | Path | None, config: BevConfig, depth: DepthKind) -> BevModel:
    """Return the bird's-eye view that a training starts from.

    Args:
        weights: a checkpoint of a depth model, whose encoder and decoder it starts from; None starts from random ones.
        config: everything else, and the depth model where there are no weights.
        depth: where the depth is from.

    Raises:
        CheckpointError: weights that are not found or not read.
        ConfigError: depth from language, and the depth model has no prompts.
    """
    encoder = None if weights is None else HybridDepthModel.from_pretrained(weights)
    config = config.replace(depth=depth, encoder=config.encoder if encoder is None else encoder.config)
    return BevModel(config, pretrained=False, encoder=encoder)


@torch.no_grad()
def start_scale(model: BevModel, items: Sequence[BevItem]) -> float:
    """Set the scale that a hybrid depth begins with: the median of true over predicted depth, over all cameras.

    Training goes on from there. A model in metres has 1 already, and needs this no more than other kinds of depth do.

    Args:
        model: whose depth is hybrid.
        items: some of those that are trained on.

    Returns:
        Metres in one unit of depth.
    """
    assert model.uncertainty is not None
    model.eval()
    device = model.uncertainty.log_scale.device
    ratios = []
    for item in items:
        said = model.hybrid_depth(item.images[None].to(device), item.K[None].to(device))[0]
        said = F.interpolate(said, item.depth.shape[-2:], mode="bilinear", align_corners=False).cpu()
        known = item.depth > 0
        ratios.append(item.depth[known] / said[known])
    model.uncertainty.log_scale.add_(torch.cat(ratios).median().log())
    return float(model.uncertainty.log_scale.exp())


def train_bev(
    model: BevModel, items: Dataset[BevItem], folder: str | Path, recipe: BevRecipe, **options: Any
) -> Path | None:
    """Train a bird's-eye view from its first step to weights in this library's layout.

    Args:
        model: trained in place.
        items: images of cameras and maps, from ``SurroundMaps``.
        folder: of the run; the weights are saved into its ``final``.
        recipe: how long, how fast and with which settings.
        options: of :func:`hybrid_encoder.training.running.train_stage`.

    Returns:
        The folder of the weights; None where the run was stopped before its end.

    Raises:
        InputError: an item is not finite.
    """
    folder = Path(folder)
    stage = BevStage(model, recipe.centre_weight)
    parts = {name: recipe.encoder_lr for name in model.part_parameters() if name != model.own_part}
    groups = model.parameter_groups(recipe.lr, lr_scale={**parts, **recipe.lr_scale})
    process_state(options.get("cpu", False))
    with hold_run(folder):
        num_steps = train_stage(stage, items, groups, recipe, folder, collate=collate_finite, **options)
        if num_steps is None:
            return None
        model.eval()
        if is_main_process():
            notes = f"A bird's-eye view: {num_steps} steps on cameras of {recipe.size}, {model.config.depth} depth."
            save_trained(model, type(stage).__name__, items, folder / "final", notes)
    return folder / "final"


def collate_finite(items: Sequence[BevItem]) -> Any:
    """Join items into a batch.

    Raises:
        InputError: images, cameras or maps are not finite.
    """
    for item in items:
        check_finite_item(item.name, **{name: getattr(item, name) for name in item._fields[1:]})
    return default_collate(list(items))
