"""Where predictions are right and wrong, to look at: error maps, and the worst and best images of a test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hybrid_encoder.data.images import Pixels, colorize, drawable
from hybrid_encoder.evaluation.evaluating import Compared
from hybrid_encoder.evaluation.metrics import DepthMetrics

LARGEST_ERROR = 0.5  # relative, from which on the colour is the same
ERRORS, DEPTHS = "turbo", "magma"
UNKNOWN = (38, 38, 38)  # where there is no truth, or where it does not count
GAP, HEAD, LINE = 6, 22, 20  # pixels: between tiles, for the titles, for the text over a row


@dataclass(frozen=True)
class Example:
    """One image of a test set, to be shown.

    Args:
        name: of the sample.
        image: RGB, uint8, (H, W, 3).
        compared: its prediction and truth.
        label: why it is shown, such as ``"worst 1"``.
    """

    name: str
    image: Pixels
    compared: Compared
    label: str = ""


def error_map(compared: Compared, width: int | None = None) -> Pixels:
    """Draw |prediction - truth| / truth where it counts: dark blue for 0, red from 0.5 on, grey where nothing counts.

    Args:
        compared: prediction and truth, of (H, W).
        width: in pixels, of a smaller drawing, in which a pixel shows the largest error that falls into it; by default
            one pixel for each of the truth.

    Returns:
        RGB, uint8, (h, w, 3).
    """
    truth, valid = compared.truth.numpy(), compared.valid.numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.abs(compared.depth.numpy() - truth) / truth
    return _points(np.where(valid, error, np.nan), width, 0, LARGEST_ERROR, ERRORS)


def worst_and_best(examples: Sequence[Example], title: str = "", width: int = 420) -> Pixels:
    """Draw images in rows: the image, its predicted depth, its true depth and the error.

    Prediction and truth of a row share their colours, which go by 1 / depth: what is near is bright.

    Args:
        examples: at least one.
        title: over the whole, in a line.
        width: of each of the four columns, in pixels.

    Returns:
        RGB, uint8, (H, W, 3).
    """
    columns = [
        "image",
        "prediction",
        "truth (grey: none that counts)",
        f"|prediction - truth| / truth, 0 to {LARGEST_ERROR:g}",
    ]
    rows = [_tiles(example, width) for example in examples]
    top = (LINE if title else 0) + HEAD
    height = top + sum(LINE + len(tiles[0]) + GAP for tiles in rows)
    sheet = Image.new("RGB", (GAP + len(columns) * (width + GAP), height), "white")
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((GAP, 5), drawable(title), fill="black")
    for column, text in enumerate(columns):
        draw.text((GAP + column * (width + GAP), top - HEAD + 5), text, fill="black")
    _draw_legend(sheet, 4 * (width + GAP) - 90, top - HEAD + 6)
    y = top
    for example, tiles in zip(examples, rows, strict=True):
        draw.text((GAP, y + 4), drawable(_line(example)), fill="black")
        for column, tile in enumerate(tiles):
            sheet.paste(Image.fromarray(tile), (GAP + column * (width + GAP), y + LINE))
        y += LINE + len(tiles[0]) + GAP
    return np.asarray(sheet)


def _tiles(example: Example, width: int) -> list[Pixels]:
    """Return the four pictures of one example, of the same size."""
    compared = example.compared
    height = max(1, round(compared.truth.shape[0] * width / compared.truth.shape[1]))
    image = np.asarray(Image.fromarray(example.image).resize((width, height), Image.Resampling.BOX))
    valid = compared.valid.numpy()
    nearness = 1 / compared.depth
    with np.errstate(divide="ignore"):
        known = np.where(valid, 1 / compared.truth.numpy(), np.nan)
    low, high = np.nanpercentile(known, [2, 98])
    smaller = torch.nn.functional.interpolate(nearness[None, None], (height, width), mode="area")[0, 0]
    predicted = colorize(smaller, float(low), float(high), DEPTHS)
    truth = _points(known, width, float(low), float(high), DEPTHS)
    return [image, predicted, truth, error_map(compared, width)]


def _points(values: NDArray[np.float64], width: int | None, low: float, high: float, colours: str) -> Pixels:
    """Draw a map with gaps (NaN), so that single points are seen: a pixel takes the largest value of those it covers.

    Args:
        values: (H, W).
        width: of the drawing; its points are a pixel larger in every direction. None draws every value as it is.
        low, high: ends of the colours.
        colours: name of a colour map.
    """
    old = values.shape
    if width is not None:
        height = max(1, round(old[0] * width / old[1]))
        v, u = np.nonzero(~np.isnan(values))
        drawn = np.full((height + 2, width + 2), -np.inf)
        rows, cols = v * height // old[0], u * width // old[1]
        for down in range(3):
            for right in range(3):
                np.maximum.at(drawn, (rows + down, cols + right), values[v, u])
        values = drawn[1:-1, 1:-1]
        values[np.isneginf(values)] = np.nan
    gaps = np.isnan(values)
    pixels = colorize(torch.from_numpy(np.where(gaps, low, values)), low, high, colours)
    pixels[gaps] = UNKNOWN
    return pixels


def _draw_legend(sheet: Image.Image, x: int, y: int) -> None:
    ramp = torch.linspace(0, 1, 80)[None].expand(10, 80)
    sheet.paste(Image.fromarray(colorize(ramp, 0, 1, ERRORS)), (x, y))


def _line(example: Example) -> str:
    metrics: DepthMetrics = example.compared.metrics
    return (
        f"{example.label}{': ' if example.label else ''}{example.name}   abs_rel {metrics.abs_rel:.3f}   "
        f"rmse {metrics.rmse:.2f} m   a1 {metrics.a1:.3f}   {metrics.num_valid} pixels"
    )
