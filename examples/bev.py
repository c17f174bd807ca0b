"""A bird's-eye view from six cameras: trained on rendered drives, drawn beside the truth.

python examples/bev.py

That trains for some minutes on a CPU, and writes bev.png. Weights of `hybrid-encoder train-bev` are drawn at once:

python examples/bev.py --weights runs/bev/final
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from PIL import Image, ImageDraw
from rich.console import Console
from torch import Tensor

from hybrid_encoder import BevConfig, BevModel, HybridEncoderError
from hybrid_encoder.bev import BevGrid, find_centres
from hybrid_encoder.cli.options import parse_size
from hybrid_encoder.data import SyntheticSurround
from hybrid_encoder.data.images import Pixels, to_pixels, write_png
from hybrid_encoder.training import BEV, SurroundMaps, bev_model, start_scale, train_bev

TRAINING, HELD_OUT = 6_000_000, 7_000_000  # first seeds
# As one sees them from the vehicle: the cameras ahead above, those to the back below, left on the left.
LAYOUT = (("front_left", 1), ("front", 0), ("front_right", 2)), (("back_left", 4), ("back", 3), ("back_right", 5))
GROUND, ROAD, VEHICLE, TRUTH = (232, 232, 226), (150, 156, 166), (214, 72, 38), (20, 20, 20)
GAP, HEAD, CELL, WIDTH = 8, 20, 7, 400  # pixels: between tiles, for titles, of a cell, of an image


def train(folder: Path, steps: int, drives: int, size: tuple[int, int]) -> BevModel:
    """Train a bird's-eye view on the depth model that ships with the package, as train-bev does."""
    set_seed(0)
    config = BevConfig.preset("tiny").replace(cell=1.0, far=36.0, num_depths=36)
    model = bev_model("tiny", config, "hybrid-disparity")
    items = SurroundMaps([SyntheticSurround(TRAINING + k, 2, *size) for k in range(drives)], model.grid)
    start_scale(model, [items[k] for k in range(min(8, len(items)))])
    recipe = dataclasses.replace(BEV["small"], steps=steps, size=size)
    final = train_bev(model, items, folder, recipe, console=Console())
    if final is None:  # SIGTERM came
        sys.exit(1)
    return BevModel.from_pretrained(final)


def draw_map(grid: BevGrid, road: Tensor, vehicle: Tensor) -> Image.Image:
    """Draw maps from 0 to 1, (X, Y) each, seen from above: ahead is up, left is left."""
    colours = torch.tensor([GROUND, ROAD, VEHICLE]).float()
    pixels = colours[0].expand(*grid.shape, 3)
    for share, colour in ((road, colours[1]), (vehicle, colours[2])):
        pixels = pixels + share[..., None] * (colour - pixels)
    upright = pixels.flip(0, 1).round().byte().numpy()
    drawn = Image.fromarray(upright).resize((grid.shape[1] * CELL, grid.shape[0] * CELL), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(drawn)
    own = [place(grid, x, y) for x, y in ((2.2, 0.9), (2.2, -0.9), (-2.2, -0.9), (-2.2, 0.9))]
    draw.polygon(own, fill=(40, 90, 200), outline="white")
    return drawn


def place(grid: BevGrid, x: float, y: float) -> tuple[float, float]:
    """Return the pixel of a point of the ground."""
    return (grid.y_range[1] - y) / grid.cell * CELL, (grid.x_range[1] - x) / grid.cell * CELL


def draw_boxes(drawn: Image.Image, grid: BevGrid, boxes: Tensor) -> None:
    """Draw the outlines of boxes (M, 7)."""
    draw = ImageDraw.Draw(drawn)
    for x, y, _, length, width, _, yaw in boxes.tolist():
        cos, sin = np.cos(yaw), np.sin(yaw)
        corners = [(length / 2 * a, width / 2 * b) for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))]
        draw.polygon([place(grid, x + cos * a - sin * b, y + sin * a + cos * b) for a, b in corners], outline=TRUTH)


@torch.no_grad()
def draw_scene(model: BevModel, drive: SyntheticSurround) -> Pixels:
    """Draw the six images of a drive's first frame, the truth, and what the model says."""
    items = SurroundMaps([drive], model.grid)
    item, boxes, grid = items[0], items.boxes(0), model.grid
    given = item.depth[None] if model.config.depth == "exact" else None
    maps = model.eval()(item.images[None], item.K[None], item.vehicle_T_cam[None], given)
    truth = draw_map(grid, item.road[0], item.vehicle[0])
    result = draw_map(grid, maps["road"][0, 0].sigmoid(), maps["vehicle"][0, 0].sigmoid())
    for drawn in (truth, result):
        draw_boxes(drawn, grid, boxes)
    draw = ImageDraw.Draw(result)
    for x, y in find_centres(maps["centre"], grid, threshold=0.3)[0].centres.tolist():
        u, v = place(grid, x, y)
        draw.line([(u - 4, v), (u + 4, v)], fill="black", width=2)
        draw.line([(u, v - 4), (u, v + 4)], fill="black", width=2)

    height = WIDTH * item.images.shape[-2] // item.images.shape[-1]
    left = 3 * (WIDTH + GAP)
    sheet = Image.new("RGB", (left + 2 * (truth.width + GAP), HEAD + max(2 * (HEAD + height), truth.height)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, cameras in enumerate(LAYOUT):
        for column, (name, index) in enumerate(cameras):
            image = Image.fromarray(to_pixels(item.images[index])).resize((WIDTH, height), Image.Resampling.BICUBIC)
            corner = column * (WIDTH + GAP), HEAD + row * (height + HEAD)
            draw.text((corner[0] + 2, corner[1] - 15), name.replace("_", " "), fill="black")
            sheet.paste(image, corner)
    for column, (title, drawn) in enumerate((("truth", truth), ("result, truth outlined", result))):
        corner = left + column * (drawn.width + GAP), HEAD
        draw.text((corner[0] + 2, corner[1] - 15), title, fill="black")
        sheet.paste(drawn, corner)
    return np.asarray(sheet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="of train-bev: a folder or a Hub id; by default, it is trained here")
    parser.add_argument("--steps", type=int, default=800, help="to train here")
    parser.add_argument("--drives", type=int, default=100, help="synthetic drives to train on here")
    parser.add_argument("--size", default="64x176", help="HEIGHTxWIDTH of the images; what the weights are used to")
    parser.add_argument("--output", type=Path, default=Path("runs/bev_example"), help="of the run: a new folder")
    parser.add_argument("--picture", type=Path, default=Path("bev.png"))
    parser.add_argument("--scenes", type=int, default=3, help="how many are drawn, none of them trained on here")
    options = parser.parse_args()
    size = parse_size(options.size)
    if options.weights is None:
        model = train(options.output, options.steps, options.drives, size)
    else:
        model = BevModel.from_pretrained(options.weights)
    scenes = [draw_scene(model, SyntheticSurround(HELD_OUT + k, 1, *size)) for k in range(options.scenes)]
    write_png(options.picture, np.concatenate(scenes))
    print(f"picture -> {options.picture}")


if __name__ == "__main__":
    try:
        main()
    except (HybridEncoderError, OSError) as error:  # a setting that cannot be, a full disk: one sentence is enough
        sys.exit(f"error: {error}")
