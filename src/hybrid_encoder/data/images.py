"""Read image files, colour maps such as disparity, and write results."""

from __future__ import annotations

import difflib
import io
import math
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageDraw, ImageOps
from torch import Tensor

from hybrid_encoder.config import MIN_SIZE
from hybrid_encoder.config.checking import shown
from hybrid_encoder.data.opening import MAX_PIXELS, expanded, opened, read_exif
from hybrid_encoder.errors import InputError
from hybrid_encoder.writing import write_whole

Pixels = NDArray[np.uint8]
BLOCK = 256  # rows that are coloured at once
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of TIFF files


def open_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open an image file as RGB of 8 bits, turned upright as its EXIF data say.

    Grey becomes RGB, 16 bits become value / 257, and what is transparent keeps the colour that is stored under it. Of
    several frames or pages, the first is read.

    Args:
        path: of a JPEG, PNG, BMP, WebP, TIFF or PPM file, whatever its name ends in.
        max_pixels: an image with more is refused before it is decoded.

    Raises:
        InputError: the file does not exist, is no such image, is damaged, is smaller than 32 pixels or larger than the
            limit, or holds grey values of 32 bits, of which nothing says what is white.
    """
    with opened(path, max_pixels) as image:
        upright = _upright(path, image)
        if upright.mode == "F":
            upright = Image.fromarray(np.asarray(upright).round().astype(np.uint8))
        return upright.convert("RGB")


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read an image file as RGB in [0, 1], float32, (3, H, W); grey of 16 bits keeps all of them.

    Args:
        path, max_pixels: as for ``open_image``.

    Raises:
        InputError: as ``open_image``.
    """
    with opened(path, max_pixels) as image:
        return _as_tensor(_upright(path, image))


def check_image(path: Path, max_pixels: int = MAX_PIXELS) -> None:
    """Look whether an image file can be read, in a fraction of the time that this takes.

    Of a PNG the check sums are compared, and of a JPEG everything is decoded at an eighth of its size. A file that was
    made to deceive may pass.

    Args:
        path, max_pixels: as for ``open_image``.

    Raises:
        InputError: as ``open_image``.
    """
    with opened(path, max_pixels) as image:
        _check_kind(path, image)
        if image.format == "PNG":
            image.verify()
        else:
            image.draft(None, (1, 1))
            image.load()


def image_size(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (H, W) of an image file, turned upright as its EXIF data say.

    Args:
        path, max_pixels: as for ``open_image``.

    Raises:
        InputError: as ``open_image``.
    """
    with opened(path, max_pixels) as image:
        width, height = image.size
        return (width, height) if _is_turned(read_exif(image)) else (height, width)


def _is_turned(exif: Image.Exif) -> bool:
    """Say whether height and width change places when a picture is turned upright."""
    return exif.get(ExifTags.Base.Orientation) in (5, 6, 7, 8)


def convert_image(image: Image.Image) -> Tensor:
    """Convert one of Pillow's images to RGB in [0, 1], float32, (3, H, W), by the rules of ``read_image``.

    Raises:
        InputError: smaller than 32 pixels, damaged, or grey of 32 bits.
    """
    name = getattr(image, "filename", "") or "the PIL image"
    try:
        return _as_tensor(_upright(name, image, keep=True))
    except OSError as error:  # it is decoded only now
        raise InputError(f"{name} cannot be read ({error}); save it again.") from None


def _as_tensor(upright: Image.Image) -> Tensor:
    if upright.mode == "F":
        return torch.from_numpy(np.array(upright)).div_(255).expand(3, -1, -1).contiguous()
    pixels = torch.from_numpy(np.array(upright if upright.mode == "RGB" else upright.convert("RGB")))
    return pixels.permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _upright(name: Path | str, image: Image.Image, keep: bool = False) -> Image.Image:
    """Decode an image and turn it upright; grey of 16 bits comes as floats from 0 to 255, mode "F".

    Args:
        name: what errors call it.
        image: changed itself, unless it is to be kept.
        keep: leave it as it is. A copy would not know its tags and its format.
    """
    _check_kind(name, image)
    tags = getattr(image, "tag_v2", {})  # of TIFF
    read_exif(image)
    if keep:
        image = ImageOps.exif_transpose(image)
    else:
        ImageOps.exif_transpose(image, in_place=True)
    if not image.mode.startswith("I"):
        return image
    white = 4095 if tags.get(BITS_PER_SAMPLE) == (12,) else 65535
    values = np.array(image, np.float32)
    if tags.get(PHOTOMETRIC) == 0:  # white is 0
        values = white - values
    return Image.fromarray(values / np.float32(white / 255))


def _check_kind(name: Path | str, image: Image.Image) -> None:
    """Raise InputError for an image that is too small, or whose values say nothing."""
    if min(image.size) < MIN_SIZE:
        raise InputError(
            f"{name} is {image.height} x {image.width}; height and width must be at least {MIN_SIZE}: resize it up."
        )
    # Older versions of Pillow read 16 bits of PNG and PPM as 32.
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise InputError(
            f"{name} holds grey values of 32 bits, of which nothing says what is white; save it with 8 or 16 bits."
        )


def field_of_view(source: object, max_pixels: int = MAX_PIXELS) -> float | None:
    """Return the horizontal field of view, in degrees, that the EXIF data of a picture tell; None where they do not.

    They hold the focal length of a camera for 36 mm film that sees as much, along the longer side of the picture.

    Args:
        source: a path or a PIL image; anything else has no EXIF data.
        max_pixels: of a file, as for ``open_image``.

    Raises:
        InputError: the file cannot be read.
    """
    if isinstance(source, Image.Image):
        image = source
        exif, size = read_exif(image), image.size
    elif isinstance(source, (str, Path)):
        with opened(expanded(source), max_pixels) as image:
            exif, size = read_exif(image), image.size
    else:
        return None
    try:
        focal = float(exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.FocalLengthIn35mmFilm) or 0)
    except (TypeError, ValueError):
        return None
    if not 1 <= focal <= 10_000:
        return None
    width = size[1] if _is_turned(exif) else size[0]
    return math.degrees(2 * math.atan(36 / 2 / focal * width / max(size)))


def colorize(values: Tensor, low: float | None = None, high: float | None = None, name: str = "magma") -> Pixels:
    """Convert a map (H, W) to colours, uint8, (H, W, 3); with the default colours, high values are bright.

    Args:
        values: finite numbers.
        low, high: values at the two ends of the colour map; by default the least value and the 95th percentile, as
            Monodepth2 shows disparity.
        name: of matplotlib's colour map.

    Raises:
        InputError: matplotlib has no such colour map.
    """
    table = _colours(name)
    array = values.detach().float().cpu().numpy()
    low = float(array.min()) if low is None else low
    high = float(np.percentile(array, 95)) if high is None else high
    scale = np.float32(min(max(high - low, 1e-12), 1e38))
    pixels = np.empty((*array.shape, 3), np.uint8)
    for rows in range(0, len(array), BLOCK):  # a photograph as a whole would take several times its memory
        scaled = (array[rows : rows + BLOCK] - np.float32(low)) / scale * len(table)
        pixels[rows : rows + BLOCK] = table[np.clip(scaled, 0, len(table) - 1).astype(np.uint16)]
    return pixels


def check_colormap(name: str) -> None:
    """Raise InputError unless matplotlib has a colour map of this name."""
    _colours(name)


@cache
def _colours(name: str) -> Pixels:
    """Return the colours of one of matplotlib's maps, (N, 3)."""
    # A notebook's MPLBACKEND stops the import where that backend is not installed; none is needed here.
    backend = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:  # whoever draws in this process finds it chosen, as the import would have done
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend
    if not isinstance(name, str) or name not in matplotlib.colormaps:
        near = difflib.get_close_matches(str(name), list(matplotlib.colormaps), 5) or [
            "magma",
            "inferno",
            "viridis",
            "gray",
        ]
        raise InputError(f"colormap is {shown(name)}, which matplotlib does not have; take one like {', '.join(near)}.")
    colours: Any = matplotlib.colormaps[name]
    table: Pixels = (colours(np.arange(colours.N))[:, :3] * 255).round().astype(np.uint8)
    return table


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


def drawable(text: str) -> str:
    """Return text as the font that comes with Pillow can draw it; names in other scripts become escapes."""
    return text.encode("ascii", "backslashreplace").decode()
