"""What the demonstration measures on held-out drives, and what knows nothing of the image beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybrid_encoder.data.street.drive import StreetDrive
from hybrid_encoder.data.street.layout import CameraKind
from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.baselines import fitted_plane
from hybrid_encoder.evaluation.metrics import depth_metrics
from hybrid_encoder.evaluation.ordering import WordOrder, word_order
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.prediction import DepthPrediction

MAX_DEPTH = 80.0  # metres; what is farther away is not measured
HEADS = ("words", "row wrong", "depth", "row wrong", "abs_rel")
STAGES = {"start": "before", "coarse": "after coarse", "fine": "after fine"}


@dataclass(frozen=True)
class Measured:
    """What one model, or a control, is worth on the held-out frames.

    Args:
        order: how often random pairs of pixels are in the right order, by words and by depth.
        abs_rel: of depth, each frame scaled to the truth by medians.
    """

    order: WordOrder
    abs_rel: float

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers by their names; NaN for words where there are none."""
        order, names = self.order, ("words", "words_row_wrong", "depth", "depth_row_wrong")
        return {**{name: float(getattr(order, name)) for name in names}, "abs_rel": self.abs_rel}


class HeldOut:
    """The middle frames of drives that no stage trains on.

    Args:
        seeds: of the drives.
        num_frames: of a drive.
        size: (H, W).
        camera: of the drives.
    """

    def __init__(self, seeds: Sequence[int], num_frames: int, size: tuple[int, int], camera: CameraKind) -> None:
        frames = [StreetDrive(seed, num_frames, *size, camera=camera)[num_frames // 2] for seed in seeds]
        self.images = torch.stack([torch.from_numpy(frame.image) for frame in frames])
        self.depth = torch.stack([torch.from_numpy(frame.depth) for frame in frames])
        self.valid = torch.stack([torch.from_numpy(frame.valid) for frame in frames])

    def predict(self, model: HybridDepthModel) -> list[DepthPrediction]:
        """Return what a model with prompts says of each frame, with its words."""
        return [model.infer(image, "native", words=True) for image in self.images]

    def measure(self, predictions: Sequence[DepthPrediction]) -> Measured:
        """Return what predictions of all frames are worth."""
        logits = [None if prediction.words is None else prediction.words.logits for prediction in predictions]
        return self._measured(torch.stack([prediction.depth.cpu() for prediction in predictions]), logits)

    def constant(self) -> Measured:
        """Return what one depth everywhere is worth; in order it is a guess."""
        return self._measured(torch.ones_like(self.depth))

    def plane(self) -> Measured:
        """Return what :func:`fitted_plane` is worth, which knows the truth of each frame and not its image."""
        planes = [fitted_plane(depth, valid) for depth, valid in zip(self.depth, self.valid, strict=True)]
        return self._measured(torch.stack(planes))

    def _measured(self, depth: Tensor, logits: Sequence[Tensor | None] | None = None) -> Measured:
        said = logits or [None] * len(depth)
        truths = torch.where(self.valid, self.depth, 0.0)[:, 0]
        orders = [word_order(said[i], truths[i], depth=depth[i, 0], seed=i) for i in range(len(depth))]
        found = depth_metrics(depth, self.depth, self.valid, median_scaling=True, max_depth=MAX_DEPTH)
        return Measured(WordOrder.pooled(orders), found.abs_rel)


class Report:
    """What is measured while both stages train, beside the controls.

    Args:
        held_out: the frames that it is measured on.
    """

    def __init__(self, held_out: HeldOut) -> None:
        self.held_out = held_out
        self.constant, self.plane = held_out.constant(), held_out.plane()
        self.stages: dict[str, Measured] = {}

    def add(self, stage: str, model: HybridDepthModel) -> list[DepthPrediction]:
        """Measure a model, and return what it predicts.

        Args:
            stage: one of ``STAGES``.
            model: with prompts.

        Raises:
            InputError: a number is not finite.
        """
        predictions = self.held_out.predict(model)
        measured = self.held_out.measure(predictions)
        for name, value in measured.numbers.items():
            if not math.isfinite(value):
                raise InputError(f"{stage}_{name} is {value} on held-out frames; it must be finite: try another seed.")
        self.stages[stage] = measured
        return predictions

    def numbers(self) -> dict[str, float]:
        """Return all numbers, as ``run_demo`` does."""
        controls = {"row_order": self.constant.order.row}
        controls |= {"constant_abs_rel": self.constant.abs_rel, "plane_abs_rel": self.plane.abs_rel}
        found = {f"{stage}_{n}": x for stage, measured in self.stages.items() for n, x in measured.numbers.items()}
        return {**controls, **found}

    def text(self) -> str:
        """Return a table of controls and stages, and what its columns mean."""
        guess = self.constant.numbers | {"words": 0.5, "words_row_wrong": 0.5}
        row = self.plane.numbers | {"words": self.plane.order.row, "words_row_wrong": 0.0}
        rows = {"a guess; a constant": guess, "the row; a plane": row}
        rows |= {STAGES[stage]: measured.numbers for stage, measured in self.stages.items()}
        width = max(map(len, rows))
        lines = [" " * width + "".join(f"  {head}" for head in HEADS)]
        for name, numbers in rows.items():
            cells = [f"{value:.3f}".rjust(len(head)) for head, value in zip(HEADS, numbers.values(), strict=True)]
            lines.append("  ".join([name.ljust(width), *cells]))
        order = self.constant.order
        return "\n".join(
            [
                f"{order.num_pairs} random pairs of pixels in {len(self.held_out.images)} held-out frames, in the "
                f"right order by words and by depth; row wrong: the {order.num_row_wrong} whose nearer pixel "
                "lies higher in the image",
                *lines,
                "abs_rel of median-scaled depth; a plane: 1 / depth linear in the image row, fitted to each frame",
            ]
        )

    def sentences(self) -> list[str]:
        """Return the numbers in two sentences, each with its controls."""
        x = self.numbers()
        return [
            f"Random pairs of pixels in order by words: {x['start_words']:.3f} before, {x['coarse_words']:.3f} after "
            f"the coarse stage, {x['fine_words']:.3f} after the fine stage (a guess 0.5, the image row alone "
            f"{x['row_order']:.3f}); where the row is wrong: {x['start_words_row_wrong']:.3f}, "
            f"{x['coarse_words_row_wrong']:.3f}, {x['fine_words_row_wrong']:.3f} (0.5, 0).",
            f"Error of median-scaled depth, abs_rel: {x['coarse_abs_rel']:.3f} before and {x['fine_abs_rel']:.3f} "
            f"after the fine stage (a constant {x['constant_abs_rel']:.3f}, a plane fitted to each frame "
            f"{x['plane_abs_rel']:.3f}).",
        ]
