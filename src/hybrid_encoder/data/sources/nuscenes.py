"""nuScenes as a source of frames: one scene of 20 seconds, seen by one of six cameras at about 12 Hz.

The layout is that of its archives::

    <root>/v1.0-{trainval,test,mini}/{scene,sample,sample_data,calibrated_sensor,ego_pose,sensor}.json
    <root>/samples/<camera>/*.jpg       key frames, two in a second
    <root>/sweeps/<camera>/*.jpg        the frames between them
    <root>/samples/LIDAR_TOP/*.pcd.bin  lidar points of the key frames
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from hybrid_encoder.data.depth_maps import depth_of_points
from hybrid_encoder.data.kitti_files import read_scan
from hybrid_encoder.data.nuscenes_tables import NuScenesTables, SensorTrack, versions
from hybrid_encoder.data.opening import expanded, is_file, is_folder
from hybrid_encoder.data.sources.base import Array, FrameSource
from hybrid_encoder.data.sources.layouts import camera_text, contents, read_frame
from hybrid_encoder.errors import InputError

CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")  # clockwise
LIDAR = "LIDAR_TOP"
POINT_NUMBERS = 5  # of a lidar point: x, y, z, intensity and the number of its ring, float32
MIN_DEPTH = 1.0  # metres; what is nearer is the vehicle itself, which the development kit leaves out, too


class NuScenesSource(FrameSource):
    """A scene seen by one camera, with poses of every frame, and with lidar depth of its key frames.

    Lidar and camera look at slightly different times: the points go to the world by the vehicle's pose at the lidar's
    time, and from there to the camera by its pose at the camera's. What moves by itself is a little off.

    Args:
        root: of the data set.
        track: what the camera has recorded.
        frames: numbers of the images that are there, rising; positions in the track.
        lidar: what the lidar has recorded in the same scene, at key frames at least; None for no depth.
    """

    def __init__(
        self, root: str | Path, track: SensorTrack, frames: Sequence[int], lidar: SensorTrack | None = None
    ) -> None:
        if track.K is None:
            raise InputError(f"{track.channel} of nuScenes is no camera; the cameras are {', '.join(CAMERAS)}.")
        self.root, self.track = expanded(root).absolute(), track
        self.name = f"{self.root}, {track.scene}, {track.channel}"
        self.size, self.K = track.size, track.K
        self.camera = camera_text("nuScenes", track.K)
        self._frames, self._own_K = list(frames), track.K.astype(np.float64)
        scans = {sample: number for number, sample in enumerate(lidar.samples) if lidar.key[number]} if lidar else {}
        self._lidar, self._scans = lidar, scans

    @property
    def frames(self) -> Sequence[int]:
        return self._frames

    def file(self, frame: int) -> Path:
        return self.root / self.track.files[frame]

    def image(self, frame: int) -> Array:
        return read_frame(self.file(frame), self.size, "nuScenes")

    def depth(self, frame: int) -> Array | None:
        """Return lidar depth, as :meth:`FrameSource.depth`, of a key frame; None for the frames between."""
        number = self._scans.get(self.track.samples[frame]) if self.track.key[frame] else None
        if self._lidar is None or number is None or not is_file(self.root / self._lidar.files[number]):
            return None
        points = read_scan(self.root / self._lidar.files[number], POINT_NUMBERS)[:, :4].astype(np.float64)
        points[:, 3] = 1  # homogeneous coordinates, in place of the intensity
        cam_T_lidar = np.linalg.inv(self.track.world_T_sensor[frame]) @ self._lidar.world_T_sensor[number]
        return depth_of_points((cam_T_lidar @ points.T)[:3], self._own_K, self.size, MIN_DEPTH)

    def world_T_cam(self, frame: int) -> Array:
        pose: Array = self.track.world_T_sensor[frame]
        return pose

    def recorded(self, frame: int) -> tuple[str, int, str]:
        return f"{self.track.scene}_{self.track.channel}", frame, ""

    def frame_name(self, frame: int) -> str:
        return f"{self.track.scene}_{self.track.channel} {frame}"


def is_nuscenes(path: str | Path) -> bool:
    """Say whether a folder is that of nuScenes, because it holds the folder of its tables, or is that one."""
    root, version = _located(path)
    return version is not None or bool(versions(root))


def nuscenes_sources(
    path: str | Path,
    cameras: Sequence[str] | Literal["all"] = ("CAM_FRONT",),
    scenes: Sequence[str] | None = None,
    version: str | None = None,
) -> list[FrameSource]:
    """List the scenes of nuScenes, by name, then camera.

    Scenes of which no image is there are left out: the data set comes in ten parts. Where only key frames of a camera
    are there (``samples`` without ``sweeps``), they are neighbours, half a second apart; else a frame whose file is
    missing leaves a gap.

    Args:
        path: the folder that holds ``samples``, ``sweeps`` and the tables, or the tables' in it, such as ``v1.0-mini``.
        cameras: names such as ``"CAM_FRONT"``, or ``"all"`` six.
        scenes: their names, such as ``["scene-0061"]``, for example those of a split; by default all.
        version: of the tables, such as ``"v1.0-mini"``; not needed where there is one, or where the path says it.

    Raises:
        InputError: no tables, a camera or a scene that does not exist, no image, or a table that is malformed.
    """
    root, named = _located(path)
    version = version or named
    chosen = CAMERAS if cameras == "all" else tuple(cameras)
    if unknown := [camera for camera in chosen if camera not in CAMERAS]:
        raise InputError(f"nuScenes has no camera {unknown[0]!r}; give some of {', '.join(CAMERAS)}, or 'all'.")
    if not is_nuscenes(path):
        raise InputError(
            f"{root} {contents(root)}, not nuScenes' tables in v1.0-trainval, v1.0-test or v1.0-mini; give the folder "
            "that holds them, samples and sweeps."
        )
    tracks = NuScenesTables(root, version).tracks((*chosen, LIDAR), scenes, key_only=(LIDAR,))
    lidars = {track.scene: track for track in tracks if track.channel == LIDAR}
    there = {camera: _files(root, camera) for camera in chosen}
    found = [
        NuScenesSource(root, used, frames, lidars.get(used.scene))
        for track in tracks
        if track.channel != LIDAR
        for used, frames in _present(track, there[track.channel])
    ]
    if not found:
        raise InputError(
            f"{root} {contents(root)}, but no image of {', '.join(chosen)} that its tables name; unpack nuScenes' "
            f"file blobs there, with samples/{chosen[0]} and sweeps/{chosen[0]}."
        )
    return list[FrameSource](found)


def _located(path: str | Path) -> tuple[Path, str | None]:
    """Return the folder of the data set, and the version where a path names the folder of its tables."""
    root = expanded(path).absolute()
    return (root.parent, root.name) if root.name in versions(root.parent) else (root, None)


def _present(track: SensorTrack, files: frozenset[str]) -> Iterator[tuple[SensorTrack, list[int]]]:
    """Give a track with the numbers of its files that are there, if any; of key frames alone, a track of these."""
    there = [number for number, file in enumerate(track.files) if file in files]
    if there and all(track.key[number] for number in there):
        track = track.key_frames()
        there = [number for number, file in enumerate(track.files) if file in files]
    if there:
        yield track, there


def _files(root: Path, camera: str) -> frozenset[str]:
    """List the images of a camera as the tables name them; once for all, because a look at each takes long."""
    folders = [folder for folder in (f"samples/{camera}", f"sweeps/{camera}") if is_folder(root / folder)]
    return frozenset(f"{folder}/{name}" for folder in folders for name in os.listdir(root / folder))
