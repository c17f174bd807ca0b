"""Cityscapes as a test set, as ManyDepth (CVPR 2021) measures on it: without the car's bonnet, and two frames back."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hybrid_encoder.data.depth_maps import read_depth
from hybrid_encoder.data.images import open_image
from hybrid_encoder.data.kitti_files import read_text
from hybrid_encoder.data.opening import expanded, is_file, is_folder
from hybrid_encoder.data.sources.cityscapes import SIZE, read_camera
from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.samples import Sample

GAP = 2  # frames of the video to the lookup image


def cityscapes_samples(root: str | Path, split: str | Path, depths: str | Path | None = None) -> list[Sample]:
    """List the test images of a split with their ground truth, both without the lowest quarter, in order.

    The lookup image is two frames before, from ``leftImg8bit_sequence``. Where that folder is missing, no image has
    one, and a multi-frame model cannot be evaluated.

    Args:
        root: the folder with ``leftImg8bit``, ``camera_trainvaltest`` and, for lookup images, ``leftImg8bit_sequence``,
            as the archives of Cityscapes unpack.
        split: a text file with lines ``<city> <image>``, such as ``leverkusen leverkusen_000039_000019``: ManyDepth's
            ``splits/cityscapes/test_files.txt``.
        depths: the folder with ``000_depth.npy``, ``001_depth.npy`` and so on in the order of the split, in metres, of
            the whole image, as ManyDepth publishes them; by default ``gt_depths`` beside the split.

    Raises:
        InputError: a line that is malformed, or an image, a camera or a depth map that does not exist or is malformed.
    """
    root, split = expanded(root), expanded(split)
    if not is_file(split):
        raise InputError(f"{split} does not exist; give ManyDepth's splits/cityscapes/test_files.txt.")
    folder = split.parent / "gt_depths" if depths is None else expanded(depths)
    has_video = is_folder(root / "leftImg8bit_sequence")
    cameras = root / "camera_trainvaltest" / "camera" / "test"
    samples: list[Sample] = []
    for number, line in enumerate(read_text(split).splitlines(), 1):
        if not line.split():
            continue
        found = re.fullmatch(r"([a-z-]+) (\1_[0-9]{6})_([0-9]{6})", line.strip())
        if found is None:
            raise InputError(
                f"{split}, line {number}: {line.strip()!r} is no image; write lines like "
                "'leverkusen leverkusen_000039_000019'."
            )
        city, drive, frame = found[1], found[2], int(found[3])
        image = _file(root, "leftImg8bit", city, f"{drive}_{frame:06d}_leftImg8bit.png")
        before = _file(root, "leftImg8bit_sequence", city, f"{drive}_{frame - GAP:06d}_leftImg8bit.png")
        truth = folder / f"{len(samples):03d}_depth.npy"
        for needed in (image, truth):
            if not is_file(needed):
                raise InputError(f"{split}, line {number}: {needed} does not exist; complete the data set.")
        samples.append(
            Sample(
                name=f"{drive}_{frame:06d}",
                index=len(samples),
                read_image=partial(_image, image),
                read_truth=partial(_truth, truth),
                read_lookup=partial(_image_if_any, before) if has_video else None,
                K=torch.from_numpy(read_camera(cameras / city / f"{drive}_{frame:06d}_camera.json").K),
                drive=drive,
                frame=frame,
                file=image,
            )
        )
    if not samples:
        raise InputError(f"{split} lists no image; write lines like 'leverkusen leverkusen_000039_000019'.")
    return samples


def _file(root: Path, kind: str, city: str, name: str) -> Path:
    return root / kind / "test" / city / name


def _image(file: Path) -> NDArray[np.uint8]:
    image = np.asarray(open_image(file))
    if image.shape[:2] != SIZE:
        raise InputError(f"{file} is {image.shape[0]} x {image.shape[1]}; images of Cityscapes are 1024 x 2048.")
    return image[: SIZE[0] * 3 // 4]


def _image_if_any(file: Path) -> NDArray[np.uint8] | None:
    return _image(file) if is_file(file) else None


def _truth(file: Path) -> NDArray[np.float32]:
    depth: NDArray[np.float32] = read_depth(file).numpy()
    if depth.shape != SIZE:
        raise InputError(f"{file} is {depth.shape}; depth of Cityscapes is 1024 x 2048, that of the whole image.")
    return depth[: round(SIZE[0] * 0.75)]
