"""Pictures for tests: harmless ones, odd ones, and ones that no reader should follow."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
# Formats that Pillow reads and this library does not; it writes examples of them.
OTHER_FORMATS = ("GIF", "TGA", "DDS", "ICNS", "ICO", "PCX", "SGI", "PDF", "EPS", "SPIDER", "JPEG2000", "AVIF")


def scene(height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """A picture with something in it, (H, W, 3)."""
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


def encoded(format: str, pixels: NDArray[Any] | None = None, **options: Any) -> bytes:
    """The bytes of a picture in one of Pillow's formats."""
    buffer = io.BytesIO()
    image = Image.fromarray(scene() if pixels is None else pixels)
    if format == "SPIDER":
        image = image.convert("F")
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, rows: bytes, *more: bytes, bits: int = 8, kind: int = 0) -> bytes:
    """A PNG file of this size, by default grey, whose compressed rows are given; more chunks stand before them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"".join((b"\x89PNG\r\n\x1a\n", header, *more, chunk(b"IDAT", rows), chunk(b"IEND", b"")))


def bomb(width: int, height: int) -> bytes:
    """A whole PNG file, black, of one bit a pixel: a few kilobytes that are unpacked to gigabytes."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return png(width, height, rows, bits=1)


def tiff(*entries: tuple[int, int, int, int], after: bytes = b"") -> bytes:
    """A TIFF file of one page, by its tags (tag, type, count, value); what follows them starts at byte 1024."""
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return (b"II*\0" + struct.pack("<I", 8) + table).ljust(1024, b"\0") + after
