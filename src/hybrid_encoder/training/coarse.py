"""The coarse stage: the encoder learns to put patches along lanes in the order of their depth, by depth words.

Source: Hybrid-depth, ICCV 2025, its stage 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hybrid_encoder.config import IMAGENET_MEAN, IMAGENET_STD, PRESETS, HybridEncoderConfig, PromptConfig
from hybrid_encoder.data.ordered import OrderedPatches, PatchBatch, check_teaches, collate
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.losses.coarse import CoarseLoss, CoarsePatchLoss, Sampling, patch_order_accuracy
from hybrid_encoder.models.base import evaluation_mode
from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.training.batches import check_finite_item
from hybrid_encoder.training.locking import hold_run
from hybrid_encoder.training.parallel import is_main_process, process_state
from hybrid_encoder.training.recipes import CoarseRecipe
from hybrid_encoder.training.running import train_stage
from hybrid_encoder.training.stage import Stage
from hybrid_encoder.training.trained_on import save_trained


class CoarseStage(Stage):
    """Train an encoder on batches of ordered patches (:class:`hybrid_encoder.data.ordered.PatchBatch`).

    Args:
        encoder: with as many prompts as a lane has points.
        two_sided, sampling, box, margin: of :class:`hybrid_encoder.losses.coarse.CoarsePatchLoss`.

    Raises:
        ConfigError: an encoder without prompts.
    """

    def __init__(
        self,
        encoder: HybridDepthEncoder,
        two_sided: bool = False,
        sampling: Sampling = "cell",
        box: float = 32.0,
        margin: float = 0.0,
    ) -> None:
        super().__init__()
        if encoder.prompts is None:
            raise ConfigError("the encoder has no prompts; the coarse stage compares patches with depth words.")
        self.encoder = encoder
        self.criterion = CoarsePatchLoss(two_sided, sampling, box, margin)

    def forward(self, batch: PatchBatch) -> dict[str, Tensor]:
        """Return the losses of a batch.

        Returns:
            ``loss``, the sum of ``ranking`` and ``contrastive``, and ``order``, the share of pairs of patches that the
            words put in the right order; all scalars.
        """
        parts = self.compare(batch)
        # Ranking is a mean over images, of which every batch has as many; contrastive is a mean over lanes.
        contrastive = parts.contrastive * self.share
        order = torch.tensor(patch_order_accuracy(parts.logits.detach()))
        return {
            "loss": parts.ranking + contrastive,
            "ranking": parts.ranking.detach(),
            "contrastive": parts.contrastive.detach(),
            "order": order,
        }

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    def num_terms(self, batch: PatchBatch) -> int:
        return len(batch.points)

    def compare(self, batch: PatchBatch) -> CoarseLoss:
        """Return the loss and its parts, with the logits of patches against prompts."""
        features = self.encoder.forward_features(batch.images)
        assert features.prompt_embeddings is not None  # an encoder with prompts
        size = (batch.images.shape[-2], batch.images.shape[-1])
        loss: CoarseLoss = self.criterion(features.fused, features.prompt_embeddings, batch.points, batch.index, size)
        return loss


@torch.no_grad()
def order_accuracy(stage: CoarseStage, batches: Iterable[PatchBatch]) -> float:
    """Return how often the words put two patches in the right order, over batches of ordered patches.

    The stage is compared in evaluation mode and left in the mode it was in.

    Returns:
        A share of all pairs, in [0, 1]; one half by chance, NaN without a lane.
    """
    device = next(stage.parameters()).device
    with evaluation_mode(stage):
        logits = [
            stage.compare(PatchBatch(b.images.to(device), b.points.to(device), b.index.to(device))).logits.cpu()
            for b in batches
        ]
    return patch_order_accuracy(torch.cat(logits))


def coarse_encoder(source: str | Path, recipe: CoarseRecipe, pretrained: bool = True) -> HybridDepthEncoder:
    """Return the encoder that the coarse stage starts from, with the recipe's words as prompts.

    Args:
        source: a preset, built anew with ImageNet's normalisation (as published for this stage); or a checkpoint.
        recipe: gives the words.
        pretrained: start the towers of a preset from the weights that it names.

    Raises:
        CheckpointError, ConfigError: a checkpoint that is not found, or has not kept the embeddings of the words.
    """
    if str(source) not in PRESETS:
        encoder = HybridDepthEncoder.from_pretrained(source)
        if encoder.config.prompts is None or encoder.config.prompts.words != recipe.words:
            encoder.set_prompts(_words(encoder.config, recipe))
        encoder.set_readout(recipe.readout)
        return encoder
    config = HybridEncoderConfig.preset(str(source))
    config = config.replace(
        semantic=config.semantic.normalised(IMAGENET_MEAN, IMAGENET_STD),
        spatial=config.spatial.normalised(IMAGENET_MEAN, IMAGENET_STD),
        prompts=_words(config, recipe),
    )
    return HybridDepthEncoder(config, pretrained=pretrained)


def _words(config: HybridEncoderConfig, recipe: CoarseRecipe) -> PromptConfig:
    """Return the recipe's words as prompts, in the place of an encoder's; its sentence and other settings stay."""
    plain = PromptConfig(words=recipe.words, readout=recipe.readout)
    if config.prompts is None:
        return plain
    # Words have no number of tokens: it is that of a configuration which names none.
    return dataclasses.replace(
        config.prompts, words=plain.words, num_tokens=plain.num_tokens, init=plain.init, readout=plain.readout
    )


def train_coarse(
    encoder: HybridDepthEncoder, items: Dataset[Any], folder: str | Path, recipe: CoarseRecipe, **options: Any
) -> Path | None:
    """Run the coarse stage from its first step to weights in this library's layout.

    Args:
        encoder: trained in place. What the recipe freezes is released again at the end.
        items: ordered patches, from ``TuSimpleLanes``, ``OrderedDepth`` or ``SyntheticLanes``.
        folder: of the run; the weights are saved into its ``final``.
        recipe: how long, how fast and with which settings.
        options: of :func:`hybrid_encoder.training.running.train_stage`.

    Returns:
        The folder of the weights; None where the run was stopped before its end.

    Raises:
        InputError: no item has points to learn from, or one is not finite.
    """
    folder = Path(folder)
    stage = CoarseStage(encoder, recipe.two_sided, recipe.sampling, recipe.box, recipe.margin)
    trained_before = encoder.trainable
    encoder.set_trainable(spatial=False if recipe.freeze_spatial else None, text=False if recipe.freeze_text else None)
    groups = encoder.parameter_groups(recipe.lr, lr_scale=recipe.lr_scale)
    process_state(options.get("cpu", False))
    with hold_run(folder):
        check_teaches(items)
        num_steps = train_stage(stage, items, groups, recipe, folder, collate=collate_finite, **options)
        if num_steps is None:
            return None
        encoder.set_trainable(**trained_before)  # what is frozen here may train in the next stage
        encoder.eval()
        if is_main_process():
            notes = f"The coarse stage of Hybrid-depth: {num_steps} steps of patches in the order of depth."
            save_trained(encoder, type(stage).__name__, items, folder / "final", notes)
    return folder / "final"


def collate_finite(items: Sequence[OrderedPatches]) -> PatchBatch:
    """Join items into a batch.

    Raises:
        InputError: an image or its points are not finite.
    """
    for item in items:
        check_finite_item(item.name, image=item.image, points=item.points)
    return collate(items)
