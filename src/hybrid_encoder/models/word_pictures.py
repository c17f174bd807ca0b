"""What the words say, to look at: the most similar prompt of every place, and which colour is which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from hybrid_encoder.data.images import Pixels, colorize, drawable, to_pixels
from hybrid_encoder.errors import InputError

if TYPE_CHECKING:
    from hybrid_encoder.models.words import DepthWords

LONGEST = 960  # pixels of the longer side of the picture in the drawing
MOST_ROWS = 16  # of the legend; of more prompts a row stands for several
DARKEST, BRIGHTEST = 0.12, 0.97  # of a colour map, for far and near: black would be lost on a picture
OPACITY = 0.85  # of a square: the picture shows through, and the colour is still that of the legend
# Side of a square, as a share of the cell's: where all prompts are alike, and where one is sure.
SMALLEST, LARGEST = 0.3, 0.96
FONT, LINE, SWATCH, MARGIN, COLUMN = 15, 21, 15, 12, 16  # pixels
INK, PALE = (20, 20, 20), (110, 110, 110)


@dataclass(frozen=True)
class LegendRow:
    """One line of the legend.

    Args:
        name: of its prompt, or of the first and the last one.
        depth: that they stand for, as text.
        share: of the cells, in [0, 1].
        colour: RGB.
    """

    name: str
    depth: str
    share: float
    colour: tuple[int, int, int]


def draw_words(words: DepthWords, size: tuple[int, int] | None = None, colormap: str = "magma") -> Pixels:
    """Draw the most similar prompt of every cell over the picture, and which colour is which below it.

    Every cell has a square of its prompt's colour, the larger the surer the prompt is (its share under a softmax, from
    that of a guess to 1).

    Args:
        words: of one picture.
        size: (H, W) of the picture, whose aspect the drawing has; by default that of ``words.image``.
        colormap: name of one of matplotlib's; near is at its upper end.

    Returns:
        uint8, (h, w, 3): the picture with its longer side at 960 pixels, and the legend.

    Raises:
        InputError: a batch; a colour map that does not exist.
    """
    if words.is_batch:
        raise InputError(f"these are words of {len(words.logits)} pictures; draw those of one: draw_words(words[0]).")
    height, width = (words.image.shape[-2], words.image.shape[-1]) if size is None else size
    scale = LONGEST / max(height, width)
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    grey = Image.fromarray(to_pixels(words.image)).convert("L").resize(shape, Image.Resampling.BICUBIC)
    drawn = Image.composite(_squares(words, shape, colormap), grey.convert("RGB"), _squares(words, shape))
    legend = _legend(words, legend_rows(words, colormap), max(shape[0], 320))
    sheet = Image.new("RGB", (max(shape[0], legend.width), shape[1] + legend.height), "white")
    sheet.paste(drawn, (0, 0))
    sheet.paste(legend, (0, shape[1]))
    return np.asarray(sheet)


def _squares(words: DepthWords, shape: tuple[int, int], colormap: str | None = None) -> Image.Image:
    """Return the squares in their colours, or without a colour map their opacity, at a size (W, H)."""
    chosen = words.nearest_prompt.cpu().numpy()
    guess = 1 / len(words.bins)
    sure = ((words.confidence.float().cpu().numpy() - guess) / (1 - guess)).clip(0, 1)
    sides = SMALLEST + (LARGEST - SMALLEST) * sure
    width, height = shape[0] / chosen.shape[1], shape[1] / chosen.shape[0]
    colours = None if colormap is None else _prompt_colours(len(words.bins), colormap)
    drawn = Image.new("L" if colours is None else "RGB", shape)
    draw = ImageDraw.Draw(drawn)
    for (row, column), side in np.ndenumerate(sides):
        across, down = side * width / 2, side * height / 2
        x, y = (column + 0.5) * width, (row + 0.5) * height
        ink = round(255 * OPACITY) if colours is None else tuple(int(value) for value in colours[chosen[row, column]])
        draw.rectangle((round(x - across), round(y - down), round(x + across) - 1, round(y + down) - 1), fill=ink)
    return drawn


def legend_rows(words: DepthWords, colormap: str = "magma") -> list[LegendRow]:
    """Return what the colours of a drawing mean, near before far: a prompt in a row, or several where there are many.

    Args:
        words: of one picture.
        colormap: as for :func:`draw_words`.
    """
    count = len(words.bins)
    colours = _prompt_colours(count, colormap)
    shares = np.bincount(words.nearest_prompt.cpu().flatten().numpy(), minlength=count)
    found = []
    for part in np.array_split(np.arange(count), min(count, MOST_ROWS)):
        first, last = int(part[0]), int(part[-1])
        name, depth = words.names[first], _number(float(words.bins[first]))
        if last > first:
            name = f"{name} to {words.names[last].removeprefix('prompt ')}"
            depth = f"{depth} to {_number(float(words.bins[last]))}"
        red, green, blue = (int(value) for value in colours[(first + last) // 2])
        share = float(shares[part].sum() / shares.sum())
        found.append(LegendRow(name, f"{depth} m" if words.metric else depth, share, (red, green, blue)))
    return found


def _prompt_colours(count: int, colormap: str) -> Pixels:
    """Return a colour for every prompt, near before far, (n, 3)."""
    near_to_far = torch.linspace(BRIGHTEST, DARKEST, count)[None]
    colours: Pixels = colorize(near_to_far, 0, 1, colormap)[0]
    return colours


def _legend(words: DepthWords, rows: list[LegendRow], width: int) -> Image.Image:
    """Return the legend: its rows in as many columns as a width has room for, near at the upper left."""
    font = ImageFont.load_default(FONT)
    unit = "in metres" if words.metric else "relative"
    heads = [
        f'Most similar prompt of each cell: "{words.template.replace("{}", "...")}"',
        f"from near to far, the depth that it stands for ({unit}), its share of the cells; small where unsure",
    ]
    lines = [line for head in heads for line in _wrapped(drawable(head), font, width - 2 * MARGIN)]
    texts = [(drawable(row.name), row.depth, f"{row.share:.0%}") for row in rows]
    widest = [max(font.getlength(text[column]) for text in texts) for column in range(3)]
    starts = np.cumsum([SWATCH + 8, widest[0] + COLUMN, widest[1] + COLUMN])
    block = int(starts[-1] + widest[2]) + 2 * COLUMN
    columns = max(1, min((width - 2 * MARGIN + 2 * COLUMN) // block, len(rows)))
    deep = -(-len(rows) // columns)
    shape = max(width, block + 2 * MARGIN), 2 * MARGIN + LINE * (len(lines) + deep) + 4
    legend = Image.new("RGB", shape, "white")
    draw = ImageDraw.Draw(legend)
    y = MARGIN
    for line in lines:
        draw.text((MARGIN, y), line, fill=INK, font=font)
        y += LINE
    for index, (row, text) in enumerate(zip(rows, texts, strict=True)):
        x, top = MARGIN + index // deep * block, y + 4 + index % deep * LINE
        draw.rectangle((x, top + 2, x + SWATCH, top + 2 + SWATCH), fill=row.colour, outline=PALE)
        for start, part, ink in zip(starts, text, (INK, PALE, PALE), strict=True):
            draw.text((x + int(start), top), part, fill=ink, font=font)
    return legend


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Return a text in lines that are not wider than this, as far as its words allow."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _number(depth: float) -> str:
    """Return a depth as a person writes it: three digits that count, and no exponent where none is needed."""
    return f"{depth:.3g}" if depth < 1000 else f"{depth:,.0f}"
