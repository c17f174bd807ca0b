"""Rendered drives with six cameras as items to learn a bird's-eye view from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hybrid_encoder.bev.grid import BevGrid
from hybrid_encoder.bev.targets import centre_map, vehicle_mask
from hybrid_encoder.data.synthetic.surround import SyntheticSurround
from hybrid_encoder.errors import InputError


class BevItem(NamedTuple):
    """What the cameras of a vehicle see, and the maps of the ground around it; or a batch of these."""

    name: str
    images: Tensor  # RGB in [0, 1], (N, 3, H, W)
    K: Tensor  # (N, 3, 3)
    vehicle_T_cam: Tensor  # (N, 4, 4)
    depth: Tensor  # in metres, 0 where it is unknown, (N, 1, H, W)
    vehicle: Tensor  # 0 or 1, (1, X, Y)
    road: Tensor  # 0 or 1, (1, X, Y)
    centre: Tensor  # from 0 to 1, (1, X, Y)

    @property
    def targets(self) -> dict[str, Tensor]:
        """The maps by class, as losses and metrics take them."""
        return {"vehicle": self.vehicle, "road": self.road, "centre": self.centre}


class SurroundMaps(Dataset[BevItem]):
    """Frames of rendered drives, held in memory, images with 8 bits per channel as cameras give them.

    A vehicle counts where at least one pixel of a camera shows it.

    Args:
        drives: of one size.
        grid: of the maps.
        progress: wraps the drives and shows how many are rendered.

    Attributes:
        seeds: of the drives.

    Raises:
        InputError: no drive, or drives of different sizes.
    """

    def __init__(
        self,
        drives: Sequence[SyntheticSurround],
        grid: BevGrid,
        progress: Callable[[Sequence[SyntheticSurround]], Iterable[SyntheticSurround]] | None = None,
    ) -> None:
        sizes = sorted({(drive.height, drive.width) for drive in drives})
        if len(sizes) != 1:
            raise InputError(f"the {len(drives)} drives have the sizes {sizes}; give drives of one size.")
        self.grid, self.seeds = grid, [drive.seed for drive in drives]
        self._items: list[BevItem] = []
        self._boxes: list[Tensor] = []
        for drive in drives if progress is None else progress(drives):
            for index in range(len(drive)):
                self._add(drive, index)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> BevItem:
        item = self._items[index]
        return item._replace(images=item.images.float() / 255)

    def boxes(self, index: int) -> Tensor:
        """Return the vehicles of one item whose centre is on the grid, (M, 7) as in ``SurroundFrame``."""
        return self._boxes[index]

    def _add(self, drive: SyntheticSurround, index: int) -> None:
        frame, grid = drive[index], self.grid
        boxes = torch.from_numpy(frame.boxes[frame.visible])
        (x_low, x_high), (y_low, y_high) = grid.x_range, grid.y_range
        x, y = boxes[:, 0], boxes[:, 1]
        self._boxes.append(boxes[(x >= x_low) & (x < x_high) & (y >= y_low) & (y < y_high)])
        item = BevItem(
            name=f"seed {drive.seed}, frame {index}",
            images=torch.from_numpy(np.rint(frame.images * 255).astype(np.uint8)),
            K=torch.from_numpy(frame.K),
            vehicle_T_cam=torch.from_numpy(frame.vehicle_T_cam),
            depth=torch.from_numpy(np.where(frame.valid, frame.depth, np.float32(0))),
            vehicle=vehicle_mask(boxes, grid)[None],
            road=torch.from_numpy(drive.road(index, grid.centres().numpy())).float()[None],
            centre=centre_map(boxes, grid)[None],
        )
        self._items.append(item)
