"""Draws streets.png: frames of varied streets, one for each seed.

python docs/images/streets.py docs/images/streets.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from hybrid_encoder.data import StreetDrive
from hybrid_encoder.data.images import contact_sheet, to_pixels, write_png

SEEDS = (1, 109, 2, 106, 3, 11, 101, 5, 114, 13, 120, 121)


def main(output: str) -> None:
    images = [to_pixels(torch.from_numpy(StreetDrive(seed)[2].image)) for seed in SEEDS]
    rows = [images[start : start + 3] for start in range(0, len(images), 3)]
    write_png(Path(output), contact_sheet(rows, ("one frame of", "twelve", "streets")))


if __name__ == "__main__":
    main(*sys.argv[1:])
