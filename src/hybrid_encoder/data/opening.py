"""Picture files, opened in one place: a few formats, a limit on pixels, and one sentence where a file is not right."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from hybrid_encoder.errors import InputError

# Decoded by libraries inside this process. Pillow reads others by starting programs (EPS runs ghostscript).
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
MAX_PIXELS = 89_478_485  # Pillow's own limit, a quarter of a gigabyte as RGB

_GLOBALS = threading.Lock()  # Pillow's limit and Python's warning filters belong to the whole process
if hasattr(os, "register_at_fork"):  # a worker is not forked while another thread holds the lock
    os.register_at_fork(before=_GLOBALS.acquire, after_in_parent=_GLOBALS.release, after_in_child=_GLOBALS.release)


@contextmanager
def opened(path: Path, max_pixels: int = MAX_PIXELS, formats: Collection[str] = FORMATS) -> Iterator[Image.Image]:
    """Open a picture file for a ``with`` block; whatever goes wrong in the block, while decoding too, is an InputError.

    A file is what its content says, whatever its name. Of several frames or pages, the first is read.

    Args:
        path: of a regular file.
        max_pixels: a picture with more is refused before it is decoded.
        formats: names of Pillow's formats.

    Raises:
        InputError: the file does not exist, is not a regular file or not a picture of these formats, has too many
            pixels, or is damaged.
    """
    if not is_file(path):
        # What is no regular file may never end, or never begin.
        problem = "is not a regular file; give an image" if is_there(path) else "does not exist; check the path"
        raise InputError(f"{path} {problem}.")
    try:
        with _read_header(path, max_pixels, formats) as image:
            _check_pixels(path, image, max_pixels)
            yield image
    except InputError:
        raise
    except UnidentifiedImageError:
        names = ", ".join(formats)
        raise InputError(f"{path} is not an image of a format that is read here; give one of {names}.") from None
    except MemoryError:
        raise InputError(f"{path} needs more memory than there is; make the picture smaller.") from None
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
        reason = str(error).strip() or type(error).__name__
        raise InputError(f"{path} cannot be read as an image ({reason}); save it again.") from None


def _read_header(path: Path, max_pixels: int, formats: Collection[str]) -> Image.Image:
    with _GLOBALS, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what is odd in a header; what matters is raised
        before = Image.MAX_IMAGE_PIXELS
        if before is not None:
            Image.MAX_IMAGE_PIXELS = max(before, max_pixels)
        try:
            image = Image.open(path, formats=tuple(formats))
            if image.format != "PNG":  # of which EXIF data may come last, so that everything is decoded to find them
                image.getexif()  # read here, once
            return image
        except Image.DecompressionBombError:
            raise InputError(f"{path} has more than {2 * max_pixels:,} pixels; {_advice(max_pixels)}") from None
        finally:
            Image.MAX_IMAGE_PIXELS = before


def read_exif(image: Image.Image) -> Image.Exif:
    """Return the EXIF data of an opened picture; that they are odd is no warning."""
    if image.format == "PNG":
        image.load()  # outside of the lock: it is what takes time
    with _GLOBALS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return image.getexif()


def _check_pixels(path: Path, image: Image.Image, max_pixels: int) -> None:
    """Raise InputError for a picture, or a tile of it, that is too large to be decoded."""
    width, height = image.size
    tags = getattr(image, "tag_v2", {})  # of TIFF: a tile is decoded whole, however little of it is in the picture
    tile = tags.get(322, 0), tags.get(323, 0)
    for what, (w, h) in (("is", (width, height)), ("is made of tiles of", tile)):
        if w * h > max_pixels:
            raise InputError(f"{path} {what} {h} x {w}, {w * h:,} pixels; {_advice(max_pixels)}")


def _advice(max_pixels: int) -> str:
    return f"at most {max_pixels:,} are read: make it smaller, or raise max_pixels where the file is to be trusted."


def is_file(path: Path) -> bool:
    """Say whether a path names a regular file, or a link to one; a name that no file can have names none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Say whether a path names a folder."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_there(path: Path) -> bool:
    """Say whether a path names anything."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def expanded(text: str | Path) -> Path:
    """Return a path with ``~`` replaced by the home folder, unless a file has this very name.

    Raises:
        InputError: a user of that name does not exist.
    """
    path = Path(text)
    try:
        return path if is_there(path) else path.expanduser()
    except RuntimeError:
        raise InputError(f"{text} names the home folder of a user who does not exist; check the path.") from None


def listed(paths: Iterable[Path], suffixes: Collection[str] = ()) -> list[Path]:
    """Return the data among the paths of a folder, in order.

    These are regular files, or links to them, whose name ends in one of the suffixes, if there are any, in small or
    capital letters. Hidden files are left out, among them ``._name``, which macOS writes beside ``name`` on disks of
    other systems.
    """
    return sorted(
        path
        for path in paths
        if (not suffixes or path.suffix.lower() in suffixes) and not path.name.startswith(".") and is_file(path)
    )
