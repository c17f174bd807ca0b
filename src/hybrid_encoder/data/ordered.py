"""Patches in the order of their depth, from any depth: predicted, scanned or rendered, with or without a scale.

The coarse stage learns from groups of points of an image, ordered from near to far. The published method takes them
from lane labels (:mod:`hybrid_encoder.data.tusimple`); here they come from depth itself, of which only the order is
used.

Points are (x, y) in pixels with pixel centres at integers, so that resizing by s takes x to (x + 0.5) s - 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from hybrid_encoder.data.depth_maps import check_same_view, read_depth
from hybrid_encoder.data.opening import expanded, is_file
from hybrid_encoder.data.transforms import Size, check_size, item_size, jitter_colours, resize_images
from hybrid_encoder.errors import InputError

if TYPE_CHECKING:
    from hybrid_encoder.data.kitti import KittiDrive

ArraySource = str | Path | Callable[[], Any]  # a file, or a function that returns an array

# Pixels of a dense map that are considered: sorting all of a KITTI frame would take longer than reading the image.
CANDIDATES = 1 << 14


class OrderedPatches(NamedTuple):
    """An image with its groups of points; a group is also called a lane, after the labels it first came from."""

    image: Tensor  # (3, H, W), RGB in [0, 1]
    points: Tensor  # (L, P, 2), (x, y) in pixels of the image, from near to far
    name: str = ""  # says in error messages where the image is from


class PatchBatch(NamedTuple):
    """Images, and the lanes of all of them in one tensor, as ``CoarsePatchLoss`` takes them."""

    images: Tensor  # (B, 3, H, W)
    points: Tensor  # (sum of L, P, 2)
    # Which image a lane belongs to, (sum of L,), int64. CoarsePatchLoss has this name, which hides a method of tuples.
    index: Tensor  # type: ignore[assignment]
    names: tuple[str, ...] = ()


def collate(items: Sequence[OrderedPatches]) -> PatchBatch:
    """Join items into one batch, for ``DataLoader(..., collate_fn=collate)``; an item may have no lanes.

    Raises:
        InputError: images of different sizes.
    """
    sizes = {tuple(item.image.shape[-2:]): item.name for item in items}
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise InputError(
            f"{first} is {one[0]} x {one[1]} and {second} {other[0]} x {other[1]}, which do not make a batch; give "
            "(H, W) as the size, or train on images of one aspect."
        )
    counts = torch.tensor([len(item.points) for item in items])
    return PatchBatch(
        torch.stack([item.image for item in items]),
        torch.cat([item.points for item in items]),
        torch.arange(len(items)).repeat_interleave(counts),
        tuple(item.name for item in items),
    )


def check_teaches(items: Dataset[OrderedPatches], sample: int = 32) -> None:
    """Check, before the first step, that at least one item has points; torch's generator is left as it is.

    Items are read until one has points: first a sample, spread evenly over all of them, then the others.

    Args:
        items: of any data set with a length.
        sample: how many items are looked at first.

    Raises:
        InputError: there are no items, none has points, or one that was looked at cannot be read.
    """
    count = len(items)  # type: ignore[arg-type]
    if not count:
        raise InputError("there are no images to train on; give data with at least one.")
    first = dict.fromkeys(index * count // sample for index in range(sample))
    name = ""
    with torch.random.fork_rng(devices=[]):
        for index in dict.fromkeys([*first, *range(count)]):
            item = items[index]
            if len(item.points):
                return
            name = name or item.name
    raise InputError(
        f"none of {count} images, such as {name}, has points in the order of their depth, so nothing can be learned; "
        "check its labels or depth maps: are depths positive and finite, with far and near in one map, and do lanes "
        "lie inside the image?"
    )


def ordered_points_from_depth(
    depth: Tensor, points: int = 7, lanes: int = 4, ratio: float = 1.1, generator: torch.Generator | None = None
) -> Tensor:
    """Draw groups of pixels, ordered from near to far.

    In a group, each pixel is at least ``ratio`` times as far away as the one before it. All such groups of valid pixels
    are equally likely, and groups are drawn independently of each other. Where more than 16384 pixels are valid, that
    many of them are drawn first.

    Args:
        depth: (H, W), of any scale, dense or sparse; a pixel is valid where it is positive and finite.
        points: P, number of pixels in a group.
        lanes: L, number of groups.
        ratio: depth of a pixel over that of the one before it, at least; above 1.
        generator: on the CPU; by default torch's own.

    Returns:
        (L, P, 2), float32, (x, y) in pixels of the depth map; (0, P, 2) where no group exists.

    Raises:
        InputError: depth of another shape, or an option out of its range.

    Example:
        >>> ordered_points_from_depth(torch.tensor([[4.0, 2.0, 0.0, 1.0]]), points=3, lanes=1)
        tensor([[[3., 0.],
                 [1., 0.],
                 [0., 0.]]])
    """
    check_group(points, lanes, ratio)
    if depth.ndim != 2:
        raise InputError(f"depth is {tuple(depth.shape)}; (H, W) is needed: take one map, without a channel.")
    flat = depth.detach().flatten().cpu().double()
    pixels = ((flat > 0) & flat.isfinite()).nonzero()[:, 0]
    if len(pixels) > CANDIDATES:
        pixels = pixels[torch.randint(len(pixels), (CANDIDATES,), generator=generator)]
    values, order = flat[pixels].sort()
    groups = _draw_groups(values, points, lanes, ratio, generator)
    if groups is None:
        return depth.new_zeros((0, points, 2), dtype=torch.float32)
    chosen = pixels[order[groups]]
    width = depth.shape[1]
    return torch.stack([chosen % width, chosen // width], dim=-1).float().to(depth.device)


def _draw_groups(
    values: Tensor, points: int, lanes: int, ratio: float, generator: torch.Generator | None
) -> Tensor | None:
    """Draw groups for ``ordered_points_from_depth``: indices into ascending values, (L, P), or None if there are none.

    The number of groups that end at each value follows from those that are shorter by one. A group is then drawn from
    its far end: each pick has the probability of its share of all groups that are still possible.
    """
    before = torch.searchsorted(values * ratio, values, right=True)  # how many values are small enough to precede each

    # sums[k][m]: the number of groups of k + 1 among the m smallest values, scaled so that it cannot overflow.
    sums, ending_here = [], torch.ones_like(values)
    for _ in range(points):
        total = F.pad(ending_here.cumsum(0), (1, 0))
        if total[-1] == 0:
            return None
        sums.append(total / total[-1])
        ending_here = sums[-1][before]

    bound = torch.full((lanes,), len(values))
    picks = []
    for total in reversed(sums):  # from far to near: each pick bounds the one before it
        drawn = torch.rand(lanes, generator=generator, dtype=torch.float64) * total[bound]
        picks.append(torch.searchsorted(total[1:], drawn, right=True))
        bound = before[picks[-1]]
    return torch.stack(picks[::-1], dim=1)


class OrderedDepth(Dataset[OrderedPatches]):
    """Images with groups of points that their depth maps put in order.

    A depth map shows the same view as its image and may have another size, stretched by up to 5 percent; it is never
    resampled. ``depth_files`` and ``lidar_frames`` return the first two arguments.

    Args:
        images: image files, or functions that return RGB in [0, 1], (3, H, W).
        depths: for each image, a ``.npy`` file, a 16-bit PNG file (value / 256, as in KITTI), or a function that
            returns an array; (h, w) or (1, h, w), 0 where unknown.
        size: (H, W) of the items; or the least that their shorter side may have, at the aspect of each image.
        points, lanes, ratio: as for ``ordered_points_from_depth``.
        inverse: depths hold disparity, or another number that is larger the nearer a pixel is.
        flip: mirror half of the items.
        seed: return the same points whenever an item is read; by default draw new ones from torch's own generator.
        jitter: change the colours of all items, as :func:`hybrid_encoder.data.transforms.jitter_colours` does.

    Raises:
        InputError: an option out of its range, another number of depths than of images, a file that does not exist;
            later, a file that cannot be read as an image or as depth, or a depth map of another view than its image, as
            its height and width say.
    """

    def __init__(
        self,
        images: Sequence[ArraySource],
        depths: Sequence[ArraySource],
        size: Size = (224, 224),
        points: int = 7,
        lanes: int = 4,
        ratio: float = 1.1,
        inverse: bool = False,
        flip: bool = False,
        seed: int | None = None,
        jitter: bool = False,
    ) -> None:
        check_size(size, shorter=True)
        check_group(points, lanes, ratio)
        if len(images) != len(depths):
            raise InputError(f"there are {len(images)} images and {len(depths)} depths; give each image its depth.")
        for source in (*images, *depths):
            if not callable(source) and not is_file(Path(source)):
                raise InputError(f"{source} does not exist; check the path.")
        self.images, self.depths = list(images), list(depths)
        self.size, self.points, self.lanes, self.ratio = size, points, lanes, ratio
        self.inverse, self.flip, self.seed, self.jitter = inverse, flip, seed, jitter

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> OrderedPatches:
        from hybrid_encoder.data.images import read_image

        image_source, depth_source = self.images[index], self.depths[index]
        image = torch.as_tensor(image_source()) if callable(image_source) else read_image(Path(image_source))
        depth = torch.as_tensor(depth_source()) if callable(depth_source) else read_depth(Path(depth_source))
        if depth.ndim == 3 and len(depth) == 1:
            depth = depth[0]
        if depth.ndim != 2:
            raise InputError(f"{depth_source} gives depth of {tuple(depth.shape)}; (h, w) or (1, h, w) is needed.")
        name = f"image {index}" if callable(image_source) else str(image_source)
        if self.inverse:
            depth = torch.where(depth > 0, 1 / depth.double(), 0)
        generator = None if self.seed is None else torch.Generator().manual_seed(self.seed + index % len(self))
        points = ordered_points_from_depth(depth, self.points, self.lanes, self.ratio, generator)
        size = (depth.shape[0], depth.shape[1])
        if len(points):
            source = f"depth {index}" if callable(depth_source) else str(depth_source)
            check_same_view(size, source, (image.shape[-2], image.shape[-1]), name)
        flip = self.flip and bool(torch.rand((), generator=generator) < 0.5)
        return resize_item(image, points, size, self.size, flip, name, self.jitter)


def depth_files(images: str | Path, depths: str | Path, ending: str = ".npy") -> tuple[list[Path], list[Path]]:
    """List the images of a folder and their depth files, for ``OrderedDepth(*depth_files(...))``.

    Args:
        images: folder of images.
        depths: folder of depth files; a file's name is the stem of its image and then ``ending``.
        ending: such as ``".png"``, or ``"_relative_depth.npy"`` for files that ``hybrid-encoder predict`` has written.

    Raises:
        InputError: a folder without images, or an image without depth.
    """
    from hybrid_encoder.data.finding import find_images

    image_files = find_images([str(images)])
    files = [expanded(depths) / (image.stem + ending) for image in image_files]
    for image, file in zip(image_files, files, strict=True):
        if not is_file(file):
            raise InputError(f"{file}, the depth of {image}, does not exist; check the folder, or the ending.")
    return image_files, files


def lidar_frames(drive: KittiDrive, frames: Sequence[int] | None = None) -> tuple[list[ArraySource], list[ArraySource]]:
    """Return readers of images and lidar depth of a drive, for ``OrderedDepth(*lidar_frames(drive))``.

    Args:
        drive: a drive of KITTI raw.
        frames: numbers of the frames; by default all of the drive.
    """
    chosen = drive.frames if frames is None else frames
    return [partial(drive.image, f) for f in chosen], [partial(drive.lidar_depth, f) for f in chosen]


def resize_item(
    image: Tensor, points: Tensor, frame: tuple[int, int], size: Size, flip: bool, name: str, jitter: bool = False
) -> OrderedPatches:
    """Bring an image and its points to one size, mirrored or not, with other colours or its own.

    Args:
        image: RGB in [0, 1], (3, h, w).
        points: (x, y) in pixels of the same view at the size ``frame``, (L, P, 2).
        frame: (H, W) that the points are in; it may differ from the image's.
        size: of the item, as :func:`hybrid_encoder.data.transforms.item_size` takes it.
        flip: mirror image and points.
        name: of the item.
        jitter: change the image's colours at random.
    """
    size = item_size(size, (image.shape[-2], image.shape[-1]))
    images = resize_images(image[None], size)
    image = (jitter_colours(images) if jitter else images)[0]
    points = (points + 0.5) * points.new_tensor([size[1] / frame[1], size[0] / frame[0]]) - 0.5
    if flip:
        image = image.flip(-1)
        points = torch.stack([size[1] - 1 - points[..., 0], points[..., 1]], dim=-1)
    return OrderedPatches(image, points, name)


def check_group(points: int, lanes: int = 1, ratio: float = 1.1) -> None:
    """Raise InputError unless groups of points can be drawn with these options."""
    if points < 2:
        raise InputError(f"points per lane is {points}; an order needs at least 2: raise it.")
    if lanes < 1:
        raise InputError(f"lanes is {lanes}; it must be at least 1: raise it.")
    if not 1 < ratio < math.inf:
        raise InputError(
            f"ratio is {ratio}; depth over nearer depth must be above 1 and finite: give 1.1, for example."
        )
