"""Recordings of any kind, by their paths: what each path holds is found out, or said."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from hybrid_encoder.data.finding import files_below
from hybrid_encoder.data.kitti import KittiDrive
from hybrid_encoder.data.kitti_splits import find_drives
from hybrid_encoder.data.opening import SUFFIXES, expanded, is_file, is_folder, is_there
from hybrid_encoder.data.sources.base import Array, FrameSource
from hybrid_encoder.data.sources.cache import Progress, as_recorded, cached
from hybrid_encoder.data.sources.calibration import as_intrinsics, check_centre
from hybrid_encoder.data.sources.cityscapes import cityscapes_sources, is_cityscapes
from hybrid_encoder.data.sources.folder import folder_sources
from hybrid_encoder.data.sources.kitti_odometry import is_kitti_odometry, kitti_odometry_sources
from hybrid_encoder.data.sources.kitti_raw import KittiSource
from hybrid_encoder.data.sources.nuscenes import is_nuscenes, nuscenes_sources
from hybrid_encoder.data.sources.tartanair import is_tartanair, tartanair_sources
from hybrid_encoder.data.sources.video import VideoSource, video_size
from hybrid_encoder.data.transforms import Resample
from hybrid_encoder.data.video import VIDEO_SUFFIXES, is_video
from hybrid_encoder.errors import InputError
from hybrid_encoder.geometry.camera import intrinsics_from_fov

VIDEO, FOLDER = "video", "folder"
WITH_CAMERAS = ("kitti_raw", "kitti_odometry", "nuscenes")


class Kind(NamedTuple):
    """A layout of files.

    Attributes:
        holds: says whether a folder is laid out so.
        sources: opens its recordings; of those that have several cameras, the ones that are named.
        layout: what makes it known, for messages.
    """

    holds: Callable[[Path], bool]
    sources: Callable[[Path, Sequence[str] | None], Sequence[FrameSource]]
    layout: str


def open_sources(
    paths: Sequence[str | Path],
    size: tuple[int, int],
    resample: Resample = "bilinear",
    *,
    intrinsics: Array | Sequence[Sequence[float]] | None = None,
    fov: float | None = None,
    start_fov: float | None = None,
    cameras: Sequence[str] | None = None,
    every: int = 1,
    cache_folder: str | Path | None = None,
    cache_images: bool = False,
    progress: Progress | None = None,
) -> list[FrameSource]:
    """Open recordings, whatever they are.

    A path is the first of these that it can be: a video file, one of the data sets in :data:`KINDS` in their order, a
    folder of frames, a folder of such folders, a folder of video files. A name in front, as in ``kitti_raw:/data``,
    says what it is.

    Args:
        paths: one or several.
        size: (H, W) of the items that are made of them, which cached images have.
        resample: of :class:`~hybrid_encoder.data.sequences.SourceSequences`.
        intrinsics: of all recordings, (3, 3), in pixels of their own images, in place of those that they come with.
        fov: horizontal field of view of all recordings in degrees, in place of intrinsics.
        start_fov: the same for those only whose intrinsics are unknown.
        cameras: names or numbers of those that are used, of data sets with several.
        every: of a video, keep the first of so many frames.
        cache_folder: see :func:`~hybrid_encoder.data.sources.cache.cached`; videos are always read from a cache.
        cache_images: read other recordings from a cache too.
        progress: told about frames that are decoded into the cache.

    Raises:
        InputError: a path that holds no recording, with what was found there, intrinsics that cannot be those of its
            images, or a recording that comes twice.
    """
    if intrinsics is not None and fov is not None:
        raise InputError(f"intrinsics and fov {fov:g} exclude each other; give one of them.")
    given = None if intrinsics is None else as_intrinsics(intrinsics, "intrinsics")
    kept = {"size": size, "resample": resample, "folder": cache_folder, "progress": progress}

    def chosen(K: Array | None, own_size: tuple[int, int], name: str) -> Array | None:
        if given is not None:
            check_centre(given, own_size, name)
            return given
        angle = fov if fov is not None else start_fov if K is None else None
        return K if angle is None else intrinsics_from_fov(angle, own_size).numpy()

    found: list[FrameSource] = []
    for kind, path in (pair for text in paths for pair in recognise(str(text))):
        if cameras and "all" not in cameras and kind not in WITH_CAMERAS:
            raise InputError(f"{path} is a {kind}, which has no camera {cameras[0]} to choose; leave cameras out.")
        if kind == VIDEO:
            K = chosen(None, video_size(path), str(path))
            found.append(VideoSource(path, K=K, every=every, **kept))  # type: ignore[arg-type]
            continue
        sources = folder_sources(path) if kind == FOLDER else KINDS[kind].sources(path, cameras)
        if not sources:
            raise InputError(f"{path} has no frame of {kind}; {KINDS[kind].layout} is needed, with pictures inside.")
        for source in sources:
            source.K = chosen(source.K, source.size, source.name)
            found.append(cached(source, **kept) if cache_images else source)  # type: ignore[arg-type]
    _check_distinct(found)
    return found


def _check_distinct(sources: Sequence[FrameSource]) -> None:
    """Raise InputError where a recording comes twice, which would count twice and be two cameras."""
    for name, count in Counter(os.path.realpath(source.name) for source in sources).items():
        if count > 1:
            raise InputError(f"{name} comes {count} times among the sources; name every recording once.")


def describe(sources: Sequence[FrameSource], most: int = 8) -> list[str]:
    """Say of each recording in a line what is known of it, and in a last line how many more there are.

    Args:
        sources: recordings.
        most: lines at most, but for the last one.
    """
    lines = [_described(source) for source in sources[:most]]
    if len(sources) > most:
        frames = sum(len(source.frames) for source in sources)
        lines.append(f"... and {len(sources) - most:,} more recordings: {frames:,} frames in all")
    return lines


def _described(source: FrameSource) -> str:
    recorded = as_recorded(source)
    frames, K = source.frames, recorded.K
    facts = [f"{len(frames):,} frame{'s' * (len(frames) != 1)} of {recorded.size[0]} x {recorded.size[1]}"]
    if isinstance(source, VideoSource) and source.missing:
        facts.append(f"{source.missing:,} fewer than the file says: it is damaged or was cut")
    if K is None:
        facts.append("intrinsics unknown")
    else:
        facts.append(f"fx {K[0, 0]:.1f}, fy {K[1, 1]:.1f}, cx {K[0, 2]:.1f}, cy {K[1, 2]:.1f}")
    if source.baseline:
        facts.append(f"right view at {source.baseline:.3g} m")
    facts += [what for what, has in (("depth", source.depth), ("poses", source.world_T_cam)) if _gives(has, frames)]
    return f"{source.name}: {', '.join(facts)}"


def _gives(read: Callable[[int], Array | None], frames: Sequence[int]) -> bool:
    try:
        return len(frames) > 0 and read(frames[len(frames) // 2]) is not None
    except InputError:  # of this frame something is missing
        return False


def recognise(text: str) -> list[tuple[str, Path]]:
    """Return what a path is, ``"video"``, ``"folder"`` or one of :data:`KINDS`, and the paths of a folder of videos.

    Raises:
        InputError: nothing of that, with what was found there.
    """
    prefix, _, rest = text.partition(":")
    named = prefix in (VIDEO, FOLDER, *KINDS) and rest != "" and not is_there(Path(text))
    path = expanded(rest if named else text)
    if not is_there(path):
        raise InputError(f"{path} does not exist; give videos, folders of frames, or a data set.")
    if named and (prefix not in KINDS or is_folder(path)):
        return [(prefix, path)]
    if is_file(path) and is_video(path):
        return [(VIDEO, path)]
    if not is_folder(path):
        is_picture = path.suffix.lower() in SUFFIXES
        what = "a single picture; give the folder of all frames" if is_picture else "no video; give one, or a folder"
        raise InputError(f"{path} is {what}.")
    for kind, (holds, *_) in KINDS.items():
        if holds(path):
            return [(kind, path)]
    picture, videos = next(files_below(path, SUFFIXES), None), list(files_below(path, VIDEO_SUFFIXES))
    if picture is not None and videos:
        raise InputError(
            f"{path} holds pictures and videos, such as {picture.name} and {videos[0].name}; give the videos by their "
            f"names, and folder:{path} for the pictures."
        )
    if picture is not None:
        return [(FOLDER, path)]
    if videos:
        return [(VIDEO, video) for video in videos]
    raise InputError(
        f"{path} {_contents(path)}, but no picture and no video; give a video, a folder of frames, or the folder of a "
        f"data set: {', '.join(f'{kind} ({layout})' for kind, (_, _, layout) in KINDS.items())}."
    )


def _contents(folder: Path) -> str:
    """Say what a folder holds, by the endings of its files."""
    endings = Counter(
        "folder" if is_folder(path) else f"{path.suffix.lower()} file" if path.suffix else "file without an ending"
        for path in folder.iterdir()
    )
    counts = [
        f"{count:,} {what.replace('file', 'files').replace('folder', 'folders') if count > 1 else what}"
        for what, count in endings.most_common(4)
    ]
    return f"holds {' and '.join(counts)}" if counts else "is empty"


def _is_kitti_raw(path: Path) -> bool:
    try:
        return bool(find_drives(path))
    except InputError:
        return False


def _kitti_raw_sources(path: Path, cameras: Sequence[str] | None) -> list[FrameSource]:
    drives = [KittiDrive(folder, camera) for folder in find_drives(path) for camera in _numbers(cameras) or (2, 3)]
    return [KittiSource(drive) for drive in drives if drive.frames]


def _numbers(cameras: Sequence[str] | None) -> list[int] | None:
    """Return KITTI's numbers of cameras; None where all are meant."""
    if cameras is None or "all" in cameras:
        return None
    if wrong := [camera for camera in cameras if not str(camera).isdigit()]:
        raise InputError(f"camera {wrong[0]} is no number; KITTI's colour cameras are 2 (left) and 3 (right).")
    return [int(camera) for camera in cameras]


KINDS: dict[str, Kind] = {
    "kitti_raw": Kind(_is_kitti_raw, _kitti_raw_sources, "<date>/<drive>_sync/image_02/data"),
    "kitti_odometry": Kind(
        is_kitti_odometry,
        lambda path, cameras: kitti_odometry_sources(path, cameras=_numbers(cameras)),
        "sequences/00/image_2",
    ),
    "cityscapes": Kind(is_cityscapes, lambda path, cameras: cityscapes_sources(path), "leftImg8bit_sequence/train"),
    "nuscenes": Kind(
        is_nuscenes,
        lambda path, cameras: nuscenes_sources(path, "all" if "all" in (cameras or ()) else cameras or ("CAM_FRONT",)),
        "v1.0-trainval/sample_data.json",
    ),
    "tartanair": Kind(is_tartanair, lambda path, cameras: tartanair_sources(path), "P000/image_left"),
}
