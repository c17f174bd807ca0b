"""Find and read image files, colour maps such as disparity, and write results."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError
from torch import Tensor

from hybrid_encoder.config import MIN_SIZE
from hybrid_encoder.errors import InputError
from hybrid_encoder.writing import write_whole

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
Pixels = NDArray[np.uint8]


def open_image(path: Path) -> Image.Image:
    """Open an image file as RGB, turned upright as its EXIF data say.

    Raises:
        InputError: the file does not exist, is not an image, is cut off, or is smaller than 32 pixels.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path.") from None
    except UnidentifiedImageError:
        raise InputError(f"{path} is not an image that Pillow can read; give a JPEG, PNG or similar.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image ({error}); save it again.") from None
    if min(upright.size) < MIN_SIZE:
        raise InputError(
            f"{path} is {upright.height} x {upright.width}; height and width must be at least {MIN_SIZE}: resize it up."
        )
    return upright


def read_image(path: Path) -> Tensor:
    """Read an image file as RGB in [0, 1], float32, (3, H, W).

    Raises:
        InputError: as ``open_image``.
    """
    return torch.from_numpy(np.array(open_image(path))).permute(2, 0, 1).float() / 255


def find_images(inputs: Sequence[str]) -> list[Path]:
    """List the image files that paths, folders and globs name, in order, each once.

    Raises:
        InputError: an input does not exist or names no file.
    """
    found: dict[Path, None] = {}
    for text in inputs:
        path = Path(text).expanduser()
        if path.is_dir():
            hits = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not hits:
                raise InputError(f"{path} holds no images ({', '.join(SUFFIXES)}); name another folder.")
        elif path.exists():
            hits = [path]
        elif any(sign in text for sign in "*?["):
            base = Path(path.anchor) if path.is_absolute() else Path()
            hits = sorted(base.glob(str(path.relative_to(base))))
            if not hits:
                raise InputError(f"{text!r} matches no file; check the pattern.")
        else:
            raise InputError(f"{path} does not exist; give an image, a folder or a glob.")
        found.update(dict.fromkeys(hits))
    return list(found)


def colorize(values: Tensor, low: float | None = None, high: float | None = None, name: str = "magma") -> Pixels:
    """Convert a map (H, W) to colours, uint8, (H, W, 3); with the default colours, high values are bright.

    Args:
        values: finite numbers.
        low, high: values at the two ends of the colour map; by default the least value and the 95th percentile, as
            Monodepth2 shows disparity.
        name: of matplotlib's colour map.
    """
    import matplotlib

    array = values.detach().float().cpu().numpy()
    low = float(array.min()) if low is None else low
    high = float(np.percentile(array, 95)) if high is None else high
    scaled = np.clip((array - low) / max(high - low, 1e-12), 0, 1)
    coloured: Any = matplotlib.colormaps[name](scaled)
    pixels: Pixels = (coloured[..., :3] * 255).round().astype(np.uint8)
    return pixels


def to_pixels(image: Tensor) -> Pixels:
    """Convert RGB in [0, 1], (3, H, W), to uint8, (H, W, 3)."""
    array: Pixels = (image.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return array


def write_png(path: Path, pixels: NDArray[Any]) -> None:
    """Write uint8 (H, W, 3) or uint16 (H, W) to a PNG file, whole or not at all."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    write_whole(path, buffer.getvalue())


def write_npy(path: Path, array: NDArray[Any]) -> None:
    """Write an array to a ``.npy`` file, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_whole(path, buffer.getvalue())


def contact_sheet(rows: Sequence[Sequence[Pixels]], titles: Sequence[str]) -> Pixels:
    """Arrange images of one size, (H, W, 3) each, in rows and columns, with a title over each column."""
    height, width = rows[0][0].shape[:2]
    gap, head = 4, 18  # pixels between images, and for the titles
    sheet = Image.new(
        "RGB",
        (len(titles) * (width + gap) - gap, head + len(rows) * (height + gap) - gap),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((column * (width + gap) + 2, 3), title, fill="black")
        for row, images in enumerate(rows):
            sheet.paste(Image.fromarray(images[column]), (column * (width + gap), head + row * (height + gap)))
    return np.asarray(sheet)
