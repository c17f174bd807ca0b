"""Coloured points: from a depth map and its picture, and as files that viewers of point clouds read."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybrid_encoder.errors import ConfigError, InputError, visible
from hybrid_encoder.geometry.camera import unproject
from hybrid_encoder.writing import write_whole, written_whole

CLOUD_SUFFIXES = (".ply", ".glb")
BLOCK, POINTS = 256, 2**20  # rows and points that are worked on at once: all together would take several times as much
EDGE_RTOL = 0.04  # of :func:`unprojected`, where edges are to be left out
NEARBY = 3  # pixels over which a network blurs an edge
# One point of a PLY file, without padding.
VERTEX = np.dtype([("position", "<f4", 3), ("color", "u1", 3)])
_ONE_GLB = threading.Lock()  # trimesh takes ten times the memory of the points
# glTF looks along -z, with y up.
GLTF_AXES = np.array([1, -1, -1], np.float32)
# glTF's colours of points are proportional to light; those of pictures (sRGB) are not, and would look faded.
_SRGB = np.arange(256) / 255
LIGHT = np.where(_SRGB <= 0.04045, _SRGB / 12.92, ((_SRGB + 0.055) / 1.055) ** 2.4)
GLTF_COLORS = (LIGHT * 255).round().astype(np.uint8)


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Points with colours.

    Attributes:
        positions: (N, 3), float32, in the unit of the depth that they come from; camera axes x right, y down,
            z forward.
        colors: RGB, (N, 3), uint8.
    """

    positions: NDArray[np.float32]
    colors: NDArray[np.uint8]

    def __post_init__(self) -> None:
        """Raise InputError where the two do not fit together."""
        if self.positions.ndim != 2 or self.positions.shape[1] != 3 or self.colors.shape != self.positions.shape:
            raise InputError(
                f"positions are {self.positions.shape} and colors {self.colors.shape}; both must be (N, 3)."
            )

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.positions)


def unprojected(
    depth: Tensor,
    rgb: NDArray[np.uint8],
    K: Tensor,
    max_depth: float | None = None,
    edge_rtol: float | None = None,
) -> PointCloud:
    """Return the points that a depth map shows, row by row.

    Pixels whose depth is not finite or not above 0 give none.

    Args:
        depth: (H, W) or (1, H, W), in metres or on any other scale.
        rgb: the picture, (H, W, 3), uint8.
        K: intrinsics in pixels of the picture, (3, 3).
        max_depth: leave out what is farther.
        edge_rtol: leave out pixels at the edges of objects, where depth jumps by more than this part of it
            (:func:`depth_edges`); ``EDGE_RTOL`` is usual. A network's depth is continuous where the world is not, and
            such pixels would hang in the air between an object and what is behind it.

    Raises:
        InputError: shapes that do not fit, or intrinsics that cannot be inverted.
    """
    depth = depth.detach().cpu().float().reshape(depth.shape[-2:])
    if depth.shape != rgb.shape[:2] or rgb.shape[2:] != (3,) or rgb.dtype != np.uint8:
        raise InputError(
            f"depth is {tuple(depth.shape)} and rgb {rgb.shape}, {rgb.dtype}; a picture of "
            f"{(*depth.shape, 3)}, uint8 is needed."
        )
    kept = depth.isfinite() & (depth > 0)
    if max_depth is not None:
        kept &= depth <= max_depth
    if edge_rtol is not None:
        kept &= ~depth_edges(depth, edge_rtol)
    camera = K.detach().cpu().float()[None].clone()
    number, start = int(kept.sum()), 0
    positions, colors = np.empty((number, 3), np.float32), np.empty((number, 3), np.uint8)
    for top in range(0, len(depth), BLOCK):
        rows = slice(top, top + BLOCK)
        chosen = kept[rows].numpy()
        points = unproject(depth[None, None, rows], camera)[0].T.numpy()[chosen.ravel()]
        positions[start : start + len(points)] = points
        colors[start : start + len(points)] = rgb[rows][chosen]
        start += len(points)
        camera[0, 1, 2] -= BLOCK  # the next rows as a picture of their own
    return PointCloud(positions, colors)


def depth_edges(depth: Tensor, rtol: float) -> Tensor:
    """Return where depth (H, W) jumps from one object to another, bool, (H, W).

    There it differs in the 3 x 3 neighbourhood by more than ``rtol`` of itself, and a bend is near. That alone would
    also be true of a road far away, which is seen so flatly that every row is metres from the next. But the inverse of
    depth is linear on a plane, however flatly it is seen, and bends where the plane ends: its second difference, along
    rows or columns, is above half of ``rtol`` of it. A network's edges are a few pixels wide, so that bends count up to
    3 pixels away. Neighbours that are not finite are no neighbours.
    """
    halo = NEARBY + 1
    bordered = torch.nn.functional.pad(depth[None], (0, 0, halo, halo), value=torch.nan)[0]
    edges = []
    for top in range(0, len(depth), BLOCK):
        rows = bordered[top : top + BLOCK + 2 * halo]
        known = rows.isfinite()
        highest = _largest(torch.where(known, rows, -torch.inf))
        lowest = -_largest(torch.where(known, -rows, -torch.inf))
        jumps = known & (highest - lowest > rtol * rows)
        inverse = 1 / torch.where(known & (rows > 0), rows, torch.nan)
        bends = torch.zeros_like(inverse)
        bends[1:-1] = inverse.diff(n=2, dim=0).abs()
        bends[:, 1:-1] = torch.fmax(bends[:, 1:-1], inverse.diff(n=2, dim=1).abs())
        bent = _largest(bends > rtol / 2 * inverse, NEARBY)
        edges.append((jumps & bent)[halo:-halo])
    return torch.cat(edges)


def _largest(values: Tensor, radius: int = 1) -> Tensor:
    """Return the largest value up to so many rows and columns away."""
    for _ in range(2):  # down, then across
        for _ in range(radius):
            padded = torch.cat([values[:1], values, values[-1:]])
            values = torch.maximum(torch.maximum(padded[:-2], padded[1:-1]), padded[2:])
        values = values.T
    return values


def write_cloud(path: str | Path, cloud: PointCloud, comment: str = "") -> None:
    """Write points to a file, whole or not at all.

    A ``.ply`` file is binary and keeps the camera's axes (x right, y down, z forward), as the header says. A ``.glb``
    file (glTF) is as its readers expect it: y is up and the camera looks along -z, so that y and z change their sign;
    and colours are proportional to light, so that dark ones are coarser than in the ``.ply``.

    Args:
        path: of the file; its ending says the format.
        cloud: at least one point.
        comment: a line that is kept in the file.

    Raises:
        InputError: another ending, or a cloud without a point.
        ConfigError: for ``.glb``, trimesh is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in CLOUD_SUFFIXES:
        raise InputError(f"{path} ends in {path.suffix!r}; name a file of {' or '.join(CLOUD_SUFFIXES)}.")
    if not len(cloud):
        raise InputError(f"{path} would hold no point; nothing was written.")
    if path.suffix.lower() == ".glb":
        write_whole(path, _as_glb(cloud, comment))
    else:
        _write_ply(path, cloud, comment)


def _write_ply(path: Path, cloud: PointCloud, comment: str) -> None:
    fields = [f"property float {axis}" for axis in "xyz"] + [f"property uchar {c}" for c in ("red", "green", "blue")]
    header = [
        *("ply", "format binary_little_endian 1.0", "comment hybrid-encoder: x right, y down, z forward"),
        *([f"comment {visible(comment)}"] if comment else []),
        *(f"element vertex {len(cloud)}", *fields, "end_header\n"),
    ]
    with written_whole(path) as written, open(written, "wb") as file:
        file.write("\n".join(header).encode())
        for start in range(0, len(cloud), POINTS):
            part = slice(start, start + POINTS)
            vertices = np.empty(len(cloud.positions[part]), VERTEX)
            vertices["position"], vertices["color"] = cloud.positions[part], cloud.colors[part]
            file.write(vertices.data)


def check_glb() -> None:
    """Raise ConfigError unless ``.glb`` files can be written here.

    Raises:
        ConfigError: trimesh is not installed.
    """
    try:
        import trimesh  # noqa: F401
    except ImportError:
        raise ConfigError(
            "trimesh is not installed, which writes .glb; pip install 'hybrid-encoder[glb]', or write .ply."
        ) from None


def _as_glb(cloud: PointCloud, comment: str) -> bytes:
    check_glb()
    import trimesh

    def remark(tree: dict[str, Any]) -> None:
        if comment:
            tree["asset"]["extras"] = {"comment": comment}

    with _ONE_GLB:
        points: Any = trimesh.PointCloud(cloud.positions * GLTF_AXES, colors=GLTF_COLORS[cloud.colors])
        content: bytes = points.export(file_type="glb", tree_postprocessor=remark)
    return content
