"""Test sets on KITTI: images with the ground truth that a protocol asks for, and ground truth from files of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from hybrid_encoder.config.checking import shown
from hybrid_encoder.data.depth_maps import check_same_view, read_depth
from hybrid_encoder.data.images import image_size, to_pixels
from hybrid_encoder.data.kitti import KittiDrive
from hybrid_encoder.data.kitti_splits import frame_name
from hybrid_encoder.data.opening import is_file
from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.depth_archives import Depth, read_depth_archive, write_depth_archive
from hybrid_encoder.evaluation.eigen import eigen_depth
from hybrid_encoder.evaluation.kitti_listing import kitti_frames
from hybrid_encoder.evaluation.samples import Sample
from hybrid_encoder.geometry.camera import resized_intrinsics

KittiTruth = Literal["eigen", "annotated", "lidar"]


def kitti_samples(
    root: str | Path, split: str | Path | None = None, camera: int | None = None, *, truth: KittiTruth = "eigen"
) -> list[Sample]:
    """List the frames of KITTI raw that have an image and ground truth, as a test set, in order.

    Args:
        root, split, camera: as for :func:`kitti_frames`.
        truth: ``"eigen"``, lidar by :func:`eigen_depth`; ``"annotated"``, KITTI's annotated depth, by
            :func:`annotated_depth`; ``"lidar"``, lidar as the camera sees it, by :meth:`KittiDrive.lidar_depth`.

    Raises:
        InputError: another truth, what :func:`kitti_frames` raises, or no frame with annotated depth, or a frame of the
            split without it.
    """
    if truth not in get_args(KittiTruth):
        raise InputError(f"truth is {shown(truth)}; it must be one of {', '.join(map(repr, get_args(KittiTruth)))}.")
    frames = kitti_frames(root, split, camera, needs="image" if truth == "annotated" else "lidar")
    if truth == "annotated":
        frames = [(drive, frame) for drive, frame in frames if split is not None or annotated_file(drive, frame)]
        if not frames:
            raise InputError(f"{root} has no frame with annotated depth; {_ANNOTATED}.")
        for drive, frame in frames:
            _existing_annotated(drive, frame)
    return [kitti_sample(index, drive, frame, truth) for index, (drive, frame) in enumerate(frames)]


def kitti_sample(index: int, drive: KittiDrive, frame: int, truth: KittiTruth) -> Sample:
    """Return one frame as an image of a test set; see :func:`kitti_samples`.

    Its lookup image is the frame before; there is none where that is the drive's first.

    Raises:
        InputError: the frame has no image, or its file is damaged.
    """
    file = drive.image_file(frame)
    K, size = torch.from_numpy(drive.K), image_size(file)
    read = {"eigen": eigen_depth, "annotated": annotated_depth, "lidar": _lidar_depth}[truth]
    return Sample(
        name=frame_name(drive, frame),
        index=index,
        read_image=partial(_image, drive, frame),
        read_truth=partial(read, drive, frame),
        read_lookup=partial(_image_before, drive, frame),
        K=K if size == drive.size else resized_intrinsics(K, drive.size, size),  # the image files were resized
        drive=drive.folder.name,
        frame=frame,
        file=file,
    )


def archive_samples(
    root: str | Path, file: str | Path, split: str | Path | None = None, camera: int | None = None
) -> list[Sample]:
    """List frames of KITTI raw as a test set whose ground truth is a ``gt_depths.npz``, map by map in their order.

    Args:
        root, split, camera: as for :func:`kitti_frames`; what else the frames have does not matter.
        file: as for :func:`read_depth_archive`.

    Raises:
        InputError: what these raise, or another number of maps than of frames.
    """
    frames = kitti_frames(root, split, camera)
    return with_archive([kitti_sample(index, *frame, "eigen") for index, frame in enumerate(frames)], file)


def with_archive(samples: Sequence[Sample], file: str | Path) -> list[Sample]:
    """Return a test set with its ground truth from a ``gt_depths.npz``, map by map in its order.

    Raises:
        InputError: what :func:`read_depth_archive` raises, or another number of maps than of images.
    """
    maps = read_depth_archive(file)
    if len(maps) != len(samples):
        raise InputError(
            f"{file} holds {len(maps)} depth maps, and there are {len(samples)} images; give the split that it was "
            "made for, all of whose images must be there."
        )
    return [replace(sample, read_truth=partial(np.array, depth)) for sample, depth in zip(samples, maps, strict=True)]


def export_depths(samples: Sequence[Sample], file: str | Path) -> None:
    """Write the ground truth of a test set as Monodepth2 reads it; see :func:`write_depth_archive`."""
    write_depth_archive(file, [sample.read_truth() for sample in samples])


def annotated_depth(drive: KittiDrive, frame: int) -> Depth:
    """Return KITTI's annotated depth of a frame: eleven scans, put together and cleaned (Uhrig et al., 3DV 2017).

    It is looked for where :func:`annotated_file` says.

    Returns:
        Metres, 0 where unknown, float32, (H, W).

    Raises:
        InputError: there is none, or the file is damaged or shows another view.
    """
    file = _existing_annotated(drive, frame)
    depth: Depth = read_depth(file).numpy()
    check_same_view((depth.shape[0], depth.shape[1]), str(file), drive.size, f"the image of {drive.folder}")
    return depth


def annotated_file(drive: KittiDrive, frame: int) -> Path | None:
    """Return the file of a frame's annotated depth, a PNG of 16 bits, in metres times 256; None where there is none.

    It is ``proj_depth/groundtruth/image_0<2 or 3>/<frame>.png`` in the folder of the drive, as Monodepth2 has it, or
    in ``<root>/train/<drive>`` or ``<root>/val/<drive>``, as KITTI's archive has it when it is unpacked in the root.
    """
    root, name = drive.folder.parent.parent, drive.folder.name
    for folder in (drive.folder, root / "train" / name, root / "val" / name):
        file = folder / "proj_depth" / "groundtruth" / f"image_0{drive.camera}" / f"{frame:010d}.png"
        if is_file(file):
            return file
    return None


_ANNOTATED = (
    "unpack data_depth_annotated.zip in the root (of the Eigen split's 697 test frames, 652 have annotated depth: "
    "Monodepth2's eigen_benchmark)"
)


def _existing_annotated(drive: KittiDrive, frame: int) -> Path:
    file = annotated_file(drive, frame)
    if file is None:
        raise InputError(f"{frame_name(drive, frame)} has no annotated depth; {_ANNOTATED}.")
    return file


def _lidar_depth(drive: KittiDrive, frame: int) -> Depth:
    depth: Depth = drive.lidar_depth(frame)[0]
    return depth


def _image(drive: KittiDrive, frame: int) -> NDArray[np.uint8]:
    return to_pixels(torch.from_numpy(drive.image(frame)))


def _image_before(drive: KittiDrive, frame: int) -> NDArray[np.uint8] | None:
    return _image(drive, frame - 1) if frame - 1 in drive.frames else None
