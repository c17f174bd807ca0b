"""What a bird's-eye view is trained on: boxes and road as maps of the grid."""

from __future__ import annotations

import torch
from torch import Tensor

from hybrid_encoder.bev.grid import BevGrid
from hybrid_encoder.errors import InputError


def vehicle_mask(boxes: Tensor, grid: BevGrid) -> Tensor:
    """Return which cells have their middle under a box.

    Args:
        boxes: x, y, z of the middle, length, width, height in metres, and yaw in radians from x to y, in the axes of
            the vehicle, (M, 7); M may be 0.
        grid: the cells.

    Returns:
        0 or 1, float32, (X, Y).

    Raises:
        InputError: boxes of another shape.
    """
    along, across = _in_box(boxes, grid)
    half = boxes.float()[:, None, None, 3:5] / 2
    covered = (along.abs() <= half[..., 0]) & (across.abs() <= half[..., 1])
    return covered.any(0).float()


def centre_map(boxes: Tensor, grid: BevGrid, sigma: float = 1.0) -> Tensor:
    """Return how near each cell is to the centre of a box: a Gaussian around each, the highest where they meet.

    The cell that holds a centre has 1, as the focal loss of centres needs it.

    Args:
        boxes: as for :func:`vehicle_mask`.
        grid: the cells; centres outside of it leave no trace.
        sigma: standard deviation in metres.

    Returns:
        From 0 to 1, float32, (X, Y).

    Raises:
        InputError: boxes of another shape.
    """
    _check(boxes)
    (X, Y), centres = grid.shape, grid.centres().to(boxes.device)
    low = torch.tensor([grid.x_range[0], grid.y_range[0]], device=boxes.device)
    index = ((boxes[:, :2].float() - low) / grid.cell).floor().long()
    inside = (index >= 0).all(1) & (index[:, 0] < X) & (index[:, 1] < Y)
    index = index[inside]
    if not len(index):
        return centres.new_zeros(X, Y)
    middle = centres[index[:, 0], index[:, 1]]
    squared = (centres - middle[:, None, None]).square().sum(-1)
    return (-squared / (2 * sigma**2)).exp().amax(0)


def _in_box(boxes: Tensor, grid: BevGrid) -> tuple[Tensor, Tensor]:
    """Return the middle of every cell along and across every box, in metres, (M, X, Y) each."""
    _check(boxes)
    boxes = boxes.float()
    offset = grid.centres().to(boxes.device) - boxes[:, None, None, :2]
    cos, sin = boxes[:, 6].cos()[:, None, None], boxes[:, 6].sin()[:, None, None]
    dx, dy = offset.unbind(-1)
    return cos * dx + sin * dy, cos * dy - sin * dx


def _check(boxes: Tensor) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 7:
        raise InputError(f"boxes are {tuple(boxes.shape)}; (M, 7) is needed: x, y, z, length, width, height, yaw.")
