"""nuScenes, with tables that have the columns of its schema, and a calibration as it is published."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybrid_encoder import InputError
from hybrid_encoder.data import nuscenes_tables
from hybrid_encoder.data.nuscenes_tables import NuScenesTables
from hybrid_encoder.data.sequences import SourceSequences
from hybrid_encoder.data.sources.nuscenes import CAMERAS, is_nuscenes, nuscenes_sources
from hybrid_encoder.training.trained_on import training_record

K = [[1266.417203046554, 0.0, 816.2670197447984], [0.0, 1266.417203046554, 491.50706579294757], [0.0, 0.0, 1.0]]
AHEAD = [0.5, -0.5, 0.5, -0.5]  # of a camera that looks ahead: its x is the vehicle's -y, its y -z, and its z x
BEHIND = [0.5, -0.5, -0.5, 0.5]
LIDAR = [0.5**0.5, 0.0, 0.0, -(0.5**0.5)]  # x to the right, y ahead, z up
STRAIGHT, LEFT = [1.0, 0.0, 0.0, 0.0], [0.5**0.5, 0.0, 0.0, 0.5**0.5]
TIME = 1532402927647951  # microseconds


class Writer:
    """Writes the tables row by row, with the columns of the schema."""

    def __init__(self, root: Path) -> None:
        self.root = root
        names = ("scene", "sample", "sample_data", "calibrated_sensor", "ego_pose", "sensor", "log")
        self.tables: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for channel in (*CAMERAS, "LIDAR_TOP", "RADAR_FRONT"):
            modality = {"C": "camera", "L": "lidar", "R": "radar"}[channel[0]]
            self.tables["sensor"].append({"token": f"sensor {channel}", "channel": channel, "modality": modality})

    def scene(self, name: str, samples: int) -> None:
        first, last = f"{name} sample 0", f"{name} sample {samples - 1}"
        self.tables["scene"].append(
            {
                "token": f"{name} token",
                "log_token": "log",
                "nbr_samples": samples,
                "first_sample_token": first,
                "last_sample_token": last,
                "name": name,
                "description": "Parked truck, [construction], turn",
            }
        )
        for number in range(samples):
            self.tables["sample"].append(
                {
                    "token": f"{name} sample {number}",
                    "timestamp": TIME + 500_000 * number,
                    "prev": f"{name} sample {number - 1}" if number else "",
                    "next": f"{name} sample {number + 1}" if number < samples - 1 else "",
                    "scene_token": f"{name} token",
                }
            )
        for channel in (*CAMERAS, "LIDAR_TOP"):
            lidar = channel == "LIDAR_TOP"
            self.tables["calibrated_sensor"].append(
                {
                    "token": f"{name} {channel}",
                    "sensor_token": f"sensor {channel}",
                    "translation": [0.94, 0, 1.84] if lidar else [0, 0, 1.5] if "BACK" in channel else [1.7, 0, 1.5],
                    "rotation": LIDAR if lidar else BEHIND if "BACK" in channel else AHEAD,
                    "camera_intrinsic": [] if lidar else K,
                }
            )

    def data(
        self, scene: str, channel: str, number: int, sample: int, key: bool, x: float, turn: list[float] = STRAIGHT
    ) -> str:
        """Add what a sensor has recorded, the vehicle at (x, 7, 0), and return the name of its file."""
        lidar = channel == "LIDAR_TOP"
        token = f"{scene} {channel} {number}"
        place = "samples" if key else "sweeps"
        time = TIME + 83_000 * number
        file = f"{place}/{channel}/n015-{scene}__{channel}__{time}.{'pcd.bin' if lidar else 'jpg'}"
        self.tables["ego_pose"].append({"token": token, "timestamp": time, "rotation": turn, "translation": [x, 7, 0]})
        self.tables["sample_data"].append(
            {
                "token": token,
                "sample_token": f"{scene} sample {sample}",
                "ego_pose_token": token,
                "calibrated_sensor_token": f"{scene} {channel}",
                "timestamp": time,
                "fileformat": "pcd" if lidar else "jpg",
                "is_key_frame": key,
                "height": 0 if lidar else 900,
                "width": 0 if lidar else 1600,
                "filename": file,
                "prev": "",
                "next": "",
            }
        )
        (self.root / file).parent.mkdir(parents=True, exist_ok=True)
        if not lidar:
            pixels = np.full((900, 1600, 3), 100 + number, np.uint8)
            Image.fromarray(pixels).save(self.root / file, quality=100)
        return file

    def finish(self) -> None:
        folder = self.root / "v1.0-mini"
        folder.mkdir(exist_ok=True)
        for name, rows in self.tables.items():
            (folder / f"{name}.json").write_text(json.dumps(rows, indent=0))  # as nuScenes writes them


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """scene-0061 goes 0.5 m ahead with each frame, scene-0103 turns to the left; rows are not in order of time."""
    writer = Writer(tmp_path)
    writer.scene("scene-0103", 1)
    writer.scene("scene-0061", 2)
    for number in (3, 1, 2, 0):
        writer.data("scene-0061", "CAM_FRONT", number, 0 if number == 0 else 1, number in (0, 3), 100 + 0.5 * number)
    writer.data("scene-0061", "CAM_BACK", 0, 0, True, 100)
    scan = writer.data("scene-0061", "LIDAR_TOP", 3, 1, True, 101)  # half a metre before the camera's frame 3
    points = [[1, 12, -0.34, 30, 4], [1, 16, -0.34, 30, 4], [0, 1, 0, 30, 4], [0, -9, 0, 30, 4]]
    np.array(points, np.float32).tofile(tmp_path / scan)
    writer.data("scene-0061", "LIDAR_TOP", 2, 1, False, 101)
    writer.data("scene-0061", "RADAR_FRONT", 0, 0, True, 100)
    writer.data("scene-0103", "CAM_FRONT", 0, 0, True, 100)
    writer.data("scene-0103", "CAM_FRONT", 1, 0, False, 100, LEFT)
    writer.finish()
    return tmp_path


def test_a_scene_is_a_recording_by_one_camera(root: Path) -> None:
    assert is_nuscenes(root)
    first, second = nuscenes_sources(root)
    assert first.name == f"{root}, scene-0061, CAM_FRONT" and second.name.endswith("scene-0103, CAM_FRONT")
    assert list(first.frames) == [0, 1, 2, 3] and first.size == (900, 1600) and first.baseline is None
    assert np.array_equal(np.asarray(first.K), np.array(K, np.float32)) and first.camera == second.camera
    for frame in first.frames:
        assert first.file(frame) == next(root.glob(f"*/CAM_FRONT/*scene-0061__CAM_FRONT__{TIME + 83_000 * frame}.jpg"))
        np.testing.assert_allclose(first.image(frame).mean(), (100 + frame) / 255, atol=1e-3)
    items = SourceSequences([first], (180, 320))
    assert [item.frame for item in items.items] == [1, 2] and items[0].name == "scene-0061_CAM_FRONT 1"
    np.testing.assert_allclose(items[0].images.mean((1, 2, 3)), np.array([101, 100, 102]) / 255, atol=1e-3)
    record = training_record("fine", items)
    assert record["known"] and record["drives"] == {"scene-0061_CAM_FRONT": {"": "1-2"}}
    assert pickle.loads(pickle.dumps(first)).image(0).shape == (3, 900, 1600)


def test_all_cameras_are_as_many_recordings(root: Path) -> None:
    sources = nuscenes_sources(root, "all", ["scene-0061"])
    assert [source.name.split(", ")[-1] for source in sources] == ["CAM_FRONT", "CAM_BACK"], "the others have no image"
    back = sources[1].world_T_cam(0)
    assert back is not None
    np.testing.assert_allclose(back[:3], np.array([[0, 0, -1, 100], [1, 0, 0, 7], [0, -1, 0, 1.5]]), atol=1e-12)


def test_poses_are_those_of_the_camera_in_its_own_axes(root: Path) -> None:
    straight, turning = nuscenes_sources(root)
    first, third = np.asarray(straight.world_T_cam(0)), np.asarray(straight.world_T_cam(2))
    expected = np.array([[0, 0, 1, 102.7], [-1, 0, 0, 7], [0, -1, 0, 1.5]])  # the world's x is ahead, its z up
    np.testing.assert_allclose(third[:3], expected, atol=1e-12)
    np.testing.assert_allclose((np.linalg.inv(third) @ first)[:3, 3], [0, 0, -1], atol=1e-12)  # it comes a metre nearer
    expected = np.array([[1, 0, 0, 100], [0, 0, 1, 8.7], [0, -1, 0, 1.5]])
    np.testing.assert_allclose(np.asarray(turning.world_T_cam(1))[:3], expected, atol=1e-12)


def test_lidar_points_of_a_key_frame_are_depth_by_both_poses(root: Path) -> None:
    source = nuscenes_sources(root)[0]
    depth = source.depth(3)
    assert depth is not None and depth.shape == (1, 900, 1600)
    # Of the point, the world's x is 101 + 0.94 + 12; the camera, half a metre later, is at 101.5 + 1.7.
    z = 113.94 - 103.2
    assert (depth > 0).sum() == 2, "one is behind, and one is the vehicle itself"
    assert depth[0, round(491.50706579), round(1266.4172 / z + 816.26702)] == pytest.approx(z, abs=1e-5)
    assert depth[0, round(491.50706579), round(1266.4172 / (z + 4) + 816.26702)] == pytest.approx(z + 4, abs=1e-5)
    source.K = np.eye(3, dtype=np.float32)  # which a person says, or which are learned
    assert np.array_equal(np.asarray(source.depth(3)), depth)
    assert source.depth(1) is None, "between key frames"
    assert source.depth(0) is None, "a key frame without lidar"
    next((root / "samples" / "LIDAR_TOP").iterdir()).unlink()
    assert source.depth(3) is None


def test_files_that_are_missing_leave_gaps_and_key_frames_alone_are_neighbours(root: Path) -> None:
    sweeps = sorted((root / "sweeps" / "CAM_FRONT").glob("*scene-0061*"))
    sweeps[0].unlink()
    assert list(nuscenes_sources(root)[0].frames) == [0, 2, 3]
    sweeps[1].unlink()
    source = nuscenes_sources(root)[0]
    assert list(source.frames) == [0, 1]
    assert source.image(1).mean() == pytest.approx(103 / 255, abs=1e-3) and source.depth(1) is not None
    assert np.asarray(source.world_T_cam(1))[0, 3] == pytest.approx(103.2)
    for file in (root / "samples" / "CAM_FRONT").glob("*scene-0061*"):
        file.unlink()
    assert [source.name.split(", ")[1] for source in nuscenes_sources(root)] == ["scene-0103"], "a part of the data set"
    with pytest.raises(InputError, match=r"but no image of CAM_FRONT_LEFT that its tables name; unpack .* file blobs"):
        nuscenes_sources(root, ["CAM_FRONT_LEFT"])


@pytest.mark.parametrize("block", [7, 100, 1 << 20])
def test_tables_are_read_record_by_record(root: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(nuscenes_tables, "BLOCK", block)
    tables = NuScenesTables(root)
    assert list(tables.scenes.values()) == ["scene-0061", "scene-0103"]
    assert [row[0] for row in tables.rows("sample")] == [
        "scene-0103 sample 0",
        "scene-0061 sample 0",
        "scene-0061 sample 1",
    ]
    front, lidar = tables.tracks(("CAM_FRONT", "LIDAR_TOP"), ["scene-0061"], key_only=("LIDAR_TOP",))
    assert (front.times == TIME + 83_000 * np.arange(4)).all() and front.key.tolist() == [True, False, False, True]
    assert front.samples == ["scene-0061 sample 0", *["scene-0061 sample 1"] * 3]
    assert lidar.K is None and len(lidar.files) == 1 and len(tables.tracks(("LIDAR_TOP",))[0].files) == 2
    file = root / "v1.0-mini" / "sample.json"
    file.write_text(json.dumps(json.loads(file.read_text())))  # on one line
    assert len(list(tables.rows("sample"))) == 3


def test_what_is_missing_or_wrong_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "other" / "samples").mkdir(parents=True)
    assert not is_nuscenes(tmp_path / "other")
    with pytest.raises(InputError, match=r"other holds samples, not nuScenes' tables in v1\.0-trainval, v1\.0-test or"):
        nuscenes_sources(tmp_path / "other")
    with pytest.raises(InputError, match=r"nuScenes has no camera 'FRONT'; give some of CAM_FRONT, CAM_FRONT_RIGHT"):
        nuscenes_sources(root, ["FRONT"])
    with pytest.raises(InputError, match=r"has no scene 'scene-1'; it has scene-0061, scene-0103\."):
        nuscenes_sources(root, scenes=["scene-1"])
    with pytest.raises(InputError, match=r"v1\.0-test is not a folder; .* has v1\.0-mini\."):
        nuscenes_sources(root, version="v1.0-test")
    (root / "v1.0-trainval").mkdir()
    assert is_nuscenes(root / "v1.0-mini") and len(nuscenes_sources(root / "v1.0-mini")) == 2
    with pytest.raises(InputError, match=r"has tables of v1\.0-trainval, v1\.0-mini; say which version"):
        nuscenes_sources(root)
    with pytest.raises(InputError, match=r"v1\.0-trainval.sensor\.json does not exist"):
        nuscenes_sources(root, version="v1.0-trainval")
    tables = root / "v1.0-mini"
    for name, old, new, message in (
        ("ego_pose", '"rotation"', '"turn"', r"ego_pose\.json: record 0 has no 'rotation' as nuScenes has it"),
        ("ego_pose", "1.0", "3.0", r"ego_pose\.json has a pose that is no rigid motion"),
        ("sample", "]", "", r"sample\.json is cut off or is no list of records"),
        ("sample_data", '"height": 900', '"height": "high"', r"sample_data\.json: record 0 has no 'height'"),
        ("calibrated_sensor", "816.2670197447984", "Infinity", r"has a camera_intrinsic that is no pinhole camera's"),
        ("sensor", "[", '["sensor",', r"sensor\.json holds something else than records"),
    ):
        text = (tables / f"{name}.json").read_text()
        assert old in text
        (tables / f"{name}.json").write_text(text.replace(old, new))
        with pytest.raises(InputError, match=message):
            nuscenes_sources(root, version="v1.0-mini")
        (tables / f"{name}.json").write_text(text)
