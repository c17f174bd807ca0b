"""The picture of the demonstration: held-out frames, their depth, and what the words say before and after training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from hybrid_encoder.data.images import Pixels, colorize, to_pixels
from hybrid_encoder.evaluation.metrics import median
from hybrid_encoder.models.prediction import DepthPrediction
from hybrid_encoder.models.word_pictures import draw_words, legend_rows
from hybrid_encoder.models.words import DepthWords
from hybrid_encoder.training.demonstration_measures import HeldOut

TITLES = ("held-out frame", "true disparity", "learned disparity", "words before", "words after")
WIDTH = 420  # pixels of a frame in the picture
GAP, HEAD, LINE, SWATCH, FONT = 6, 30, 24, 16, 17  # pixels
INK, PALE = (20, 20, 20), (110, 110, 110)


def draw_demonstration(
    held_out: HeldOut,
    before: Sequence[DepthPrediction],
    after: Sequence[DepthPrediction],
    shown: Sequence[int],
    lines: Sequence[str],
) -> Pixels:
    """Draw a few held-out frames in rows, with a legend of the words.

    Bright is near everywhere. A frame's two maps of disparity have one scale: the learned one is scaled to the truth by
    medians, as it is measured.

    Args:
        held_out: the frames.
        before, after: what was predicted for all of them, with words.
        shown: which of them to draw.
        lines: of text below.

    Returns:
        uint8, (h, w, 3).
    """
    rows = [_row(held_out, before[index], after[index], index) for index in shown]
    height = rows[0][0].height
    words = after[shown[0]].words
    assert words is not None  # they were asked for
    table, below = HEAD + len(rows) * (height + GAP), GAP + (1 + len(lines)) * LINE
    sheet = Image.new("RGB", (GAP + len(TITLES) * (WIDTH + GAP), table + below + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for column, title in enumerate(TITLES):
        x = GAP + column * (WIDTH + GAP)
        draw.text((x, 6), title, fill=INK, font=font)
        for row, pictures in enumerate(rows):
            sheet.paste(pictures[column], (x, HEAD + row * (height + GAP)))
    _legend(draw, words, (GAP, table + GAP), font)
    for number, line in enumerate(lines):
        draw.text((GAP, table + GAP + (1 + number) * LINE), line, fill=PALE, font=font)
    return np.asarray(sheet)


def _row(held_out: HeldOut, before: DepthPrediction, after: DepthPrediction, index: int) -> list[Image.Image]:
    depth, valid = held_out.depth[index, 0], held_out.valid[index, 0]
    truth = torch.where(valid, 1 / depth, 0.0)
    learned = 1 / after.depth[0].cpu()
    learned = learned * (median(1 / learned[valid]) / median(depth[valid]))
    high = float(truth[valid].quantile(0.95))
    maps = [colorize(x, 0.0, high) for x in (truth, learned)]
    pictures = [_large(pixels) for pixels in (to_pixels(held_out.images[index]), *maps)]
    return [*pictures, *(_large(_squares(prediction.words)) for prediction in (before, after))]


def _squares(words: DepthWords | None) -> Pixels:
    """Return the words of one picture drawn over it, without the legend that belongs to them."""
    assert words is not None  # they were asked for
    height, width = words.image.shape[-2:]
    drawn = draw_words(words)
    return drawn[: round(drawn.shape[1] * height / width)]


def _large(pixels: Pixels) -> Image.Image:
    image = Image.fromarray(pixels)
    return image.resize((WIDTH, round(WIDTH * image.height / image.width)), Image.Resampling.BICUBIC)


def _legend(
    draw: ImageDraw.ImageDraw,
    words: DepthWords,
    corner: tuple[int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    x, y = corner
    start = "Most similar depth word of each cell (small where unsure):"
    draw.text((x, y), start, fill=INK, font=font)
    x += int(draw.textlength(start, font)) + 3 * GAP
    for row in legend_rows(words):
        draw.rectangle((x, y + 2, x + SWATCH, y + 2 + SWATCH), fill=row.colour, outline=PALE)
        x += SWATCH + GAP
        draw.text((x, y), row.name, fill=INK, font=font)
        x += int(draw.textlength(row.name, font)) + 3 * GAP
