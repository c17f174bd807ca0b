"""NYU Depth v2 as a test set: the 654 test images as the published code lays them out, and their depth in one file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybrid_encoder.data.images import open_image
from hybrid_encoder.data.kitti_files import read_text
from hybrid_encoder.data.opening import expanded, is_file
from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.depth_archives import read_depth_archive
from hybrid_encoder.evaluation.samples import Sample

SIZE = (480, 640)  # (H, W) of depth, which the protocol's crop is for


def nyu_samples(root: str | Path, split: str | Path, depths: str | Path | None = None) -> list[Sample]:
    """List the test images of a split with their ground truth, in order.

    Args:
        root: the folder that the split's folders are in, ``<root>/color/0001.png`` and so on, 640 x 480 as published.
        split: a text file with lines ``color <number> l``, such as the published ``splits/nyu/test_files.txt``.
        depths: ``gt_depths.npz`` with a map for each line; by default the one beside the split.

    Raises:
        InputError: a line that is malformed, an image that does not exist, what :func:`read_depth_archive` raises,
            another number of maps than of lines, or a map that is not of 480 x 640.
    """
    root, split = expanded(root), expanded(split)
    if not is_file(split):
        raise InputError(f"{split} does not exist; give a text file with lines such as 'color 0001 l'.")
    archive = split.parent / "gt_depths.npz" if depths is None else expanded(depths)
    files = []
    for number, line in enumerate(read_text(split).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) not in (2, 3) or not words[1].isdecimal():
            raise InputError(f"{split}, line {number}: {line.strip()!r} is no image; write lines like 'color 0001 l'.")
        file = root / words[0] / f"{int(words[1]):04d}.png"
        if not is_file(file):
            raise InputError(f"{split}, line {number}: {file} does not exist; complete the data set.")
        files.append(file)
    if not files:
        raise InputError(f"{split} lists no image; write lines like 'color 0001 l'.")
    maps = read_depth_archive(archive)
    if len(maps) != len(files):
        raise InputError(
            f"{archive} holds {len(maps)} depth maps, and {split} lists {len(files)} images; give the two that belong "
            "together."
        )
    for index, depth in enumerate(maps):
        if depth.shape != SIZE:
            raise InputError(f"{archive} holds {depth.shape} at place {index}; depth of NYU Depth v2 is 480 x 640.")
    return [
        Sample(f"{file.parent.name} {file.stem}", index, partial(_image, file), partial(np.array, depth), file=file)
        for index, (file, depth) in enumerate(zip(files, maps, strict=True))
    ]


def _image(file: Path) -> NDArray[np.uint8]:
    return np.asarray(open_image(file))
