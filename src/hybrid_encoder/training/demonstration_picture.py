"""The picture of the demonstration: held-out frames, their depth, and what the words say before and after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from hybrid_encoder.data.images import Pixels, colorize, to_pixels
from hybrid_encoder.evaluation.metrics import median
from hybrid_encoder.losses.coarse import word_positions
from hybrid_encoder.models.prediction import DepthPrediction
from hybrid_encoder.training.demonstration_measures import STAGES, HeldOut

TITLES = ("held-out frame", "true disparity", "learned disparity")
WIDTH = 360  # pixels of a frame in the picture
GAP, HEAD, LINE, FONT = 6, 30, 24, 17  # pixels
INK, PALE = (20, 20, 20), (110, 110, 110)
RULE = (
    "Bright is near everywhere. Words: the mean word of each cell, which the order is measured by, on the scale of its "
    "column (5 % to 95 % of all held-out cells). Learned disparity: scaled to the true one by medians, on its scale."
)


def draw_demonstration(
    held_out: HeldOut, stages: Mapping[str, Sequence[DepthPrediction]], shown: Sequence[int], lines: Sequence[str]
) -> Pixels:
    """Draw a few held-out frames in rows: their depth, true and learned, and the words of every stage.

    Args:
        held_out: the frames.
        stages: what was predicted for all of them, with words, by the names in ``STAGES``; the last one's depth is
            shown.
        shown: which frames to draw.
        lines: of text below.

    Returns:
        uint8, (h, w, 3).
    """
    after = list(stages.values())[-1]
    columns = [[to_pixels(held_out.images[index]) for index in shown], *_disparities(held_out, after, shown)]
    columns += [_words(predictions, shown) for predictions in stages.values()]
    titles = [*TITLES, *(f"words {STAGES[stage]}" for stage in stages)]
    height = round(WIDTH * held_out.images.shape[-2] / held_out.images.shape[-1])
    text = HEAD + len(shown) * (height + GAP) + GAP
    size = GAP + len(columns) * (WIDTH + GAP), text + (1 + len(lines)) * LINE + GAP
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for column, (title, pictures) in enumerate(zip(titles, columns, strict=True)):
        x = GAP + column * (WIDTH + GAP)
        draw.text((x, 6), title, fill=INK, font=font)
        for row, pixels in enumerate(pictures):
            # Cells of the words are to be seen as such.
            how = Image.Resampling.BICUBIC if column < len(TITLES) else Image.Resampling.NEAREST
            sheet.paste(Image.fromarray(pixels).resize((WIDTH, height), how), (x, HEAD + row * (height + GAP)))
    for number, line in enumerate((RULE, *lines)):
        draw.text((GAP, text + number * LINE), line, fill=INK if number else PALE, font=font)
    return np.asarray(sheet)


def _disparities(held_out: HeldOut, after: Sequence[DepthPrediction], shown: Sequence[int]) -> list[list[Pixels]]:
    """Return the true and the learned disparity of frames, in colours of one scale for each frame."""
    truths, learned = [], []
    for index in shown:
        depth, valid = held_out.depth[index, 0], held_out.valid[index, 0]
        said = after[index].depth[0].cpu()
        said = said * (median(depth[valid]) / median(said[valid]))
        truth = torch.where(valid, 1 / depth, 0.0)
        high = float(truth[valid].quantile(0.95))
        truths.append(colorize(truth, 0.0, high))
        learned.append(colorize(1 / said, 0.0, high))
    return [truths, learned]


def _words(predictions: Sequence[DepthPrediction], shown: Sequence[int]) -> list[Pixels]:
    """Return the mean word of every cell of frames, in colours of one scale."""
    near = torch.stack([_nearness(prediction) for prediction in predictions])
    low, high = (float(near.quantile(share)) for share in (0.05, 0.95))
    return [colorize(near[index], low, high) for index in shown]


def _nearness(prediction: DepthPrediction) -> Tensor:
    """Return minus the mean index of the words under a softmax, (h, w)."""
    assert prediction.words is not None  # they were asked for
    return -word_positions(prediction.words.logits.cpu().movedim(0, -1))
