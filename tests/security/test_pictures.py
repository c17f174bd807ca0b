"""Pictures from strangers: no program is started, nothing is unpacked without bounds, and what is read is right."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid_encoder import InputError
from hybrid_encoder.data import OrderedDepth, depth_files
from hybrid_encoder.data.depth_maps import read_depth
from hybrid_encoder.data.finding import find_images
from hybrid_encoder.data.images import convert_image, open_image, read_image

from helpers.pictures import EPS, OTHER_FORMATS, bomb, chunk, encoded, png, scene, tiff
from helpers.traps import Traps

READ = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")
GREY = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
DEEP = GREY.astype(np.uint16) * 257  # the same picture in 16 bits


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def sentence(path: Path) -> str:
    """What reading a picture is refused with: one sentence that names the file."""
    with pytest.raises(InputError) as refusal:
        read_image(path)
    message = str(refusal.value)
    assert "\n" not in message and message.endswith(".")
    return message


@pytest.mark.parametrize("format", READ)
@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x"])
def test_a_picture_is_what_its_content_says(tmp_path: Path, format: str, name: str) -> None:
    path = written(tmp_path / name, encoded(format))
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(np.asarray(open_image(path)), expected)
    assert torch.equal(read_image(path), torch.from_numpy(expected.copy()).permute(2, 0, 1).float() / 255)


@pytest.mark.parametrize("format", OTHER_FORMATS)
@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_other_formats_are_refused_whatever_their_name(tmp_path: Path, format: str, name: str) -> None:
    try:
        content = EPS if format == "EPS" else encoded(format)
    except (OSError, KeyError):
        content = {"JPEG2000": b"\0\0\0\x0cjP  \r\n\x87\n", "AVIF": b"\0\0\0\x1cftypavif"}[format] + bytes(100)
    assert "not an image of a format that is read here" in sentence(written(tmp_path / name, content))


def test_a_depth_map_that_holds_eps_is_refused(tmp_path: Path) -> None:
    image = written(tmp_path / "x.png", encoded("PNG"))
    items = OrderedDepth([image], [written(tmp_path / "d.png", EPS)])
    with pytest.raises(InputError, match=r"d\.png is not an image of a format"):
        items[0]


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "nothing")
    for name in ("pipe.png", "folder.png"):
        assert "is not a regular file" in sentence(tmp_path / name)
    for path in (Path("/dev/zero"), Path("/dev/stdin")):
        assert "is not a regular file" in sentence(path)
    for name in ("link.png", "gone.png", "x" * 5000, "a\0b.png"):
        assert "does not exist" in sentence(tmp_path / name)


WHITE = zlib.compress(bytes(65))
BOMBS = {
    "png of 177 megapixels": bomb(13304, 13304),
    "png of 4 gigapixels": png(65500, 65500, WHITE),
    "ppm": b"P6 100000 100000 255\n" + bytes(100),
    "bmp": b"BM" + (1000).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
    + (30000).to_bytes(4, "little") + (30000).to_bytes(4, "little") + b"\1\0\x18\0" + bytes(24),
    "tiff": tiff((256, 4, 1, 60000), (257, 4, 1, 60000), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
                 (273, 4, 1, 1024), (278, 4, 1, 60000), (279, 4, 1, 13), after=WHITE),
    "tiff with one huge tile": tiff((256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
                                    (322, 4, 1, 65536), (323, 4, 1, 65536), (324, 4, 1, 1024), (325, 4, 1, 13),
                                    after=WHITE),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_unpack_to_gigabytes_is_refused_before_it_does(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "x.png", BOMBS[name])
    assert path.stat().st_size < 100_000
    start = time.perf_counter()
    assert "pixels; at most 89,478,485 are read" in sentence(path)
    assert time.perf_counter() - start < 1


def test_the_limit_can_be_set_and_raised_above_that_of_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "x.png", encoded("PNG"))
    assert read_image(path, max_pixels=48 * 64).shape == (3, 48, 64)
    with pytest.raises(InputError, match="3,072 pixels; at most 3,071 are read"):
        read_image(path, max_pixels=48 * 64 - 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(path, max_pixels=48 * 64).shape == (3, 48, 64)
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(InputError, match="at most 101 are read"):
        read_image(path, max_pixels=101)


def _exif(content: bytes) -> bytes:
    return encoded("JPEG", exif=b"Exif\0\0" + content)


TEXT = zlib.compress(bytes(900_000))
ODD = {
    "large text": png(64, 64, WHITE, chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(2_000_000)))),
    "many texts": png(64, 64, WHITE, *[chunk(b"zTXt", b"k%d\0\0" % i + TEXT) for i in range(90)]),
    "profile of junk": png(64, 64, zlib.compress(bytes(65 * 64)), chunk(b"iCCP", b"name\0\0" + zlib.compress(b"junk"))),
    "exif of junk": _exif(b"II*\0\xff\xff\xff\xff" + b"\1" * 60),
    "exif that points nowhere": _exif(b"II*\0\x08\0\0\0\1\0\x12\1\3\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0"),
    "turn by 99": _exif(b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\x63\0\0\0\0\0\0\0"),
    "half of a jpeg": encoded("JPEG")[:900],
    "half of a png": encoded("PNG")[:4000],
    "half of a webp": encoded("WEBP")[:500],
    "half of a tiff": encoded("TIFF")[:4000],
    "half of a bmp": encoded("BMP")[:4000],
    "half of a ppm": encoded("PPM")[:4000],
    "nothing": b"",
    "text": b"not a picture",
    "git lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
    "no size": png(0, 0, WHITE),
    "smaller than 32": encoded("PNG", scene(31, 64)),
    "tiff without pixels": tiff((256, 4, 1, 64), (257, 4, 1, 64)),
    "tiff that follows itself": tiff()[:10] + b"\x08\0\0\0",
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_read_or_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "x.png", ODD[name])
    if name in ("profile of junk", "exif of junk", "exif that points nowhere", "turn by 99"):
        assert read_image(path).isfinite().all()
    else:
        sentence(path)


@pytest.mark.parametrize("format", [*READ, "DEPTH", "NPY"])
def test_changed_bytes_never_give_more_than_a_sentence(tmp_path: Path, format: str) -> None:
    _change_bytes(tmp_path, format, 60)


@pytest.mark.campaign
@pytest.mark.parametrize("format", [*READ, "DEPTH", "NPY"])
def test_many_changed_bytes_never_give_more_than_a_sentence(tmp_path: Path, format: str) -> None:
    _change_bytes(tmp_path, format, 3000)


def _change_bytes(folder: Path, format: str, count: int) -> None:
    """Change one byte or cut the file, most often where the header is, and read it as a picture and as depth."""
    if format == "NPY":
        buffer = io.BytesIO()
        np.save(buffer, scene()[..., 0].astype(np.float32))
        content = buffer.getvalue()
    else:
        content = encoded("PNG", DEEP) if format == "DEPTH" else encoded(format)
    draw, depth = random.Random(0), format in ("NPY", "DEPTH")
    path = folder / ("x.npy" if format == "NPY" else "x.png")
    for _ in range(count):
        end = draw.choice((64, 512, len(content)))
        place = draw.randrange(min(end, len(content)))
        changed = bytearray(content)
        changed[place] = draw.randrange(256)
        path.write_bytes(bytes(changed) if draw.random() < 0.8 else content[:place])
        start = time.perf_counter()
        try:
            values = read_depth(path) if depth else read_image(path)
        except InputError as error:
            right = "\n" not in str(error)
        else:
            right = values.dtype == torch.float32 and (depth or (len(values) == 3 and bool(values.isfinite().all())))
        assert right, (format, place)
        assert time.perf_counter() - start < 60


def _png16(kind: int, channels: int) -> bytes:
    rows = b"".join(b"\0" + np.repeat(row, channels).astype(">u2").tobytes() for row in DEEP)
    return png(256, 64, zlib.compress(rows), bits=16, kind=kind)


def _white_is_zero() -> bytes:
    size = ((256, 4, 1, 256), (257, 4, 1, 64), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 0))
    strip = ((273, 4, 1, 1024), (277, 3, 1, 1), (278, 4, 1, 64), (279, 4, 1, DEEP.nbytes))
    return tiff(*size, *strip, after=(65535 - DEEP).tobytes())


SAME = {
    "8bit.png": encoded("PNG", GREY),
    "16bit.png": encoded("PNG", DEEP),
    "16bit.tif": encoded("TIFF", DEEP),
    "big_endian.tif": encoded("TIFF", DEEP.astype(">u2")),
    "white_is_zero.tif": _white_is_zero(),
    "16bit.pgm": b"P5 256 64 65535\n" + DEEP.astype(">u2").tobytes(),
    "16bit_colour.png": _png16(2, 3),
    "16bit_alpha.png": _png16(4, 2),
}


@pytest.mark.parametrize("name", SAME)
def test_grey_is_the_same_picture_however_it_is_stored(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, SAME[name])
    expected = torch.from_numpy(GREY).float().expand(3, -1, -1) / 255
    assert torch.equal(read_image(path), expected)
    assert np.array_equal(np.asarray(open_image(path)), np.repeat(GREY[..., None], 3, 2))
    with Image.open(path) as image:
        before = image.mode, image.tobytes()
        assert torch.equal(convert_image(image), expected), "opened with Pillow, too"
        assert (image.mode, image.tobytes()) == before


def test_sixteen_bits_are_kept(tmp_path: Path) -> None:
    deep = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16 + 5
    image = read_image(written(tmp_path / "x.png", encoded("PNG", deep)))
    np.testing.assert_allclose(image[1].double().numpy(), deep / 65535, atol=1e-7)


def test_deep_grey_is_turned_upright_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    turned = written(tmp_path / "x.png", encoded("PNG", DEEP, exif=exif.tobytes()))
    assert torch.equal(read_image(turned)[0], torch.from_numpy(np.rot90(GREY, -1).copy()).float() / 255)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_grey_without_a_stated_white_is_refused(tmp_path: Path, dtype: type) -> None:
    path = written(tmp_path / "x.tif", encoded("TIFF", GREY.astype(dtype)))
    assert "grey values of 32 bits, of which nothing says what is white" in sentence(path)
    with pytest.raises(InputError, match="32 bits"):
        open_image(path)


@pytest.mark.parametrize("mode", MODES)
def test_other_modes_become_rgb_and_lose_their_transparency(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(scene()).convert(mode)
    path = tmp_path / "x.tif" if mode in ("CMYK") else tmp_path / "x.png"
    image.save(path)
    expected = np.asarray(image.convert("RGB"))
    if mode != "YCbCr":  # rounded once more in the file
        assert np.array_equal(np.asarray(open_image(path)), expected)
    assert np.abs(read_image(path).permute(1, 2, 0).numpy() * 255 - expected).max() < 3


def test_what_is_transparent_keeps_the_colour_under_it(tmp_path: Path) -> None:
    pixels = np.dstack([scene(), np.zeros((48, 64), np.uint8)])
    assert np.array_equal(np.asarray(open_image(written(tmp_path / "x.png", encoded("PNG", pixels)))), scene())


@pytest.mark.parametrize("format", ["TIFF", "WEBP", "PNG"])
def test_of_many_frames_the_first_is_read(tmp_path: Path, format: str) -> None:
    frames = [Image.fromarray(np.full((40, 40, 3), i, np.uint8)) for i in range(0, 250, 5)]
    buffer = io.BytesIO()
    frames[7].save(buffer, format, save_all=True, append_images=frames, lossless=True)
    assert (np.asarray(open_image(written(tmp_path / "x.png", buffer.getvalue()))) == 35).all()


def test_hidden_files_folders_and_broken_links_are_no_images(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg"):
        written(tmp_path / name, encoded("PNG"))
    written(tmp_path / "._a.jpeg", b"\0\5\26\7\0\2\0\0Mac OS X        ")
    written(tmp_path / ".hidden.png", encoded("PNG"))
    written(tmp_path / "notes.txt", b"")
    (tmp_path / "old.png").mkdir()
    (tmp_path / "broken.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "b.PNG")
    names = ["a.jpeg", "b.PNG", "link.png"]
    assert [p.name for p in find_images([str(tmp_path)])] == names
    assert [p.name for p in find_images([str(tmp_path / "*.[pj]*")])] == ["a.jpeg", "link.png"]
    (tmp_path / "depth").mkdir()
    for name in ("a", "b", "link"):
        np.save(tmp_path / "depth" / f"{name}.npy", np.ones((48, 64)))
    assert [p.name for p in depth_files(tmp_path, tmp_path / "depth")[0]] == names


@pytest.mark.parametrize(
    "text", ["**y*.png", "~nosuchuser/x.png", "x" * 5000, "x" * 5000 + "*.png", "/no/such/[folder]", "a\0b*", "[", ""]
)
def test_names_that_cannot_be_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refusal:
        find_images([text])
    assert "\n" not in str(refusal.value)


def test_depth_of_the_unturned_view_is_refused(tmp_path: Path) -> None:
    """A photograph from a phone, stored on its side, and the depth of how it is stored."""
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (320, 192)).save(tmp_path / "p.jpg", exif=exif)  # upright it is 192 wide, 320 high
    depth = np.tile(np.linspace(60, 5, 192, dtype=np.float32)[:, None], (1, 320))
    np.save(tmp_path / "p.npy", depth)
    with pytest.raises(InputError, match=r"p\.npy is 192 x 320, but .*p\.jpg is 320 x 192; both must show the same"):
        OrderedDepth([tmp_path / "p.jpg"], [tmp_path / "p.npy"], (320, 192), seed=0)[0]
    np.save(tmp_path / "p.npy", np.rot90(depth, -1))
    assert len(OrderedDepth([tmp_path / "p.jpg"], [tmp_path / "p.npy"], (320, 192), seed=0)[0].points)


@pytest.mark.parametrize(
    ("image", "depth", "fits"),
    [
        ((375, 1242), (375, 1242), True),
        ((375, 1242), (192, 640), True),  # sizes that networks work at
        ((375, 1242), (320, 1024), True),
        ((375, 1242), (94, 311), True),
        ((375, 1242), (12, 40), True),
        ((1242, 375), (375, 1242), False),
        ((100, 104), (104, 100), False),
        ((64, 64), (64, 64), True),
        ((64, 64), (64, 96), False),
        ((480, 640), (480, 720), False),  # of a crop
        ((480, 640), (640, 480), False),
    ],
)
def test_depth_has_the_aspect_of_its_image(image: tuple[int, int], depth: tuple[int, int], fits: bool) -> None:
    values = torch.rand(depth, generator=torch.Generator().manual_seed(0)) * 50 + 1
    items = OrderedDepth([lambda: torch.zeros(3, *image)], [lambda: values], (64, 64), seed=0)
    if fits:
        assert len(items[0].points)
    else:
        with pytest.raises(InputError, match=rf"{depth[0]} x {depth[1]}, but .* {image[0]} x {image[1]}"):
            items[0]


def _npy(header: str) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + bytes(64)


@pytest.mark.parametrize(
    "name",
    ["pickle", "objects", "npz", "records", "text", "half", "terabytes", "negative", "nested", "mode L", "mode F"],
)
def test_what_is_no_depth_is_refused_and_never_run(tmp_path: Path, traps: Traps, name: str) -> None:
    path = tmp_path / ("d.png" if name.startswith("mode") else "d.npy")
    if name == "pickle":
        path.write_bytes(traps.pickle())
    elif name == "objects":
        np.save(path, np.array([traps.trap()], dtype=object), allow_pickle=True)
    elif name == "npz":
        with path.open("wb") as file:
            np.savez(file, np.array([traps.trap()], dtype=object))
    elif name == "records":
        np.save(path, np.zeros((48, 64), [("a", "f4"), ("b", "f4")]))
    elif name == "text":
        np.save(path, np.full((48, 64), "x"))
    elif name == "half":
        np.save(path, np.ones((48, 64)))
        path.write_bytes(path.read_bytes()[:4000])
    elif name == "terabytes":
        path.write_bytes(_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000)}"))
    elif name == "negative":
        path.write_bytes(_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, -4)}"))
    elif name == "nested":
        path.write_bytes(_npy("(" * 100))
    else:
        pixels = GREY if name == "mode L" else GREY.astype(np.float32)
        path.write_bytes(encoded("PNG" if name == "mode L" else "TIFF", pixels))
    image = written(tmp_path / "x.png", encoded("PNG"))
    with pytest.raises(InputError, match="cannot be read as depth") as refusal:
        OrderedDepth([image], [path])[0]
    assert "\n" not in str(refusal.value)


def test_a_backend_of_a_notebook_plays_no_part(tmp_path: Path) -> None:
    """What a notebook exports to the programs that it starts, where that backend is not installed."""
    code = (
        "import os, torch; from hybrid_encoder.data.images import colorize; "
        "print(colorize(torch.eye(2))[0, 0], os.environ['MPLBACKEND']); "
        "import matplotlib; name = dict.__getitem__(matplotlib.rcParams, 'backend'); "
        "print(name if isinstance(name, str) else None)"
    )
    chosen = {"no such backend": "None", "module://matplotlib_inline.backend_inline": None, "pdf": "pdf"}
    for backend, name in chosen.items():
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "MPLBACKEND": backend}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        first, last = done.stdout.splitlines()
        assert first == f"[252 253 191] {backend}"
        assert name in (None, last)  # it is as where matplotlib was imported by someone else


def test_threads_share_the_limit(tmp_path: Path) -> None:
    path, before = written(tmp_path / "x.png", encoded("PNG")), Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(8) as pool:
        for image in pool.map(lambda i: read_image(path, 10_000_000 * (i % 50 + 1)), range(200)):
            assert image.shape == (3, 48, 64)
    assert before == Image.MAX_IMAGE_PIXELS
