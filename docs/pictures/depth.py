"""Draws depth.jpg, the picture of the README: real frames beside what `model.infer` makes of them.

python docs/pictures/depth.py STREET_PHOTOGRAPH DRIVING_FRAME docs/pictures/depth.jpg

ATTRIBUTION.txt says whose pictures these are. tests/test_pictures.py cuts the frames out of the result, runs the code
of the README on them, and compares.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.data.images import open_image
from hybrid_encoder.writing import write_whole

WIDTH, GAP = 416, 6  # pixels: of a frame, and between frames


def draw(frames: list[Path]) -> Image.Image:
    """Return a row for each frame: shrunk on the left, its depth on the right, near bright."""
    model = HybridDepthModel.from_pretrained("tiny")
    rows = []
    for path in frames:
        frame = open_image(path)
        frame = frame.resize((WIDTH, round(WIDTH * frame.height / frame.width)), Image.Resampling.LANCZOS)
        gap = np.full((frame.height, GAP, 3), 255, np.uint8)
        rows.append(np.hstack([np.asarray(frame), gap, model.infer(frame).colored()]))
    gap = np.full((GAP, 2 * WIDTH + GAP, 3), 255, np.uint8)
    return Image.fromarray(np.vstack([part for row in rows for part in (gap, row)][1:]))


def main(*paths: str) -> None:
    *frames, output = map(Path, paths)
    file = io.BytesIO()
    draw(frames).save(file, "JPEG", quality=92, subsampling=0)
    write_whole(output, file.getvalue())


if __name__ == "__main__":
    main(*sys.argv[1:])
