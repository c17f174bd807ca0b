"""The KITTI frames at hand in the folders that other codebases read."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from helpers.checkouts import DATA, DRIVE

FRAMES = (1, 2, 3, 4)  # with a neighbour on either side


def _pictures() -> Iterator[tuple[int, int, Image.Image]]:
    for camera in (2, 3):
        for frame in range(6):
            with Image.open(DATA / DRIVE / f"image_0{camera}" / "data" / f"{frame:010d}.png") as image:
                yield camera, frame, image.convert("RGB")


def _save(image: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


def _classes(width: int, height: int, count: int) -> Image.Image:
    """Bands of class numbers from the top down."""
    rows = np.arange(height)[:, None] * count // height
    return Image.fromarray(np.broadcast_to(rows, (height, width)).astype(np.uint8))


def _nyu(folder: Path) -> None:
    """Indoor frames, a depth, and classes of planes and lines for each."""
    for camera, frame, image in _pictures():
        if camera == 2:
            place = folder / "s"
            _save(image.resize((640, 480)), place / f"{frame}.jpg")
            for name, picture in (
                ("", Image.fromarray(np.full((480, 640), 50, np.uint8))),
                ("_seg", _classes(640, 480, 3)),
                ("_line", _classes(640, 480, 5)),
            ):
                _save(picture, place / f"{frame}{name}.png")


def _scared(folder: Path) -> None:
    for camera, frame, image in _pictures():
        if camera == 2:
            _save(image, folder / DRIVE / "data" / f"{frame}.png")


def _semantic(folder: Path) -> None:
    """KITTI with a picture of classes for each frame; the folder's name says that it is KITTI."""
    for camera, frame, image in _pictures():
        _save(image, folder / DRIVE / f"image_0{camera}" / "data" / f"{frame:010d}.png")
        place = folder / "segmentation" / DRIVE / f"image_0{camera}"
        road_and_sidewalk = Image.eval(_classes(*image.size, 2), lambda number: number + 7)  # numbers of Cityscapes
        _save(road_and_sidewalk, place / f"{frame:010d}.png")


def _dynamo(folder: Path) -> None:
    """Frames of half the size and points of a lidar, sparse."""
    rng = np.random.default_rng(0)
    for camera, frame, image in _pictures():
        place = folder / DRIVE / f"image_0{camera}"
        _save(image.resize((640, 192)), place / "rgb" / "downsample" / f"{frame:010d}.jpg")
        _save(image, place / "rgb" / "original" / f"{frame:010d}.png")
        points = np.stack([rng.integers(0, 375, 500), rng.integers(0, 1242, 500), np.full(500, 10)], axis=1)
        (place / "depth").mkdir(parents=True, exist_ok=True)
        np.save(place / "depth" / f"{frame:010d}.npy", points.astype(float))
    day = DRIVE.partition("/")[0]
    for inside in (day, DRIVE):
        shutil.copy(DATA / day / "calib_cam_to_cam.txt", folder / inside / "calib_cam_to_cam.txt")


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "nyu": _nyu,
    "scared": _scared,
    "Kitti": _semantic,
    "dynamo": _dynamo,
}


def lay_out(layout: str, folder: Path) -> Path:
    """Return the folder of the frames in a layout, ``"kitti"`` or one of ``LAYOUTS``; copies lie inside ``folder``."""
    if layout == "kitti":
        return DATA
    LAYOUTS[layout](folder / layout)
    return folder / layout


def write_splits(checkout: Path, layout: str) -> None:
    """Write the frames at hand into the files of a checkout that say on what it trains."""
    for name in ("train", "val"):  # a mirror may have left the long lists out
        place = checkout / "splits" / "eigen_zhou" / f"{name}_files.txt"
        if place.parent.parent.is_dir() and not place.exists():
            place.parent.mkdir(exist_ok=True)
            place.touch()
    foreign = {"nyu", "waymo", "nusc", "cityscapes", "odom", "endovis"} - {layout}
    for file in checkout.glob("**/splits/**/*_files.txt"):
        if foreign.isdisjoint(file.parts):
            rows = [f"s {i}" for i in FRAMES] if layout == "nyu" else [f"{DRIVE} {i} {s}" for i in FRAMES for s in "lr"]
            file.write_text("\n".join(rows if file.name.startswith("train") else rows[:2]) + "\n")
