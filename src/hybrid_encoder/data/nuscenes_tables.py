"""The JSON tables of nuScenes, read without its development kit: what sensors have recorded, when and from where.

Caesar et al., "nuScenes: A multimodal dataset for autonomous driving", CVPR 2020; the tables are those of
``docs/schema_nuscenes.md`` in its development kit. ``sample_data.json`` of the whole data set is larger than a
gigabyte: tables are read record by record, and only the columns and rows that are asked for are kept: 0.2 GB for
one camera, where the tables as a whole would take 6. Reading takes half a minute of one core.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_encoder.data.kitti_files import ROUNDING
from hybrid_encoder.data.opening import expanded, is_file, is_folder
from hybrid_encoder.data.poses import Array, rotations_of
from hybrid_encoder.errors import InputError

BLOCK = 1 << 20  # characters that are read at once
LONGEST = 16 * BLOCK  # of a record
VERSIONS = ("v1.0-trainval", "v1.0-test", "v1.0-mini")
BETWEEN = re.compile(r"[\s,\[]*")  # records

# The columns that are read: a type, or how many numbers are in a list.
COLUMNS: dict[str, dict[str, type | int]] = {
    "scene": {"token": str, "name": str},
    "sensor": {"token": str, "channel": str},
    "calibrated_sensor": {
        "token": str,
        "sensor_token": str,
        "translation": 3,
        "rotation": 4,
        "camera_intrinsic": list,
    },
    "sample": {"token": str, "scene_token": str},
    "sample_data": {
        "calibrated_sensor_token": str,
        "sample_token": str,
        "ego_pose_token": str,
        "timestamp": int,
        "is_key_frame": bool,
        "filename": str,
        "height": int,
        "width": int,
    },
    "ego_pose": {"token": str, "translation": 3, "rotation": 4},
}


@dataclass(frozen=True)
class SensorTrack:
    """What one sensor has recorded in one scene, in order of time.

    Args:
        scene: its name, such as ``"scene-0061"``.
        channel: of the sensor, such as ``"CAM_FRONT"``.
        files: relative to the data set's folder.
        times: in microseconds, rising, int64, (N,).
        key: which belong to a key frame, of which there are two in a second, bool, (N,).
        samples: tokens of the key frame that each belongs to, or that follows it.
        world_T_sensor: the sensor to the world of the scene's map, float64, (N, 4, 4), in metres. The axes of a camera
            are x right, y down, z forward; those of the lidar x right, y forward, z up.
        K: intrinsics of a camera in pixels, float32, (3, 3); None for another sensor.
        size: (H, W) of a camera's images; (0, 0) for another sensor.
    """

    scene: str
    channel: str
    files: list[str]
    times: Array
    key: Array
    samples: list[str]
    world_T_sensor: Array
    K: Array | None
    size: tuple[int, int]

    def key_frames(self) -> SensorTrack:
        """Return the key frames alone."""
        chosen = np.flatnonzero(self.key)
        return replace(
            self,
            files=[self.files[number] for number in chosen],
            times=self.times[chosen],
            key=self.key[chosen],
            samples=[self.samples[number] for number in chosen],
            world_T_sensor=self.world_T_sensor[chosen],
        )


class NuScenesTables:
    """The tables of one version of nuScenes.

    Args:
        root: the folder that holds ``samples``, ``sweeps`` and the folder of the tables, such as ``v1.0-mini``.
        version: name of that folder; not needed where there is one.

    Raises:
        InputError: no tables, or those of several versions; later, a table that does not exist or is malformed.
    """

    def __init__(self, root: str | Path, version: str | None = None) -> None:
        self.root = expanded(root).absolute()
        there = versions(self.root)
        if version is None and len(there) != 1:
            found = f"tables of {', '.join(there)}; say which version" if there else "no folder such as v1.0-trainval"
            raise InputError(f"{self.root} has {found}: unpack nuScenes' metadata there, beside samples and sweeps.")
        self.folder = self.root / (version or there[0])
        if not is_folder(self.folder):
            raise InputError(f"{self.folder} is not a folder; {self.root} has {', '.join(there) or 'no tables'}.")

    def rows(self, table: str, wanted: Collection[str] | None = None) -> Iterator[tuple[Any, ...]]:
        """Give the records of a table, each with the columns that ``COLUMNS`` names, in that order.

        Args:
            table: its name.
            wanted: what the first of these columns must hold; by default all records are given.

        Raises:
            InputError: the table does not exist, or is malformed.
        """
        file = self.folder / f"{table}.json"
        if not is_file(file):
            raise InputError(f"{file} does not exist; unpack nuScenes' metadata again.")
        columns = COLUMNS[table]
        first = next(iter(columns))
        for number, record in enumerate(_records(file)):
            if wanted is not None and isinstance(key := record.get(first), str) and key not in wanted:
                continue
            for name, kind in columns.items():
                value = record.get(name)
                if not (_is_vector(value, kind) if isinstance(kind, int) else isinstance(value, kind)):
                    raise InputError(f"{file}: record {number} has no {name!r} as nuScenes has it; unpack it again.")
            yield tuple(record[name] for name in columns)

    @cached_property
    def scenes(self) -> dict[str, str]:
        """Names of the scenes by their tokens, in order of their names."""
        return dict(sorted(self.rows("scene"), key=lambda row: row[1]))

    @cached_property
    def channels(self) -> dict[str, str]:
        """Channels of the sensors by their tokens."""
        return dict(self.rows("sensor"))

    def tracks(
        self, channels: Collection[str], scenes: Collection[str] | None = None, key_only: Collection[str] = ()
    ) -> list[SensorTrack]:
        """List what sensors have recorded, by the name of the scene, then in the order of the channels.

        Args:
            channels: of the sensors.
            scenes: their names; by default all.
            key_only: channels of which only key frames are kept.

        Raises:
            InputError: a channel or a scene that does not exist, or a table that does not exist or is malformed.
        """
        _check_named("sensor", channels, self.channels.values(), self.folder)
        _check_named("scene", scenes or (), self.scenes.values(), self.folder)
        wanted = {token: name for token, name in self.scenes.items() if scenes is None or name in scenes}
        scene_of = {token: scene for token, scene in self.rows("sample") if scene in wanted}
        names = {token: token for token in scene_of}  # one string for all that point to a key frame
        calibrations = {row[0]: row for row in self.rows("calibrated_sensor") if self.channels.get(row[1]) in channels}
        shots: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
        for calibration, sample, ego, *shot in self.rows("sample_data", calibrations):
            if sample not in scene_of:
                continue
            calibrated = calibrations[calibration]
            channel, is_key = self.channels[calibrated[1]], shot[1]
            if is_key or channel not in key_only:
                shots.setdefault((scene_of[sample], channel), []).append((*shot, ego, names[sample], calibrated[0]))
        poses = self._ego_poses({shot[5] for rows in shots.values() for shot in rows})
        return [
            self._track(wanted[scene], channel, sorted(shots[scene, channel]), poses, calibrations)
            for scene in wanted
            for channel in channels
            if (scene, channel) in shots
        ]

    def _ego_poses(self, tokens: set[str]) -> dict[str, Array]:
        """Return translation and quaternion of the vehicle, (7,), by token."""
        return {row[0]: np.array([*row[1], *row[2]], np.float64) for row in self.rows("ego_pose", tokens)}

    def _track(
        self,
        scene: str,
        channel: str,
        shots: list[tuple[Any, ...]],
        poses: dict[str, Array],
        calibrations: dict[str, Any],
    ) -> SensorTrack:
        times, key, files, heights, widths, egos, samples, tokens = zip(*shots, strict=True)
        if missing := [token for token in egos if token not in poses]:
            raise InputError(f"{self.folder / 'ego_pose.json'} has no pose {missing[0]}; unpack it again.")
        calibration = calibrations[tokens[0]]
        if len(set(tokens)) > 1 or len({*zip(heights, widths, strict=True)}) > 1:
            raise InputError(f"{self.folder} has several calibrations of {channel} in {scene}; one is needed.")
        world_T_ego = _motions(np.stack([poses[token] for token in egos]), self.folder / "ego_pose.json")
        own = np.array([*calibration[2], *calibration[3]], np.float64)
        ego_T_sensor = _motions(own[None], self.folder / "calibrated_sensor.json")
        return SensorTrack(
            scene,
            channel,
            list(files),
            np.array(times, np.int64),
            np.array(key, bool),
            list(samples),
            world_T_ego @ ego_T_sensor,
            _intrinsics(calibration[4], self.folder / "calibrated_sensor.json"),
            (heights[0], widths[0]),
        )


def versions(root: Path) -> list[str]:
    """Return the names of the folders with tables that a folder holds."""
    return [name for name in VERSIONS if is_folder(root / name)]


def _records(file: Path) -> Iterator[dict[str, Any]]:
    """Give the records of a table, a list of JSON objects, without reading it as a whole."""
    decoder = json.JSONDecoder()
    text, at = "", 0
    with file.open(encoding="utf-8", errors="replace") as stream:
        while True:
            at = BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if text.startswith("]", at):
                return
            try:
                record, at = decoder.raw_decode(text, at)
            except (ValueError, RecursionError):  # it goes on in the next block, or is malformed
                more = stream.read(BLOCK)
                text, at = text[at:] + more, 0
                if not more or len(text) > LONGEST:
                    raise InputError(f"{file} is cut off or is no list of records; unpack it again.") from None
                continue
            if not isinstance(record, dict):
                raise InputError(f"{file} holds something else than records; unpack it again.")
            yield record


def _is_vector(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(one, int | float) for one in value)


def _check_named(what: str, names: Collection[str], there: Collection[str], folder: Path) -> None:
    if missing := [name for name in names if name not in there]:
        shown = sorted(set(there))
        more = ", ..." if len(shown) > 12 else ""
        raise InputError(f"{folder} has no {what} {missing[0]!r}; it has {', '.join(shown[:12])}{more}.")


def _motions(numbers: Array, file: Path) -> Array:
    """Return rigid motions of translations and quaternions w, x, y, z, (N, 7), as matrices, (N, 4, 4)."""
    lengths = np.linalg.norm(numbers[:, 3:], axis=1)
    if not (np.isfinite(numbers).all() and (np.abs(lengths - 1) <= ROUNDING).all()):
        raise InputError(f"{file} has a pose that is no rigid motion: quaternions must have length 1; unpack it again.")
    matrices = np.tile(np.eye(4), (len(numbers), 1, 1))
    matrices[:, :3, :3] = rotations_of(numbers[:, [4, 5, 6, 3]] / lengths[:, None])
    matrices[:, :3, 3] = numbers[:, :3]
    return matrices


def _intrinsics(rows: list[Any], file: Path) -> Array | None:
    if not rows:
        return None
    K: Array = np.empty(0)
    with suppress(ValueError, TypeError):  # no rows of numbers
        K = np.array(rows, np.float32)
    if K.shape != (3, 3) or not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0 or K[2].tolist() != [0, 0, 1]:
        raise InputError(f"{file} has a camera_intrinsic that is no pinhole camera's; unpack it again.")
    return K
