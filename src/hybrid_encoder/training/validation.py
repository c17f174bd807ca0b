"""How good a fine stage is on frames that it does not train on, and what is reached there without learning anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, send_to_device
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from hybrid_encoder.data.images import to_pixels
from hybrid_encoder.data.sequences import SourceSequences
from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.baselines import baselines
from hybrid_encoder.evaluation.evaluating import compare, evaluate
from hybrid_encoder.evaluation.metrics import METRICS
from hybrid_encoder.evaluation.predictors import Prediction
from hybrid_encoder.evaluation.protocols import Protocol
from hybrid_encoder.evaluation.samples import Sample
from hybrid_encoder.training.batches import Collate, Failure, SeededDataset, end_workers_at_exit, outlive_sigterm
from hybrid_encoder.training.composition import inner_item
from hybrid_encoder.training.loop_config import resolved_workers

if TYPE_CHECKING:
    from hybrid_encoder.data.frames import Frames
    from hybrid_encoder.training.view_synthesis import FineStage

Depth = NDArray[np.float32]
RULE = Protocol("validation", "depth of held-out frames", "lidar")  # the whole image, from 1e-3 to 80 m
MOST_TRUTHS = 100  # images that the control is made from and measured on


class FineValidation:
    """Measure a fine stage on held-out frames: call it, in all processes, with the stage in eval mode.

    The photometric error is measured always. Where the frames have depth, the seven usual numbers are, too: over the
    whole image, between 1 mm and 80 m, as means over the images. The same weights give the same numbers, for any number
    of processes.

    Args:
        stage: what is measured, in full precision.
        items: held-out frames, without augmentation; a ``SourceSequences`` knows their depth.
        batch_size: items at a time.
        workers: processes that load data; 0 loads in this one, None takes as many as a training would.
        median_scaling: scale every prediction to its truth: video alone has no unit. A stage that learns from the right
            view has, and is measured as it is.
        collate: turns a list of items into a batch; None stacks tensors.

    Raises:
        InputError: no item, or cameras whose intrinsics the stage does not learn.
    """

    def __init__(
        self,
        stage: FineStage,
        items: Dataset[Frames],
        batch_size: int = 4,
        workers: int | None = 0,
        median_scaling: bool = True,
        collate: Any = None,
    ) -> None:
        self.count = len(items)  # type: ignore[arg-type]
        if not self.count:
            raise InputError("there are 0 frames to validate on; hold some out, or train without validation.")
        self.stage, self.items = stage, items
        self.batch_size, self.scaled = batch_size, median_scaling
        self.workers = resolved_workers(workers, -(-self.count // batch_size))
        self._check_cameras()
        self.collate = _CollateWithDepth(collate)
        self.control: float | None = None

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """Return the numbers by name.

        ``score``, the lower the better, is ``abs_rel`` where there is depth, and ``reprojection`` elsewhere. Beside
        them is what is reached without learning anything: ``reprojection_control``, of an unmoved camera, and
        ``abs_rel_control``, the better one of a constant and of depth by the image's row, each scaled to the truth.

        Raises:
            InputError: a frame that cannot be read.
        """
        found = sorted(gather_object(list(self._measure())), key=lambda part: part[0])
        numbers = {name: sum(sums[name] for _, sums, _ in found) / self.count for name in found[0][1]}
        numbers["reprojection_control"] = numbers.pop("identity")
        images = [row for _, _, rows in found for row in rows]
        if not images:
            return {"score": numbers["reprojection"], **numbers}
        depth = dict(zip(METRICS, np.mean(images, axis=0).tolist(), strict=True))
        if self.control is None:
            self.control = depth_control(self.items)
        return {"score": depth["abs_rel"], **depth, "abs_rel_control": self.control, **numbers}

    def _check_cameras(self) -> None:
        learned = self.stage.intrinsics
        cameras = tuple(getattr(inner_item(self.items, 0)[0], "cameras", ()))
        if learned is not None and cameras != learned.cameras:
            raise InputError(
                f"the frames to validate on are of {', '.join(cameras) or 'no known camera'}, and intrinsics of "
                f"{', '.join(learned.cameras)} are learned; hold out frames of the same recordings."
            )

    def _measure(self) -> Iterator[tuple[int, dict[str, float], list[list[float]]]]:
        """Give, for the batches of this process, their number, their losses, and the metrics of every image."""
        state, size = PartialState(), self.batch_size
        batches = [range(self.count)[start : start + size] for start in range(0, self.count, size)]
        own = range(state.process_index, len(batches), state.num_processes)
        device = next(self.stage.parameters()).device
        if self.workers:
            end_workers_at_exit()
        loader = DataLoader(
            SeededDataset(_WithDepth(self.items), 0),
            batch_sampler=[[(0, index) for index in batches[number]] for number in own],
            num_workers=self.workers,
            collate_fn=Collate(self.collate),
            generator=torch.Generator(),  # its own: otherwise the loader draws from the model's random numbers
            worker_init_fn=outlive_sigterm,
        )
        for number, batch in zip(own, loader, strict=True):
            if isinstance(batch, Failure):
                batch.reraise()
            frames, truths = batch
            frames = send_to_device(frames, device)
            prediction = self.stage.predict(frames)
            losses = self.stage.losses(frames, prediction)
            disparity = prediction.disparities[min(prediction.disparities)].float()
            inverse = self.stage.model.to_depth(disparity).reciprocal()[:, 0].cpu().numpy()
            rows = [
                self._metrics(one, truth[0], name)
                for one, truth, name in zip(inverse, truths, frames.name, strict=True)
                if truth is not None and has_depth(truth)
            ]
            weighted = {name: value.item() * len(truths) for name, value in losses.items()}
            yield number, weighted, rows

    def _metrics(self, inverse_depth: Depth, truth: Depth, name: str) -> list[float]:
        found = compare(Prediction(inverse_depth, "disparity"), truth, RULE, median_scaling=self.scaled, name=name)
        return list(found.metrics.as_dict().values())


def depth_control(items: Dataset[Frames]) -> float:
    """Return the abs_rel, scaled to the truth, of what does not look at an image: the better one of two baselines.

    They are a constant, and depth by the image's row as other recordings have it (or the same one elsewhere, or where
    there is no other, none); see :mod:`hybrid_encoder.evaluation.baselines`.

    Args:
        items: with depth; of more than a hundred, as many are taken, evenly spread.
    """
    count = len(items)  # type: ignore[arg-type]
    chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_TRUTHS)).round().astype(int)).tolist()
    samples: list[Sample] = []
    for index in chosen:
        truth = depth_of(items, index)
        if truth is not None and has_depth(truth):
            drive, frame = _place(items, index)
            name = f"{drive} {index}"
            image = partial(_pixels, items, index)
            samples.append(Sample(name, len(samples), image, partial(np.asarray, truth[0]), drive=drive, frame=frame))
    found, _ = baselines(samples, RULE, median_scaling=True)
    usable = [predictor for predictor in found if predictor.name in ("constant", "image row")]
    return min(evaluate(one, samples, RULE, median_scaling=True).mean.abs_rel for one in usable)


def depth_of(items: Dataset[Frames], index: int) -> Depth | None:
    """Return the depth of an item's target, (1, h, w), 0 where unknown; None where the data set knows none."""
    inner, index = inner_item(items, index)
    depth: Depth | None = inner.depth(index) if hasattr(inner, "depth") else None
    return depth


def has_depth(truth: Depth) -> bool:
    """Return whether any pixel of a depth map (1, h, w) counts."""
    return bool(RULE.valid(torch.as_tensor(truth[0])).any())


def _place(items: Dataset[Frames], index: int) -> tuple[str, int | None]:
    """Return the recording of an item and its frame, as far as they are known."""
    inner, index = inner_item(items, index)
    if not isinstance(inner, SourceSequences):
        return "", None
    item = inner.items[index]
    return inner.sources[item.source].name, item.frame


def _pixels(items: Dataset[Frames], index: int) -> NDArray[np.uint8]:
    return to_pixels(items[index].images[0])


class _WithDepth(Dataset[tuple[Any, Any]]):
    """Items with the depth of their targets."""

    def __init__(self, items: Dataset[Frames]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Frames, Depth | None]:
        return self.items[index], depth_of(self.items, index)


class _CollateWithDepth:
    """Join items into a batch, and leave depth maps as they are: their sizes may differ."""

    def __init__(self, collate: Any) -> None:
        self.collate = Collate(collate)

    def __call__(self, items: Sequence[tuple[Frames, Depth | None]]) -> Any:
        frames, depth = zip(*items, strict=True)
        return self.collate(list(frames)), depth
