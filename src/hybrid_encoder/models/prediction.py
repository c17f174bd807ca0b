"""What a model predicts for pictures: numbers that say their scale, and what is made of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from hybrid_encoder.config.checking import shown
from hybrid_encoder.data.conversion import ImageLike, to_image
from hybrid_encoder.data.images import Pixels, colorize, read_image, to_pixels
from hybrid_encoder.data.opening import MAX_PIXELS, expanded
from hybrid_encoder.data.results import (
    COLOURS,
    MARK,
    WORDS,
    check_foreign,
    write_array,
    write_marked_png,
    written_together,
)
from hybrid_encoder.errors import CheckpointError, InputError
from hybrid_encoder.models.cameras import camera_of, is_between

if TYPE_CHECKING:
    from hybrid_encoder.data.point_clouds import PointCloud
    from hybrid_encoder.models.words import DepthWords

Numbers = Literal["npy", "png16"]
CloudFormat = Literal["ply", "glb"]
FARTHEST = 65535 / 256  # metres in KITTI's 16-bit PNG files


@dataclass(frozen=True, eq=False)
class DepthPrediction:
    """What ``infer`` returns, at the size of the picture; the name of each field says its scale.

    Of a batch, ``prediction[i]`` is that of one picture.

    Attributes:
        disparity: (1, H, W), 1 near and 0 far (Monodepth2's ``disp``); (B, 1, H, W) of a batch.
        relative_depth: same shape, scale unknown; None where the scale is known.
        depth_m: same shape, in metres; None where the scale is unknown.
        source: the picture, or the batch of pictures, as it was given; it colours the points.
        words: what the prompts say of it; None unless ``infer(..., words=True)`` asked for it.
    """

    disparity: Tensor
    relative_depth: Tensor | None
    depth_m: Tensor | None
    source: Any = None
    words: DepthWords | None = None

    @property
    def depth(self) -> Tensor:
        """``depth_m`` where the scale is known, else ``relative_depth``."""
        depth = self.relative_depth if self.depth_m is None else self.depth_m
        assert depth is not None  # a prediction has one of the two
        return depth

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the picture."""
        return self.disparity.shape[-2], self.disparity.shape[-1]

    @property
    def is_batch(self) -> bool:
        """Whether these are several pictures of one size."""
        return self.disparity.ndim == 4

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.disparity) if self.is_batch else 1

    def __getitem__(self, index: int) -> DepthPrediction:
        """Return the prediction for one picture of a batch."""
        if not self.is_batch:
            if index not in (0, -1):
                raise IndexError(f"index is {index}; this is the prediction for one picture.")
            return self
        return self._map(lambda values: values[index], None if self.source is None else self.source[index])

    def __iter__(self) -> Iterator[DepthPrediction]:
        """Iterate over the pictures."""
        return (self[index] for index in range(len(self)))

    def cpu(self) -> DepthPrediction:
        """Return the same on the CPU."""
        return self._map(Tensor.cpu, self.source)

    def _map(self, change: Callable[[Tensor], Tensor], source: Any) -> DepthPrediction:
        return DepthPrediction(
            change(self.disparity),
            None if self.relative_depth is None else change(self.relative_depth),
            None if self.depth_m is None else change(self.depth_m),
            source,
            None if self.words is None else self.words.changed(change),
        )

    def check_finite(self, name: str) -> None:
        """Raise CheckpointError where the weights give something that is no depth.

        Args:
            name: what the error calls the picture.
        """
        for values in (self.disparity, self.depth, *([] if self.words is None else [self.words.logits])):
            if num_bad := values.numel() - int(values.isfinite().sum()):
                raise CheckpointError(
                    f"of {values.numel()} values that the weights give for {name}, {num_bad} are not finite; nothing "
                    "was written for it: take other weights."
                )

    def colored(self, colormap: str = "magma", near: float | None = None, far: float | None = None) -> Pixels:
        """Return a coloured map; with the default colours, near is bright. Colours are even steps of 1 / depth.

        Args:
            colormap: name of one of matplotlib's.
            near, far: depth at the two ends of the colours, in the prediction's own unit; by default the 95th
                percentile of the picture's disparity, and its least value, as Monodepth2 shows it.

        Returns:
            uint8, (H, W, 3); (B, H, W, 3) of a batch.

        Raises:
            InputError: ends that are no positive numbers, or near behind far; a colour map that does not exist.
        """
        _check_positive(near=near, far=far)
        if near is not None and far is not None and near >= far:
            raise InputError(f"near is {near:g} and far {far:g}; near must be the smaller one.")
        if self.is_batch:
            return np.stack([one.colored(colormap, near, far) for one in self])
        if near is None and far is None:
            return colorize(self.disparity[0], name=colormap)  # an even step of it is one of 1 / depth
        return colorize(1 / self.depth[0], far and 1 / far, near and 1 / near, colormap)

    def points(
        self,
        *,
        fov: float | None = None,
        intrinsics: Any = None,
        max_depth: float | None = None,
        edges: float | None = 0.04,
    ) -> PointCloud:
        """Return the points that the pixels see, in the colours of the picture, and in the unit of the depth.

        Without ``fov`` and ``intrinsics``, the focal length in the EXIF data of the picture's file is taken.

        Args:
            fov: horizontal field of view, in degrees.
            intrinsics: ``K``, (3, 3), in pixels of the picture; focal lengths below 10 are shares of width and height.
            max_depth: leave out points beyond it.
            edges: leave out pixels whose depth differs from a neighbour's by more than this share: between a thing and
                what is behind it there are no points. None keeps them all.

        Raises:
            InputError: a batch, both or none of the two where EXIF says nothing, values that cannot be, or a file that
                is no longer there, or another picture now.
        """
        from hybrid_encoder.data.point_clouds import unprojected

        if self.is_batch:
            raise InputError(f"these are {len(self)} pictures; take the points of one: prediction[0].points().")
        _check_positive(max_depth=max_depth, edges=edges)
        K = camera_of(self.source, self.size, fov, intrinsics)
        colours = self.colored() if self.source is None else to_pixels(_picture(self.source, self.size).float())
        return unprojected(self.depth[0].cpu(), colours, K, max_depth=max_depth, edge_rtol=edges)

    def save(
        self,
        folder: str | Path,
        name: str = "image",
        *,
        numbers: Numbers | None = "npy",
        cloud: CloudFormat | None = None,
        words: bool = False,
        colormap: str = "magma",
        near: float | None = None,
        far: float | None = None,
        fov: float | None = None,
        intrinsics: Any = None,
    ) -> list[Path]:
        """Write a coloured map, ``<name>_depth.png``, and the numbers; all of them, or none.

        Files of earlier predictions are replaced, others never are. Of a batch, names end in ``_0``, ``_1``, ...

        Args:
            folder: made if it is not there.
            name: what the files' names begin with.
            numbers: ``"npy"`` writes float32 depth, ``<name>_relative_depth.npy`` or ``<name>_depth_m.npy``;
                ``"png16"`` 16 bits, metres x 256 (KITTI) as ``<name>_depth_m_x256.png`` if the scale is known, else
                ``<name>_disparity_x65535.png``; None nothing.
            cloud: write ``<name>_points.ply`` or ``.glb``, too, as ``points`` returns it.
            words: write ``<name>_words.png``, too: the most similar prompt of every place.
            colormap, near, far: as for ``colored``.
            fov, intrinsics: as for ``points``.

        Returns:
            The files, in the order in which they are named here.

        Raises:
            InputError: a file of a person in the place of one, a choice that does not exist, metres beyond what
                16 bits hold, or words of a prediction that has none.
            OSError: the folder cannot be written.
        """
        if not isinstance(name, str) or os.path.basename(name) != name or "\0" in name:
            raise InputError(
                f"name is {shown(name)}; the beginning of a file's name is needed, its place is the folder."
            )
        if words and self.words is None:
            raise InputError("the prediction has no words; ask for them: infer(..., words=True).")
        folder = expanded(folder)
        folder.mkdir(parents=True, exist_ok=True)
        given = {"numbers": numbers, "cloud": cloud, "words": words, "colormap": colormap, "near": near, "far": far}
        with written_together(folder) as staging:
            for index, one in enumerate(self):
                stem = f"{name}_{index}" if self.is_batch else name
                one._write(staging, stem, fov=fov, intrinsics=intrinsics, **given)  # type: ignore[arg-type]
            files = sorted((file.name for file in staging.iterdir()), key=_order)
            check_foreign([folder / file for file in files])
        return [folder / file for file in files]

    def _write(
        self,
        folder: Path,
        stem: str,
        *,
        numbers: Numbers | None,
        cloud: CloudFormat | None,
        words: bool,
        colormap: str,
        near: float | None,
        far: float | None,
        fov: float | None,
        intrinsics: Any,
    ) -> None:
        """Write the files of one picture into a folder that has none of these names."""
        if numbers not in ("npy", "png16", None) or cloud not in ("ply", "glb", None):
            raise InputError(
                f"numbers is {shown(numbers)} and cloud {shown(cloud)}; numbers must be 'npy', 'png16' or None, and "
                "cloud 'ply', 'glb' or None."
            )
        metric, depth = self.depth_m is not None, self.depth[0].cpu()
        if numbers == "npy":
            write_array(folder / f"{stem}_{'depth_m' if metric else 'relative_depth'}.npy", depth.numpy())
        elif numbers:
            if metric and (farthest := float(depth.max())) > FARTHEST:
                raise InputError(
                    f"depth goes up to {farthest:g} m, and a 16-bit PNG holds up to {FARTHEST:g} m; take npy."
                )
            scaled = depth * 256 if metric else self.disparity[0].cpu() * 65535
            values = scaled.clamp(0, 65535).round().numpy().astype(np.uint16)
            write_marked_png(folder / f"{stem}_{'depth_m_x256' if metric else 'disparity_x65535'}.png", values)
        if cloud:
            from hybrid_encoder.data.point_clouds import write_cloud

            write_cloud(folder / f"{stem}_points.{cloud}", self.points(fov=fov, intrinsics=intrinsics), MARK)
        write_marked_png(folder / f"{stem}{COLOURS}", self.colored(colormap, near, far))
        if words and self.words is not None:
            from hybrid_encoder.models.word_pictures import draw_words

            write_marked_png(folder / f"{stem}{WORDS}", draw_words(self.words, self.size, colormap))


def _check_positive(**values: Any) -> None:
    """Raise InputError for a value that is given and no number above 0."""
    for name, value in values.items():
        if value is not None and not is_between(value, float("inf")):
            raise InputError(f"{name} is {shown(value)}; a number above 0 is needed.")


def _picture(source: ImageLike, size: tuple[int, int]) -> Tensor:
    """Return the picture of a prediction; that of a file is as large as when it was predicted."""
    if isinstance(source, (str, Path)):
        return read_image(expanded(source), max(MAX_PIXELS, size[0] * size[1]))
    return to_image(source)


def _order(name: str) -> tuple[bool, bool, bool, str]:
    """Order the files of a picture: the coloured map, the numbers, the points, the words."""
    return not name.endswith(COLOURS), name.endswith(WORDS), "_points." in name, name
