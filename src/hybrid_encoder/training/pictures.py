"""What a fine stage sees, to look at while it trains: frames, disparity, synthesised views, and what counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import send_to_device
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from hybrid_encoder.data.images import colorize, contact_sheet, to_pixels, write_png
from hybrid_encoder.geometry.camera import warp
from hybrid_encoder.losses.photometric import photometric_error, reprojection_loss
from hybrid_encoder.training.batches import Collate, Failure, SeededDataset
from hybrid_encoder.writing import write_whole

if TYPE_CHECKING:
    from hybrid_encoder.data.frames import Frames
    from hybrid_encoder.training.view_synthesis import FineStage

Collation = Callable[[list[Any]], Any] | None
Pictures = Mapping[str, NDArray[np.uint8]]  # by name, (N, H, W, 3) each
ERROR_TOP = 0.5  # photometric error that has the brightest colour, so that sheets of one run can be compared


@torch.no_grad()
def fine_pictures(stage: FineStage, batch: Frames) -> dict[str, NDArray[np.uint8]]:
    """Show what a stage makes of a batch, at the size of its frames.

    Args:
        stage: as it is: in training mode its batch norm would learn from the batch.
        batch: on the stage's device.

    Returns:
        uint8, (B, H, W, 3), by name: ``frame``, the target; ``disparity``, bright is near; ``view``, the target put
        together from its sources, from the best one at every pixel; ``error`` of that view, black for none;
        ``moved``, white where the view counts: elsewhere an unmoved camera explains the target better.
    """
    target, sources = batch.images[:, 0], batch.images[:, 1:]
    size = (target.shape[-2], target.shape[-1])
    prediction = stage.predict(batch)
    depth = stage.finest_depth(prediction.disparities, size)
    found = reprojection_loss(target, sources, depth, prediction.K, prediction.motions, stage.automask)
    disparity = F.interpolate(
        prediction.disparities[min(prediction.disparities)].float(), size, mode="bilinear", align_corners=False
    )
    return {
        "frame": _stack(to_pixels(image) for image in target),
        "disparity": _stack(colorize(values) for values in disparity[:, 0]),
        "view": _stack(to_pixels(v) for v in best_view(target, sources, depth, prediction.K, prediction.motions)),
        "error": _stack(colorize(values, 0.0, ERROR_TOP) for values in found.error[:, 0]),
        "moved": _stack(to_pixels(values.float().expand(3, -1, -1)) for values in found.moved),
    }


def best_view(target: Tensor, sources: Tensor, depth: Tensor, K: Tensor, source_T_target: Tensor) -> Tensor:
    """Put the target together from its sources: at every pixel from the one that comes closest to it.

    Args:
        target, sources, depth, K, source_T_target: of :func:`hybrid_encoder.losses.photometric.reprojection_loss`.

    Returns:
        (B, 3, H, W).
    """
    views = [warp(sources[:, index], depth, K, source_T_target[:, index])[0] for index in range(sources.shape[1])]
    errors = torch.cat([photometric_error(view, target) for view in views], dim=1)
    best = errors.argmin(1, keepdim=True).unsqueeze(1).expand(-1, -1, *target.shape[1:])
    return torch.stack(views, dim=1).gather(1, best)[:, 0]


def _stack(pictures: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.stack(list(pictures))


class FinePictures:
    """Pictures of the same few items whenever it is called, by :func:`fine_pictures`; with the stage in eval mode.

    Args:
        stage: what is shown.
        items: frames with their neighbours.
        collate: turns a list of items into a batch; None stacks tensors.
        count: how many of them are shown, evenly spread.
    """

    def __init__(self, stage: FineStage, items: Dataset[Frames], collate: Collation = None, count: int = 4) -> None:
        self.stage, self.items = stage, SeededDataset(items, 0)  # the same augmentation each time
        length = len(items)  # type: ignore[arg-type]
        spread = np.linspace(0, length - 1, min(count, length)).round().astype(int)
        self.chosen, self.collate = np.unique(spread).tolist(), Collate(collate)

    def __call__(self) -> dict[str, NDArray[np.uint8]]:
        """Return the pictures by name.

        Raises:
            InputError: a frame that cannot be read.
        """
        batch = self.collate([self.items[0, index] for index in self.chosen])
        if isinstance(batch, Failure):
            batch.reraise()
        return fine_pictures(self.stage, send_to_device(batch, next(self.stage.parameters()).device))


class Sheets:
    """Sheets of pictures in a run's folder, one file for a step: ``step_00000500.png``.

    Of the older ones so many are kept that their steps double at least; besides, there is always the newest, and
    ``best.png`` is that of the best validation.

    Args:
        folder: for the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, step: int, pictures: Pictures) -> None:
        """Write the sheet of a step: a row for each frame, a column for each kind of picture."""
        self.folder.mkdir(exist_ok=True)
        rows = list(zip(*pictures.values(), strict=True))
        write_png(self._path(step), contact_sheet(rows, list(pictures)))
        there = sorted(int(path.stem[5:]) for path in self.folder.glob("step_*.png") if _STEP.fullmatch(path.name))
        for other in set(there) - set(doubling(there)):
            self._path(other).unlink()

    def keep_best(self, step: int) -> None:
        """Keep the sheet of a step as the best one, if there is one."""
        if self._path(step).is_file():
            write_whole(self.folder / "best.png", self._path(step).read_bytes())

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}.png"


_STEP = re.compile(r"step_\d{8,}\.png")


def doubling(steps: Sequence[int]) -> list[int]:
    """Return the last of some rising numbers, and of the others the first and those that at least double the one before
    that is kept."""
    kept: list[int] = []
    for step in steps:
        if not kept or step >= 2 * kept[-1]:
            kept.append(step)
    return sorted({*kept, *steps[-1:]})
