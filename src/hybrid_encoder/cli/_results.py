"""The files that ``predict`` writes: told from those of a person, and written whole or not at all."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hybrid_encoder.data.opening import is_there, opened
from hybrid_encoder.errors import InputError

COLOURS = "_depth.png"
ARRAYS = ("_relative_depth.npy", "_depth_m.npy")
ENDINGS = (COLOURS, *ARRAYS, "_depth_m_x256.png", "_disparity_x65535.png")  # after the stem of the image

# PNG results carry this text, by which they are known again. An array belongs to the coloured map beside it.
KEY, MARK = "Software", "hybrid-encoder predict"
MAX_NAME = 255  # bytes of a file's name, on all common file systems


def is_result(path: Path) -> bool:
    """Say whether ``predict`` has written this file."""
    for ending in ARRAYS:
        if path.name.endswith(ending):
            path = path.with_name(path.name.removesuffix(ending) + COLOURS)
    try:
        with opened(path, sys.maxsize, ("PNG",)) as image:
            return image.info.get(KEY) == MARK
    except InputError:
        return False


def check_targets(images: Sequence[Path], output: Path) -> None:
    """Check that results have names of their own, and replace nothing but earlier results.

    Raises:
        InputError: two images with results of the same name, a name that is too long, or a file of a person where a
            result would be.
    """
    stems: dict[str, Path] = {}
    foreign: list[Path] = []
    for image in images:
        other = stems.setdefault(image.stem, image)
        if other is not image:
            raise InputError(f"{other} and {image} would be written to the same files; give one at a time.")
        targets = [output / (image.stem + ending) for ending in ENDINGS]
        longest = max(len(os.fsencode(target.name)) for target in targets)
        if longest > MAX_NAME:
            raise InputError(
                f"results of {image} would have names of {longest} bytes, more than {MAX_NAME}; give it a shorter name."
            )
        foreign += [target for target in targets if (is_there(target) or target.is_symlink()) and not is_result(target)]
    if foreign:
        raise InputError(
            f"{_enumerate(foreign)} would be replaced, or taken for results, and {_were(foreign)} not written by an "
            "earlier predict; give another --output."
        )


def refuse_damaged(damaged: Sequence[tuple[Path, InputError]], total: int) -> None:
    """Raise one InputError for all images that cannot be read, if there are any."""
    if len(damaged) == 1:
        raise damaged[0][1]
    if damaged:
        raise InputError(
            f"{len(damaged)} of {total} images cannot be used: {_enumerate([path for path, _ in damaged])}; the first "
            f"because {damaged[0][1]}"
        )


@contextmanager
def written_together(output: Path) -> Iterator[Path]:
    """Give a folder to write files into; they are moved to the output folder once all of them are whole."""
    with tempfile.TemporaryDirectory(dir=output, prefix=".predicting-") as staging:
        yield Path(staging)
        for file in sorted(Path(staging).iterdir()):  # a coloured map comes before its array
            os.replace(file, output / file.name)


def write_marked_png(path: Path, pixels: NDArray[Any]) -> None:
    """Write uint8 (H, W, 3) or uint16 (H, W) to a PNG file that says where it is from."""
    info = PngInfo()
    info.add_text(KEY, MARK)
    Image.fromarray(pixels).save(path, format="PNG", pnginfo=info)


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array to a ``.npy`` file; unlike numpy's own way, a full disk is told as such."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    path.write_bytes(buffer.getbuffer())


def _enumerate(paths: Sequence[Path], limit: int = 10) -> str:
    shown = [str(path) for path in paths[:limit]]
    rest = [f"{len(paths) - limit} more"] if len(paths) > limit else []
    *first, last = shown + rest
    return f"{', '.join(first)} and {last}" if first else last


def _were(paths: Sequence[Path]) -> str:
    return "were" if len(paths) > 1 else "was"
