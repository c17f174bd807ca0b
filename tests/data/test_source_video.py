"""Videos as recordings, and the cache that they are read from: what is kept, for how long, and by whom."""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hybrid_encoder import InputError
from hybrid_encoder.data import SourceSequences, VideoFrames, VideoWriter
from hybrid_encoder.data.kitti import KittiDrive
from hybrid_encoder.data.sources import FolderSource, FrameSource, KittiSource, VideoSource, cached
from hybrid_encoder.data.sources.cache import CachedSource, cache_folder
from hybrid_encoder.geometry.camera import resized_intrinsics
from hybrid_encoder.training.trained_on import training_record

from helpers.kitti_layout import write_drive
from helpers.videos import held, scenes, write_video

SIZE = (32, 48)
K = np.array([[50, 0, 31], [0, 52, 20], [0, 0, 1]], np.float32)


def watched() -> tuple[list[tuple[str, int, int | None]], Callable[[str, int, int | None], None]]:
    told: list[tuple[str, int, int | None]] = []
    return told, lambda *what: told.append(what)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "drive.mp4", scenes(7))


@pytest.fixture
def textured(tmp_path: Path) -> FrameSource:
    """A folder of noise, on which every way to resize gives other values."""
    rng = np.random.default_rng(0)
    (tmp_path / "noise").mkdir()
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (75, 130, 3), np.uint8)).save(tmp_path / "noise" / f"{number}.png")
    np.save(tmp_path / "noise" / "intrinsics.npy", K + np.array([[0, 0, 30], [0, 0, 20], [0, 0, 0]]))
    return FolderSource(tmp_path / "noise")


@pytest.mark.parametrize(("resample", "bound"), [("bilinear", 0.5 / 255 + 1e-6), ("lanczos", 0)])
def test_a_cache_gives_what_the_recording_would_to_half_a_step_of_8_bits(
    tmp_path: Path, textured: FrameSource, resample: Any, bound: float
) -> None:
    kept = cached(textured, SIZE, resample, tmp_path / "cache")
    plain, fast = (SourceSequences([source], SIZE, resample=resample) for source in (textured, kept))
    assert len(plain) == len(fast) == 2
    for one, other in zip(iter(plain), iter(fast), strict=True):
        difference = float((one.images - other.images).abs().max())
        assert difference <= bound and (bound == 0 or difference > 0.4 / 255), "as it must be with noise"
        assert torch.equal(one.K, other.K) and one.name == other.name
    same = cached(textured, textured.size, resample, tmp_path / "cache")
    assert np.allclose(same.image(2), textured.image(2), atol=1e-7), "8 bits stay 8 bits"


def test_a_video_is_a_recording(tmp_path: Path, video: Path) -> None:
    source = VideoSource(video, SIZE, K, folder=tmp_path / "cache")
    with VideoFrames(video) as frames:
        expected = [torch.from_numpy(frame).permute(2, 0, 1).float() / 255 for frame in frames]
    assert list(source.frames) == list(range(7)) and source.size == SIZE
    for frame in (6, 0, 3):  # in any order
        shrunk = torch.nn.functional.interpolate(expected[frame][None], SIZE, mode="bilinear", antialias=True)[0]
        assert np.abs(source.image(frame) - shrunk.numpy()).max() <= 0.5 / 255 + 1e-6
    np.testing.assert_allclose(np.asarray(source.K), resized_intrinsics(torch.from_numpy(K), (64, 96), SIZE), rtol=1e-6)
    items = SourceSequences([source], SIZE)
    assert len(items) == 5 and items[0].name == f"{video}, frame 1"
    third = VideoSource(video, SIZE, K, every=3, folder=tmp_path / "cache")
    assert list(third.frames) == [0, 1, 2] and np.array_equal(third.image(1), source.image(3))
    assert third.frame_name(1) == f"{video}, frame 3"
    assert items.depth(0) is None and training_record("fine", items)["known"] is False


def test_a_video_held_upright_is_upright(tmp_path: Path, video: Path) -> None:
    source = VideoSource(held(video, (0, 1, -1, 0)), (48, 32), K, folder=tmp_path / "cache")
    with VideoFrames(video) as frames:
        assert frames.size == (96, 64)
    red = source.image(0)[0]
    assert np.ptp(red.mean(1)) > 0.8 > 0.1 > np.ptp(red.mean(0)), "red grew to the right, and now along the height"


@pytest.mark.parametrize(
    ("times", "frames"),
    [
        ([0, 40, 80, 120, 320, 360, 400], [0, 1, 2, 3, 8, 9, 10]),  # as a camera leaves frames out
        ([0, 33, 67, 100, 133, 167, 200], [0, 1, 2, 3, 4, 5, 6]),
        ([0, 30, 75, 110, 150, 190, 240], [0, 1, 2, 3, 4, 5, 6]),  # a rate that varies a little
    ],
)
def test_frames_that_a_camera_left_out_are_gaps(tmp_path: Path, times: list[int], frames: list[int]) -> None:
    file = write_video(tmp_path / "x.mp4", scenes(7), times=times, rate=1000)
    assert list(VideoSource(file, SIZE, folder=tmp_path / "cache").frames) == frames


def test_a_second_run_reads_what_the_first_has_kept(tmp_path: Path, video: Path) -> None:
    told, progress = watched()
    options: dict[str, Any] = {"folder": tmp_path / "cache", "progress": progress}
    VideoSource(video, SIZE, **options)
    assert told == [(str(video), done, 7) for done in range(1, 8)]
    first = VideoSource(video, SIZE, **options).image(2)
    assert len(told) == 7
    VideoSource(video, (32, 64), **options)  # another size, way to resize, part: other files
    VideoSource(video, SIZE, resample="lanczos", **options)
    VideoSource(video, SIZE, every=7, **options)
    assert len(told) == 7 + 7 + 7 + 1
    write_video(video, scenes(9)[::-1])  # another video in its place
    again = VideoSource(video, SIZE, **options)
    assert len(told) == 22 + 9 and not np.array_equal(again.image(2), first)


def test_a_cache_of_pictures_notices_that_they_have_changed(tmp_path: Path, textured: FrameSource) -> None:
    told, progress = watched()
    where: dict[str, Any] = {"folder": tmp_path / "cache", "progress": progress}
    kept = cached(textured, SIZE, **where)
    cached(textured, SIZE, **where)
    assert len(told) == 4
    file = textured.file(1)
    assert file is not None
    pixels = 255 - np.asarray(Image.open(file))
    Image.fromarray(pixels).save(file)
    assert not np.array_equal(cached(textured, SIZE, **where).image(1), kept.image(1))


def test_a_source_without_files_is_known_by_its_frames(tmp_path: Path) -> None:
    class Own(FrameSource):
        name, size = "own", (64, 96)

        def __init__(self, shift: int) -> None:
            self.pictures = [frame.transpose(2, 0, 1).astype(np.float32) / 255 for frame in scenes(5 + shift)[shift:]]

        @property
        def frames(self) -> range:
            return range(5)

        def image(self, frame: int) -> np.ndarray[Any, Any]:
            image: np.ndarray[Any, Any] = self.pictures[frame]
            return image

    told, progress = watched()
    for shift, count in ((0, 5), (0, 5), (1, 10)):
        cached(Own(shift), SIZE, folder=tmp_path, progress=progress)
        assert len(told) == count


def test_what_is_broken_is_written_again_and_what_fails_leaves_nothing(tmp_path: Path, video: Path) -> None:
    told, progress = watched()
    options: dict[str, Any] = {"folder": tmp_path / "cache", "progress": progress}
    whole = VideoSource(video, SIZE, **options).image(3)
    (file,) = (tmp_path / "cache").rglob("image.npy")
    os.truncate(file, file.stat().st_size - 1)
    left = file.parents[1] / ".writing-by-a-process-that-was-killed"
    left.mkdir()
    assert np.array_equal(VideoSource(video, SIZE, **options).image(3), whole)
    assert len(told) == 14 and not left.exists()
    before = sorted(tmp_path.glob("cache/*/frames"))

    def stop(name: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        VideoSource(video, (40, 48), folder=tmp_path / "cache", progress=stop)
    assert sorted(tmp_path.glob("cache/*/frames")) == before and not list(tmp_path.glob("cache/*/.writing-*"))


def test_a_damaged_video_is_said_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "x.mp4"
    with VideoWriter(file, (64, 96), 25) as out:  # its index comes first
        for pixels in np.random.default_rng(0).integers(0, 255, (60, 64, 96, 3), np.uint8):
            out.write(pixels)
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(InputError, match=r"x\.mp4 cannot be decoded after [0-9]+ frames \(.*\); cut it there"):
        VideoSource(file, SIZE, folder=tmp_path / "cache")
    assert not list(tmp_path.glob("cache/*/frames"))


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_no_thread_of_a_decoder_is_left_for_the_workers_to_wait_for(tmp_path: Path, video: Path) -> None:
    """A forked process that frees a decoder waits for threads that it does not have."""

    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    gc.collect()
    gc.disable()
    try:
        before = threads()
        with VideoFrames(video) as frames:
            list(frames)
            assert threads() > before
        assert threads() == before
        VideoSource(video, SIZE, folder=tmp_path / "cache")
        assert threads() == before
    finally:
        gc.enable()


def test_a_full_disk_is_said_before_anything_is_decoded(
    tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 7 * (32 * 48 * 3 + 2 * 48 * 128)
    usage = shutil.disk_usage(tmp_path)
    told, progress = watched()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    with pytest.raises(
        InputError, match=rf"has {needed - 1:,} bytes left, but the frames of .*drive\.mp4 need {needed:,}"
    ):
        VideoSource(video, SIZE, folder=tmp_path / "cache", progress=progress)
    assert not told
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    assert len(VideoSource(video, SIZE, folder=tmp_path / "cache").frames) == 7


def test_right_views_depth_and_where_it_comes_from_stay(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {camera: [rng.random((3, 64, 96), np.float32) for _ in range(3)] for camera in (2, 3)}
    points = {1: np.array([[0.0, 0.0, 10.0]])}
    drive = KittiDrive(write_drive(tmp_path / "kitti", images, K, points))
    plain = KittiSource(drive)
    kept = cached(plain, SIZE, folder=tmp_path / "cache")
    shrunk = torch.nn.functional.interpolate(
        torch.from_numpy(plain.right(1))[None], SIZE, mode="bilinear", antialias=True
    )[0]
    assert np.abs(kept.right(1) - shrunk.numpy()).max() <= 0.5 / 255 + 1e-6
    assert kept.baseline == plain.baseline and kept.camera == plain.camera
    depth = kept.depth(1)
    assert depth is not None and np.array_equal(depth, plain.depth(1)) and depth.shape == (1, 64, 96)  # type: ignore[arg-type]
    assert kept.depth(0) is None
    items, same = (SourceSequences([source], SIZE, stereo=True) for source in (kept, plain))
    assert items[0].images.shape == (4, 3, *SIZE) and items[0].baseline == same[0].baseline
    assert training_record("fine", items) == training_record("fine", same)


def test_a_cached_recording_passes_on_all_that_a_recording_has() -> None:
    """What is added to sources of frames is not lost where they are cached."""
    own = {name for name in vars(FrameSource) if not name.startswith("_")} - {"K", "camera", "baseline"}
    assert own <= set(vars(CachedSource))


def test_workers_get_no_image(tmp_path: Path, video: Path) -> None:
    source = VideoSource(video, SIZE, K, folder=tmp_path / "cache")
    items = SourceSequences([source], SIZE)
    _ = items[0]  # opens the file
    assert len(pickle.dumps(items)) < 5000 < source.image(0).nbytes
    loaded = pickle.loads(pickle.dumps(items))
    assert torch.equal(loaded[1].images, items[1].images)
    names = [batch.name for batch in DataLoader(items, 2, num_workers=2, multiprocessing_context="fork")]
    assert [name for part in names for name in part] == [item.name for item in iter(items)]


def test_of_two_runs_at_once_one_writes(tmp_path: Path, video: Path) -> None:
    """The lock is one of the system, on a file that each opens for itself: threads stand here for processes."""
    told, progress = watched()

    def decode(number: int) -> float:
        return float(VideoSource(video, SIZE, folder=tmp_path / "cache", progress=progress).image(5).sum())

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(decode, range(4)))) == 1
    assert len(told) == 7


def test_the_cache_has_a_place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder().parts[-2:] == ("hybrid-encoder", "frames")
    assert cache_folder("~/x") == Path.home() / "x"
