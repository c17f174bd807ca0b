"""Paths of a camera from above, to look at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hybrid_encoder.data.images import Pixels, drawable
from hybrid_encoder.errors import InputError

Array = NDArray[Any]
COLOURS = ((31, 119, 180), (40, 40, 40), (214, 39, 40), (44, 160, 44), (148, 103, 189))
GRID, TEXT = (225, 225, 225), (60, 60, 60)
MARGIN, HEAD, LINE = 44, 30, 18  # pixels: around the paths, over them, and of a line of text
FINER = 2  # drawn so many times larger, then made smaller, so that lines are smooth


def draw_paths(paths: Mapping[str, Array], title: str = "", unit: str = "m", size: int = 640) -> Pixels:
    """Draw paths from above: the first camera looks up, and what is to its right is on the right.

    All begin in the same place and direction; a ring marks it. A grid shows the scale.

    Args:
        paths: world_T_cam by name, (N, 4, 4) each; the first one is drawn over the others.
        title: over the whole, in a line.
        unit: of the translations, beside the size of the grid's cells; empty where there is none.
        size: of the picture's longer side in pixels, without title and legend.

    Returns:
        RGB, uint8, (H, W, 3).

    Raises:
        InputError: no path, or one that is not finite.
    """
    tracks = {name: _from_above(name, path) for name, path in paths.items()}
    if not tracks:
        raise InputError("there is no path to draw; give one.")
    points = np.concatenate(list(tracks.values()))
    low, high = points.min(0), points.max(0)
    extent = max(float((high - low).max()), 1e-9)
    # A straight road still has some room on both sides.
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 0.15 * extent)
    scale = (size - 2 * MARGIN) / (2 * float(half.max()))
    width, height = (math.ceil(2 * float(side) * scale) + 2 * MARGIN for side in half)
    width = max(width, 360)  # of the title and the legend
    top = HEAD + LINE * (len(tracks) + 1)
    sheet = Image.new("RGB", (FINER * width, FINER * (top + height)), "white")
    draw = ImageDraw.Draw(sheet)

    def place(point: Array) -> tuple[float, float]:
        x, z = (point - middle) * scale
        return FINER * (width / 2 + float(x)), FINER * (top + height / 2 - float(z))

    cell = _round_step(extent / 4)
    _draw_grid(draw, place, cell, (0, FINER * top, FINER * width, FINER * (top + height)), FINER * scale)
    colours = dict(zip(tracks, (COLOURS[k % len(COLOURS)] for k in range(len(tracks))), strict=True))
    for name, track in reversed(tracks.items()):
        line = [place(point) for point in track]
        draw.line(line, colours[name], 3 * FINER, "curve")
        x, y = line[-1]
        draw.ellipse((x - 4 * FINER, y - 4 * FINER, x + 4 * FINER, y + 4 * FINER), colours[name])
    x, y = place(np.zeros(2))
    draw.ellipse((x - 6 * FINER, y - 6 * FINER, x + 6 * FINER, y + 6 * FINER), outline=TEXT, width=2 * FINER)
    for row, name in enumerate(tracks):
        y = FINER * (HEAD + row * LINE + 8)
        draw.line((10 * FINER, y, 34 * FINER, y), colours[name], 3 * FINER)
    sheet = sheet.resize((width, top + height), Image.Resampling.BOX)
    draw = ImageDraw.Draw(sheet)
    draw.text((10, 8), drawable(title), "black")
    for row, name in enumerate(tracks):
        draw.text((42, HEAD + row * LINE + 2), drawable(name), TEXT)
    label = f"grid: {cell:g} {unit}" if unit else f"grid: {cell:g} units of unknown length"
    draw.text((10, HEAD + len(tracks) * LINE + 2), drawable(label), TEXT)
    return np.asarray(sheet)


def _from_above(name: str, path: Array) -> Array:
    """Return x and z of a path in the camera of its first frame, (N, 2)."""
    poses = np.asarray(path, dtype=np.float64)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or not len(poses) or not np.isfinite(poses).all():
        raise InputError(f"the path {name!r} is {poses.shape}; finite poses (N, 4, 4) are needed, one at least.")
    return np.asarray((np.linalg.inv(poses[0]) @ poses)[:, [0, 2], 3])


def _round_step(length: float) -> float:
    """Return 1, 2 or 5 times a power of ten: the largest that is no longer than a length."""
    power = 10.0 ** math.floor(math.log10(length))
    return next(factor * power for factor in (5, 2, 1) if factor * power <= length * (1 + 1e-9))


def _draw_grid(
    draw: ImageDraw.ImageDraw, place: Any, cell: float, box: tuple[float, float, float, float], scale: float
) -> None:
    left, top, right, bottom = box
    x, y = place(np.zeros(2))
    step = cell * scale
    for k in range(math.ceil((left - x) / step), math.floor((right - x) / step) + 1):
        draw.line((x + k * step, top, x + k * step, bottom), GRID, FINER)
    for k in range(math.ceil((top - y) / step), math.floor((bottom - y) / step) + 1):
        draw.line((left, y + k * step, right, y + k * step), GRID, FINER)
