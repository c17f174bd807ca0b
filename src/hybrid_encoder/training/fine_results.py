"""What a fine stage has trained, saved: after its last step, and whenever a validation is the best so far."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.data import ConcatDataset, Dataset

from hybrid_encoder.errors import CheckpointError
from hybrid_encoder.models.pose_network import MotionNetwork
from hybrid_encoder.training.calibration import Calibration, calibrations, save_calibrations
from hybrid_encoder.training.checkpointing import failure_of
from hybrid_encoder.training.parallel import any_process, is_main_process
from hybrid_encoder.training.pictures import Sheets
from hybrid_encoder.training.recipes import FineRecipe
from hybrid_encoder.training.trained_on import save_trained
from hybrid_encoder.training.view_synthesis import FineStage
from hybrid_encoder.writing import write_whole

if TYPE_CHECKING:
    from hybrid_encoder.data.frames import Frames

BEST = "best"  # the folder of the weights of the best validation, in the folder of a run


def save_fine(
    stage: FineStage,
    items: Dataset[Frames],
    recipe: FineRecipe,
    folder: Path,
    about: str,
    chosen_on: Dataset[Frames] | None = None,
) -> list[Calibration]:
    """Save the model with the record of its training, and beside it what predicts the camera's motion, and intrinsics
    where they were learned.

    Args:
        stage: as it was trained; its model is described as the recipe has trained it.
        items: what it was trained on.
        recipe: what it was trained by.
        folder: for the weights.
        about: for their card, such as ``"400 steps"``.
        chosen_on: frames by which these weights were chosen among others: they are no test for them any more.

    Returns:
        The learned intrinsics of every camera; none where they were given.
    """
    model = stage.model
    # Video alone has no unit: a scale that the weights had before has been trained away.
    model.config = model.config.replace(size=recipe.size, metric=recipe.metric)
    notes = f"The fine stage of Hybrid-depth: {about} of view synthesis, no depth label, {recipe.size}."
    seen = items if chosen_on is None else ConcatDataset([items, chosen_on])
    save_trained(model, type(stage).__name__, seen, folder, notes)
    save_motion(stage, recipe, folder)
    found = [] if stage.intrinsics is None else calibrations(stage, items)
    if found:
        save_calibrations(found, folder)
    return found


def save_motion(stage: FineStage, recipe: FineRecipe, folder: Path) -> None:
    """Save what predicts the camera's motion, as ``pose.safetensors``, with how it was trained."""
    network = stage.motion_network
    if isinstance(network, MotionNetwork):
        network.config = network.config.replace(
            size=recipe.size,
            resample=recipe.resample,
            # As FineStage scales depth for alignment.
            unit="mean depth" if recipe.refine and not recipe.metric else "depth",
            metric=stage.model.config.metric,
        )
        network.training_history = stage.model.training_history
        network.save_pretrained(folder)


class KeepBest:
    """Save the weights of a validation that is better than all before it; training goes on with what it had.

    They are in the folder ``best`` of the run, with the step and the numbers of the validation in ``validation.json``,
    and its pictures are ``pictures/best.png``.

    Args:
        stage, items, recipe: of :func:`save_fine`.
        folder: of the run.
        validation: the frames that are validated on.
    """

    def __init__(
        self,
        stage: FineStage,
        items: Dataset[Frames],
        recipe: FineRecipe,
        folder: Path,
        validation: Dataset[Frames] | None = None,
    ) -> None:
        self.stage, self.items, self.recipe, self.folder = stage, items, recipe, folder
        self.validation = validation

    def __call__(self, step: int, numbers: Mapping[str, float]) -> None:
        """Save them, in the main process; all processes have to call.

        Raises:
            CheckpointError: they cannot be written; in all processes.
        """
        failure = failure_of(partial(self._save, step, numbers)) if is_main_process() else None
        if any_process(failure is not None):
            raise CheckpointError(
                f"{self.folder / BEST} cannot be saved ({failure or 'another process failed'}); mend this and resume."
            )

    def _save(self, step: int, numbers: Mapping[str, float]) -> None:
        model, best = self.stage.model, self.folder / BEST
        config, history = model.config, model.training_history
        try:
            about = f"the best validation, after {step} steps"
            save_fine(self.stage, self.items, self.recipe, best, about, self.validation)
        finally:
            model.config, model.training_history = config, history
        write_whole(best / "validation.json", json.dumps({"step": step, **numbers}, indent=1).encode())
        Sheets(self.folder / "pictures").keep_best(step)
