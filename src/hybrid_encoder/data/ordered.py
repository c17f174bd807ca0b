"""Patches in the order of their depth, from any depth: predicted, scanned or rendered, with or without a scale.

What the coarse stage needs of a picture are groups of points from near to far. The published method reads them off
lane labels (:mod:`hybrid_encoder.data.tusimple`); here they come from depth itself, and only its order is kept.

Points are (x, y) in pixels with pixel centres at integers, so that resizing by s takes x to (x + 0.5) s - 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from hybrid_encoder.config import MIN_SIZE
from hybrid_encoder.errors import InputError

if TYPE_CHECKING:
    from hybrid_encoder.data.kitti import KittiDrive

Source = str | Path | Callable[[], Any]  # a file, or what gives an array

CANDIDATES = 1 << 14  # of a dense map's pixels: sorting all of KITTI's would take longer than reading the picture


class OrderedPatches(NamedTuple):
    """One picture with its groups (lanes) of points."""

    image: Tensor  # (3, H, W), RGB in [0, 1]
    points: Tensor  # (L, P, 2), (x, y) in pixels of the image, from near to far
    name: str = ""  # where it is from, for error messages


class PatchBatch(NamedTuple):
    """Pictures with their lanes one after another: what ``CoarsePatchLoss`` takes."""

    images: Tensor  # (B, 3, H, W)
    points: Tensor  # (sum of L, P, 2)
    # Which image a lane belongs to, (sum of L,), int64; the name, of the loss, hides a method of tuples.
    index: Tensor  # type: ignore[assignment]
    names: tuple[str, ...] = ()


def collate(items: Sequence[OrderedPatches]) -> PatchBatch:
    """Items as one batch, for ``DataLoader(..., collate_fn=collate)``; pictures without lanes are welcome."""
    counts = torch.tensor([len(item.points) for item in items])
    return PatchBatch(
        torch.stack([item.image for item in items]),
        torch.cat([item.points for item in items]),
        torch.arange(len(items)).repeat_interleave(counts),
        tuple(item.name for item in items),
    )


def ordered_points_from_depth(
    depth: Tensor, count: int = 7, lanes: int = 4, ratio: float = 1.1, generator: torch.Generator | None = None
) -> Tensor:
    """Groups of pixels from near to far, each at least ``ratio`` times as far as the one before it.

    Every group of valid pixels that keeps the ratio is equally likely, and groups are drawn independently; of more than
    16384 valid pixels, as many are drawn first.

    Args:
        depth: (H, W), of any scale, dense or sparse; not valid where it is not positive and finite.
        count: P, pixels in a group.
        lanes: L, groups.
        ratio: above 1.
        generator: on the CPU; by default torch's own.

    Returns:
        (L, P, 2), float32, (x, y) in pixels of the depth map; (0, P, 2) where no group exists.

    Raises:
        InputError: another shape, or an option out of its range.

    Example:
        >>> ordered_points_from_depth(torch.tensor([[4.0, 2.0, 0.0, 1.0]]), count=3, lanes=1)
        tensor([[[3., 0.],
                 [1., 0.],
                 [0., 0.]]])
    """
    check_group(count, lanes, ratio)
    if depth.ndim != 2:
        raise InputError(f"depth is {tuple(depth.shape)}; (H, W) is needed: take one map, without a channel.")
    flat = depth.detach().flatten().cpu().double()
    pixels = ((flat > 0) & flat.isfinite()).nonzero()[:, 0]
    if len(pixels) > CANDIDATES:
        pixels = pixels[torch.randint(len(pixels), (CANDIDATES,), generator=generator)]
    values, order = flat[pixels].sort()
    before = torch.searchsorted(values * ratio, values, right=True)  # how many pixels are near enough to precede each

    # sums[k][m]: how many groups of k + 1 the m nearest pixels make, up to a factor, or it would overflow.
    sums, groups = [], torch.ones_like(values)
    for _ in range(count):
        total = F.pad(groups.cumsum(0), (1, 0))
        if total[-1] == 0:
            return depth.new_zeros((0, count, 2), dtype=torch.float32)
        sums.append(total / total[-1])
        groups = sums[-1][before]

    bound = torch.full((lanes,), len(values))
    picks = []
    for total in reversed(sums):  # from far to near, as each pick bounds the ones before it
        drawn = torch.rand(lanes, generator=generator, dtype=torch.float64) * total[bound]
        picks.append(torch.searchsorted(total[1:], drawn, right=True))
        bound = before[picks[-1]]
    chosen = pixels[order[torch.stack(picks[::-1], dim=1)]]
    width = depth.shape[1]
    return torch.stack([chosen % width, chosen // width], dim=-1).float().to(depth.device)


class OrderedDepth(Dataset[OrderedPatches]):
    """Pictures with groups of points that their depth maps put in order.

    Depth need not have the picture's size, only its view; it is never resampled. ``depth_files`` and ``lidar_frames``
    make the first two arguments.

    Args:
        images: pictures: files, or functions that give RGB in [0, 1], (3, H, W).
        depths: for each picture: a ``.npy`` file, a 16-bit PNG file (value / 256, as KITTI has it), or a function that
            gives an array; (h, w) or (1, h, w), 0 where unknown.
        size: (H, W) of the items.
        points, lanes, ratio: ``count``, ``lanes`` and ``ratio`` of ``ordered_points_from_depth``.
        inverse: depths hold disparity, or another number that is larger the nearer a pixel is.
        flip: mirror half of the items.
        seed: the same points whenever an item is read; by default new ones, from torch's own generator.

    Raises:
        InputError: an option out of its range, not as many depths as images, a file that is missing; later, a file
            that does not hold what it should.
    """

    def __init__(
        self,
        images: Sequence[Source],
        depths: Sequence[Source],
        size: tuple[int, int] = (224, 224),
        points: int = 7,
        lanes: int = 4,
        ratio: float = 1.1,
        inverse: bool = False,
        flip: bool = False,
        seed: int | None = None,
    ) -> None:
        check_size(size)
        check_group(points, lanes, ratio)
        if len(images) != len(depths):
            raise InputError(f"there are {len(images)} images and {len(depths)} depths; give each image its depth.")
        for source in (*images, *depths):
            if not callable(source) and not Path(source).is_file():
                raise InputError(f"{source} does not exist; check the path.")
        self.images, self.depths = list(images), list(depths)
        self.size, self.points, self.lanes, self.ratio = size, points, lanes, ratio
        self.inverse, self.flip, self.seed = inverse, flip, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> OrderedPatches:
        from hybrid_encoder.data.images import read_image

        picture, source = self.images[index], self.depths[index]
        image = torch.as_tensor(picture()) if callable(picture) else read_image(Path(picture))
        depth = torch.as_tensor(source()) if callable(source) else read_depth(Path(source))
        if depth.ndim == 3 and len(depth) == 1:
            depth = depth[0]
        if depth.ndim != 2:
            raise InputError(f"{source} gives depth of {tuple(depth.shape)}; (h, w) or (1, h, w) is needed.")
        if self.inverse:
            depth = torch.where(depth > 0, 1 / depth.double(), 0)
        generator = None if self.seed is None else torch.Generator().manual_seed(self.seed + index % len(self))
        points = ordered_points_from_depth(depth, self.points, self.lanes, self.ratio, generator)
        flip = self.flip and bool(torch.rand((), generator=generator) < 0.5)
        name = f"picture {index}" if callable(picture) else str(picture)
        return fit(image, points, (depth.shape[0], depth.shape[1]), self.size, flip, name)


def depth_files(images: str | Path, depths: str | Path, ending: str = ".npy") -> tuple[list[Path], list[Path]]:
    """The pictures of a folder and their depth files, for ``OrderedDepth(*depth_files(...))``.

    Args:
        images: folder of pictures.
        depths: folder of depth files, named as the pictures but for the ending.
        ending: what follows a picture's stem, such as ``".png"``, or ``"_relative_depth.npy"`` for what
            ``hybrid-encoder predict`` has written.

    Raises:
        InputError: no pictures, or one without depth.
    """
    from hybrid_encoder.data.images import find_images

    pictures = find_images([str(images)])
    files = [Path(depths).expanduser() / (picture.stem + ending) for picture in pictures]
    for picture, file in zip(pictures, files, strict=True):
        if not file.is_file():
            raise InputError(f"{file} does not exist, the depth of {picture}; check the folder, or the ending.")
    return pictures, files


def lidar_frames(drive: KittiDrive, frames: Sequence[int] | None = None) -> tuple[list[Source], list[Source]]:
    """Pictures and lidar depth of a drive, for ``OrderedDepth(*lidar_frames(drive))``; by default, of all frames."""
    chosen = drive.frames if frames is None else frames
    return [partial(drive.image, f) for f in chosen], [partial(drive.lidar_depth, f) for f in chosen]


def read_depth(path: Path) -> Tensor:
    """The array of a ``.npy`` file as it is, or a 16-bit PNG file divided by 256, (h, w).

    Raises:
        InputError: a file that is missing or holds something else.
    """
    from PIL import Image

    try:
        if path.suffix == ".npy":
            array = np.load(path, allow_pickle=False)
        else:
            with Image.open(path) as image:
                if not image.mode.startswith("I"):
                    raise ValueError(f"its mode is {image.mode}")
                array = np.asarray(image) / 256
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            raise ValueError("it holds no plain numbers")
        return torch.from_numpy(array.astype(np.float32))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path.") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise InputError(f"{path} cannot be read as depth ({error}); give a 16-bit grey PNG or a .npy.") from None


def fit(
    image: Tensor, points: Tensor, frame: tuple[int, int], size: tuple[int, int], flip: bool, name: str
) -> OrderedPatches:
    """A picture (3, h, w), and points in pixels of the same view at another size, both at one size, mirrored or not.

    Args:
        frame: (H, W) that the points are in.
    """
    image = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False, antialias=True)[0]
    points = (points + 0.5) * points.new_tensor([size[1] / frame[1], size[0] / frame[0]]) - 0.5
    if flip:
        image = image.flip(-1)
        points = torch.stack([size[1] - 1 - points[..., 0], points[..., 1]], dim=-1)
    return OrderedPatches(image.clamp(0, 1), points, name)


def check_size(size: tuple[int, int]) -> None:
    """Raises InputError unless a model takes pictures of this size."""
    if len(size) != 2 or min(size) < MIN_SIZE:
        raise InputError(f"size is {size}; it must be (H, W) with at least {MIN_SIZE} pixels each: raise it.")


def check_group(count: int, lanes: int = 1, ratio: float = 1.1) -> None:
    """Raises InputError unless groups of points can be made so."""
    if count < 2:
        raise InputError(f"points per lane is {count}; an order needs at least 2: raise it.")
    if lanes < 1:
        raise InputError(f"lanes is {lanes}; it must be at least 1: raise it.")
    if not 1 < ratio < math.inf:
        raise InputError(f"ratio is {ratio}; farther over nearer must be above 1, and finite: take 1.1, say.")
