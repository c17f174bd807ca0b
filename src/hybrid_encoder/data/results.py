"""The files that hold predictions: their names, the mark by which they are known again, and how they are written."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hybrid_encoder.data.opening import is_file, is_there, opened
from hybrid_encoder.errors import InputError
from hybrid_encoder.writing import replace_files

COLOURS, WORDS = "_depth.png", "_words.png"
VIDEO = "_depth.mp4"
FRAMES = "_frames"  # a folder: the results of a video's frames
# All that may stand after the stem of a picture.
ENDINGS = (
    *(COLOURS, WORDS, "_relative_depth.npy", "_depth_m.npy", "_points.ply", "_points.glb"),
    *("_depth_m_x256.png", "_disparity_x65535.png"),
)

KEY, MARK = "Software", "hybrid-encoder predict"
HEADER = 256  # bytes before the numbers of a .npy file, where numpy writes 128: a mark that no reader minds
HEAD = 4096  # bytes of a point cloud's file among which its comment is


def is_result(path: Path) -> bool:
    """Say whether a file was written here as a prediction, whatever its name and wherever it is: each has a mark."""
    from hybrid_encoder.data.video import is_video, video_comment

    if is_video(path):
        return video_comment(path) == MARK
    try:
        if path.suffix.lower() in (".npy", ".ply", ".glb"):
            head = _head(path)
            return MARK.encode() in head or head.startswith(_start_of_numbers())
        with opened(path, sys.maxsize, ("PNG",)) as image:
            return image.info.get(KEY) == MARK
    except (InputError, OSError):
        return False


def _head(path: Path) -> bytes:
    if not is_file(path):
        return b""
    with open(path, "rb") as file:
        return file.read(HEAD)


def check_foreign(targets: Iterable[Path], advice: str = "choose another folder") -> None:
    """Raise InputError where a person's file stands in the place of a result."""
    foreign = [path for path in targets if (is_there(path) or path.is_symlink()) and not is_result(path)]
    if foreign:
        raise InputError(
            f"{enumerated(foreign)} would be replaced, or taken for results, and {'were' if foreign[1:] else 'was'} "
            f"not written as a prediction; {advice}."
        )


@contextmanager
def written_together(output: Path) -> Iterator[Path]:
    """Give a folder to write files into; they are moved to the output folder once all of them are whole."""
    with tempfile.TemporaryDirectory(dir=output, prefix=".predicting-") as staging:
        yield Path(staging)
        names = sorted(file.name for file in Path(staging).iterdir())
        replace_files(Path(staging), output, names, durable=False)


def write_marked_png(path: Path, pixels: NDArray[Any]) -> None:
    """Write uint8 (H, W, 3) or uint16 (H, W) to a PNG file that says where it is from."""
    info = PngInfo()
    info.add_text(KEY, MARK)
    # Level 1 takes a third of the default's time, and a tenth more bytes.
    Image.fromarray(pixels).save(path, format="PNG", pnginfo=info, compress_level=1)


def write_array(path: Path, array: NDArray[np.float32]) -> None:
    """Write numbers to a ``.npy`` file; unlike numpy's own way, a full disk is told as such."""
    array = np.ascontiguousarray(array, "<f4")
    with open(path, "wb") as file:
        file.write((_start_of_numbers() + f", 'shape': {array.shape}, }}".encode()).ljust(HEADER - 1) + b"\n")
        file.write(array.data)


def _start_of_numbers() -> bytes:
    """Return how a ``.npy`` file of ours begins: version 1.0, the length of the header, and the kind of numbers."""
    return b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + b"{'descr': '<f4', 'fortran_order': False"


def enumerated(paths: Sequence[Path], limit: int = 10) -> str:
    """Return paths as a sentence names them; of many, the first ones and the number of the rest."""
    shown = [os.fspath(path) for path in paths[:limit]]
    rest = [f"{len(paths) - limit} more"] if len(paths) > limit else []
    *first, last = shown + rest
    return f"{', '.join(first)} and {last}" if first else last
