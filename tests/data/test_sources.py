"""Recordings by their paths: folders of frames in order, what a path is, and what is held out of it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hybrid_encoder import InputError
from hybrid_encoder.data import Item, SourceSequences
from hybrid_encoder.data.sources import FolderSource, FrameSource, describe, open_sources
from hybrid_encoder.data.sources.calibration import as_intrinsics, check_centre
from hybrid_encoder.data.sources.folder import folder_sources, numbers_in_time
from hybrid_encoder.geometry.camera import intrinsics_from_fov

from helpers.kitti_layout import write_drive
from helpers.videos import scenes, write_video

SIZE = (40, 64)
K = np.array([[50, 0, 31], [0, 52, 20], [0, 0, 1]], np.float32)


def write_frames(folder: Path, names: list[str], size: tuple[int, int] = SIZE) -> Path:
    """Pictures whose red says in which order they were written."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(np.full((*size, 3), (number * 10, 0, 0), np.uint8)).save(folder / name)
    return folder


def order(source: FrameSource) -> list[int]:
    return [round(float(source.image(frame)[0, 0, 0]) * 25.5) for frame in source.frames]


class Numbers(FrameSource):
    """Frames without images: what is chosen among them does not depend on those."""

    def __init__(self, frames: list[int], name: str = "numbers") -> None:
        self.own, self.name, self.size, self.K = frames, name, SIZE, K

    @property
    def frames(self) -> list[int]:
        return self.own


def test_numbers_in_names_count_by_their_value(tmp_path: Path) -> None:
    source = FolderSource(write_frames(tmp_path / "x", ["2.png", "10.png", "1.jpg", "11.bmp"]))
    assert order(source) == [2, 0, 1, 3]
    assert source.size == SIZE and source.K is None
    assert source.frame_name(source.frames[0]) == str(tmp_path / "x" / "1.jpg")
    letters = FolderSource(write_frames(tmp_path / "y", ["b.png", "a.png", "c2.png"]))
    assert order(letters) == [1, 0, 2] and list(letters.frames) == [0, 1, 2]


@pytest.mark.parametrize(
    ("names", "frames"),
    [
        (["f1.png", "f2.png", "f3.png", "f6.png", "f7.png"], [0, 1, 2, 5, 6]),
        (["0000.png", "0005.png", "0010.png", "0020.png", "0025.png"], [0, 1, 2, 4, 5]),  # the usual distance is 5
        (["cam2_7_x.png", "cam2_9_x.png", "cam2_10_x.png", "cam2_11_x.png"], [0, 2, 3, 4]),
        (["a1.png", "b2.png", "b9.png"], [0, 1, 2]),  # they differ in more than a number
        (["1_1.png", "1_2.png", "2_9.png"], [0, 1, 2]),
        (["1403636579763555584.png", "1403636579813555456.png", "1403636579963555584.png"], [0, 1, 2]),
        (["7.png"], [0]),
    ],
)
def test_a_gap_of_numbers_is_a_gap_in_time(tmp_path: Path, names: list[str], frames: list[int]) -> None:
    assert list(FolderSource(write_frames(tmp_path / "x", names)).frames) == frames


@settings(max_examples=50, deadline=None)
@given(missing=st.sets(st.integers(1, 38), max_size=8), jitter=st.floats(0, 0.2), seed=st.integers(0, 99))
def test_times_with_jitter_are_numbered_as_without_the_missing_ones(
    missing: set[int], jitter: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    kept = [frame for frame in range(40) if frame not in missing]
    times = [1e9 + 0.04 * (frame + jitter * (rng.random() - 0.5)) for frame in kept]
    assert numbers_in_time(times) == kept


def test_intrinsics_lie_beside_the_frames(tmp_path: Path) -> None:
    for name, text in (
        ("intrinsics.txt", "50 0 31\n0 52 20\n0 0 1\n"),
        ("intrinsics.txt", "50,0,31\n0,52,20\n0,0,1"),
        ("intrinsics.json", json.dumps(K.tolist())),
    ):
        folder = write_frames(tmp_path / str(len(text)), ["1.png"])
        (folder / name).write_text(text)
        np.testing.assert_array_equal(FolderSource(folder).K, K)
    np.save(folder / "intrinsics.npy", K)
    with pytest.raises(InputError, match=r"holds intrinsics\.json and intrinsics\.npy; leave one of them\."):
        FolderSource(folder)
    (folder / "intrinsics.json").unlink()
    np.testing.assert_array_equal(FolderSource(folder).K, K)
    np.save(folder / "intrinsics.npy", K * [[10], [1], [1]])
    with pytest.raises(
        InputError, match=r"centre at \(310, 20\), far from the middle of its images of 40 x 64; give th"
    ):
        FolderSource(folder)


@pytest.mark.parametrize(("x", "y", "fits"), [(31.5, 19.5, True), (15.5, 19.5, False), (63.5, 19.5, False)])
def test_a_centre_tells_images_of_half_and_of_twice_the_size(x: float, y: float, fits: bool) -> None:
    own = np.array([[50, 0, x], [0, 50, y], [0, 0, 1]], np.float32)
    if fits:
        check_centre(own, (40, 64), "drive")
        check_centre(own, (30, 64), "without its bonnet")  # a quarter was cut off below
        return
    with pytest.raises(InputError, match=r"intrinsics of drive have their centre at .*, far from the middle"):
        check_centre(own, (40, 64), "drive")


def test_frames_of_several_cameras_in_one_folder_are_refused(tmp_path: Path) -> None:
    mixed = [f"{number:06d}_{side}.png" for number in range(3) for side in ("left", "right")]
    with pytest.raises(InputError, match=r"holds 000000_left and 000000_right, frames of one number: they are of sev"):
        FolderSource(write_frames(tmp_path / "mixed", mixed))
    halves = [f"{side}{number}.png" for side in ("left", "right") for number in range(3)]
    with pytest.raises(InputError, match=r"holds left0 and right0, frames of one number"):
        FolderSource(write_frames(tmp_path / "halves", halves))
    # One number in each, and words that differ: a person's own names, one after the other.
    source = FolderSource(write_frames(tmp_path / "words", ["a1.png", "b2.png", "c3.png"]))
    assert list(source.frames) == [0, 1, 2]


def test_a_folder_of_pictures_and_videos_is_refused(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "phone", ["1.png", "2.png"])
    write_video(folder / "drive.mp4", scenes(3))
    with pytest.raises(
        InputError, match=r"phone holds pictures and videos, such as 1\.png and drive\.mp4; give the vid"
    ):
        open_sources([folder], (32, 48), fov=60)
    found = open_sources([f"folder:{folder}", folder / "drive.mp4"], (32, 48), fov=60, cache_folder=tmp_path / "cache")
    assert [len(source.frames) for source in found] == [2, 3]


@pytest.mark.parametrize("again", ["x", "x/../x", "above", "above/x"])
def test_a_recording_that_comes_twice_is_refused(tmp_path: Path, again: str) -> None:
    folder = write_frames(tmp_path / "above" / "x", ["1.png", "2.png"])
    (tmp_path / "x").symlink_to(folder)
    with pytest.raises(InputError, match=r"above/x comes 2 times among the sources; name every recording once"):
        open_sources([folder, tmp_path / again], (32, 48), fov=60)
    assert len(open_sources([folder, write_frames(tmp_path / "y", ["1.png"])], (32, 48), fov=60)) == 2


@pytest.mark.parametrize(
    "value", ["1 2 3", "a b c d e f g h i", [[0, 0, 3], [0, 5, 3], [0, 0, 1]], [[1e9] * 9], [None] * 9]
)
def test_what_is_no_intrinsics_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"K\.txt holds .* are no intrinsics; write \[\[fx, 0, cx\], \[0, fy, cy\]"):
        as_intrinsics(value.split() if isinstance(value, str) else value, "K.txt")


def test_folders_inside_are_recordings_which_share_the_intrinsics_above_them(tmp_path: Path) -> None:
    for name in ("run10", "run2", "deep/er"):
        write_frames(tmp_path / name, ["1.png", "2.png"])
    write_frames(tmp_path / "run2" / "masks", ["1.png"])  # beside frames: not theirs
    (tmp_path / "intrinsics.txt").write_text("50 0 31 0 52 20 0 0 1")
    (tmp_path / "run2" / "intrinsics.txt").write_text("60 0 31 0 62 20 0 0 1")
    sources = folder_sources(tmp_path)
    assert [source.name for source in sources] == [str(tmp_path / name) for name in ("deep/er", "run2", "run10")]
    assert [source.K[0, 0] for source in sources if source.K is not None] == [50, 60, 50]
    items = SourceSequences(sources, SIZE, (1,))
    assert [item.camera for item in iter(items)] == [0, 1, 0], "run2 has intrinsics of its own"


def test_frames_of_one_recording_have_one_size_and_one_name_each(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "x", ["1.png", "2.png"])
    write_frames(folder, ["3.png"], (64, 40))
    with pytest.raises(InputError, match=r"3\.png is 64 x 40, but 1\.png is 40 x 64; frames of one recording have one"):
        FolderSource(folder)
    write_frames(folder, ["3.png", "2.jpg"])
    with pytest.raises(InputError, match="holds two pictures called 2; keep one of them"):
        FolderSource(folder)
    turned = Image.fromarray(np.zeros((*SIZE, 3), np.uint8))
    turned.getexif()[0x0112] = 6
    write_frames(tmp_path / "y", ["1.jpg"])
    turned.save(tmp_path / "y" / "2.jpg", exif=turned.getexif())
    with pytest.raises(InputError, match=r"2\.jpg is 64 x 40"):
        FolderSource(tmp_path / "y").image(1)


def test_a_path_is_what_it_holds(tmp_path: Path) -> None:
    write_frames(tmp_path / "frames", ["1.png", "2.png", "3.png"])
    write_video(tmp_path / "drive.mp4", scenes(4))
    (tmp_path / "videos").mkdir()
    for name in ("b.mkv", "a.mp4"):
        write_video(tmp_path / "videos" / name, scenes(3))
    write_drive(tmp_path / "kitti", {2: [np.zeros((3, *SIZE))] * 3, 3: [np.zeros((3, *SIZE))] * 3}, K)
    paths = [tmp_path / name for name in ("frames", "drive.mp4", "videos", "kitti")]
    sources = open_sources(paths, (32, 48), cache_folder=tmp_path / "cache")
    assert [type(source).__name__ for source in sources] == ["FolderSource", *["VideoSource"] * 3, *["KittiSource"] * 2]
    assert [len(source.frames) for source in sources] == [3, 4, 3, 3, 3, 3]
    assert [Path(source.name).name for source in sources[1:4]] == ["drive.mp4", "a.mp4", "b.mkv"]
    only = open_sources([tmp_path / "kitti"], (32, 48), cameras=["3"])
    assert [source.name[-8:] for source in only] == ["camera 3"]
    # A name in front says what a folder is taken for.
    folders = open_sources([f"folder:{tmp_path / 'kitti'}"], (32, 48))
    assert [type(source) for source in folders] == [FolderSource] * 2
    lines = describe(sources, most=5)
    assert lines[0] == f"{tmp_path / 'frames'}: 3 frames of 40 x 64, intrinsics unknown"
    assert lines[4].endswith("camera 2: 3 frames of 40 x 64, fx 50.0, fy 52.0, cx 31.0, cy 20.0, right view at 0.5 m")
    assert lines[5] == "... and 1 more recordings: 19 frames in all"


def test_intrinsics_are_those_of_the_recordings_own_images(tmp_path: Path) -> None:
    write_frames(tmp_path / "x", ["1.png", "2.png"])
    (tmp_path / "x" / "intrinsics.txt").write_text("50 0 31 0 52 20 0 0 1")
    write_video(tmp_path / "y.mp4", scenes(3))  # 64 x 96
    paths, where = [tmp_path / "x", tmp_path / "y.mp4"], {"cache_folder": tmp_path / "cache"}

    def focal(**options: object) -> list[float | None]:
        sources = open_sources(paths, (32, 48), **where, **options)  # type: ignore[arg-type]
        return [None if source.K is None else float(source.K[0, 0]) for source in sources]

    assert focal() == [50, None]
    assert focal(intrinsics=[[40, 0, 31], [0, 40, 20], [0, 0, 1]]) == [40, 20]  # the video's frames are halved
    assert focal(fov=90) == pytest.approx([32, 24])
    assert focal(start_fov=90) == pytest.approx([50, 24])
    video = open_sources(paths[1:], (32, 48), **where, fov=90)[0]  # type: ignore[arg-type]
    np.testing.assert_allclose(np.asarray(video.K), intrinsics_from_fov(90, (32, 48)))
    with pytest.raises(
        InputError, match=r"intrinsics of .*x have their centre at \(70, 20\), far from the middle of its images of"
    ):
        focal(intrinsics=[[40, 0, 70], [0, 40, 20], [0, 0, 1]])
    with pytest.raises(InputError, match="intrinsics and fov 90 exclude each other"):
        focal(intrinsics=K, fov=90)
    with pytest.raises(InputError, match=r"y\.mp4 has no intrinsics; give --intrinsics"):
        SourceSequences(open_sources(paths, (32, 48), **where), (32, 48))  # type: ignore[arg-type]


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.csv", "README", "single.png"):
        folder = tmp_path / "texts"
        folder.mkdir(exist_ok=True)
        (folder if name != "single.png" else tmp_path).joinpath(name).write_text("")
    (tmp_path / "texts" / "empty").mkdir()

    def says(path: str | Path, pattern: str, **options: object) -> None:
        with pytest.raises(InputError, match=pattern):
            open_sources([path], (32, 48), cache_folder=tmp_path / "cache", **options)  # type: ignore[arg-type]

    says(
        tmp_path / "texts", r"holds 2 \.txt files and .*1 folder.*, but no picture and no video; give a video, a folder"
    )
    says(tmp_path / "texts" / "empty", "is empty, but no picture")
    says(tmp_path / "absent", "absent does not exist; give videos, folders of frames, or a data set")
    says(tmp_path / "single.png", "is a single picture; give the folder of all frames")
    says(tmp_path / "texts" / "a.txt", "is no video; give one, or a folder")
    says(f"kitti_raw:{tmp_path / 'texts'}", "holds no drive")
    (tmp_path / "broken.mp4").write_text("no video")
    says(tmp_path / "broken.mp4", "cannot be read as a video")
    write_drive(tmp_path / "kitti", {2: [np.zeros((3, *SIZE))] * 3}, K)
    says(tmp_path / "kitti", "camera left is no number; KITTI's colour cameras are 2", cameras=["left"])
    says(tmp_path / "kitti", "has no frame of kitti_raw; <date>/<drive>_sync", cameras=["3"])


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    gap=st.integers(1, 4),
    offsets=st.lists(st.integers(-3, 3).filter(bool), min_size=1, max_size=3, unique=True),
    fraction=st.floats(0.05, 0.5),
)
def test_what_is_held_out_shares_no_frame(lengths: list[int], gap: int, offsets: list[int], fraction: float) -> None:
    sources = [Numbers([n + gap * (n > 12) for n in range(length)], str(length)) for length in lengths]
    try:
        data = SourceSequences(sources, SIZE, offsets, augment=True)
        training, held_out = data.split(fraction)
    except InputError:
        longest = max(abs(offset) for offset in offsets)
        assert all(length < 12 + 2 * longest + gap for length in lengths), "long ones can be divided"
        return
    frames = [{(i.source, f) for i in part.items for f in (i.frame, *i.neighbours)} for part in (training, held_out)]
    assert not frames[0] & frames[1] and training.items and held_out.items
    assert training.augment is True and held_out.augment is False and data.augment is True
    assert len(data.items) == len(SourceSequences(sources, SIZE, offsets)), "what was divided is as it was"
    for number, source in enumerate(sources):
        ends = [max((f for s, f in part if s == number), default=-1) for part in frames]
        starts = min((f for s, f in frames[1] if s == number), default=max(source.frames) + 1)
        assert ends[0] < starts, "the end is held out"


def test_as_much_is_held_out_as_was_asked_for() -> None:
    sources = [Numbers(list(range(100)), "long"), Numbers(list(range(10, 16)), "short"), Numbers([0, 1, 2], "item")]
    training, held_out = SourceSequences(sources, SIZE).split(0.2)
    assert [i.frame for i in held_out.items if i.source == 0] == list(range(81, 99))
    assert [i.frame for i in training.items if i.source == 0] == list(range(1, 79))
    assert [i.frame for i in held_out.items if i.source == 1] == [14]
    assert [i.frame for i in training.items if i.source == 1] == [11]
    assert [i for i in training.items if i.source == 2] == [Item(2, 1, (0, 2))], "nothing would be left of it"
    assert training.cameras == held_out.cameras == ["long", "short", "item"]
    with pytest.raises(InputError, match=r"no recording is long enough to hold out 0\.2 of it"):
        SourceSequences(sources[2:], SIZE).split(0.2)
    with pytest.raises(InputError, match="fraction is 1; it must be between 0 and 1"):
        SourceSequences(sources, SIZE).split(1)


def test_items_of_a_folder_are_its_frames_in_order(tmp_path: Path) -> None:
    write_frames(tmp_path / "x", [f"{number}.png" for number in (*range(5), *range(8, 12))])
    data = SourceSequences(open_sources([tmp_path / "x"], SIZE, fov=60), SIZE)
    reds = [[round(float(image[0, 0, 0]) * 25.5) for image in item.images] for item in iter(data)]
    assert reds == [[1, 0, 2], [2, 1, 3], [3, 2, 4], [6, 5, 7], [7, 6, 8]], "none across the gap"
    assert all(one.name != other.name for one, other in pairwise(iter(data)))


def test_a_cut_video_says_so_and_a_camera_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    noise = list(np.random.default_rng(0).integers(0, 256, (40, 64, 96, 3), np.uint8))
    whole = write_video(tmp_path / "whole.avi", noise, "mpeg4")
    content = whole.read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    sources = open_sources([whole, tmp_path / "cut.avi"], (32, 48), fov=60, cache_folder=tmp_path / "cache")
    lines = describe(sources)
    given = len(sources[1].frames)
    assert 10 < given < 35
    assert "fewer than the file says" not in lines[0] and f"{40 - given} fewer than the file says" in lines[1]
    # What is told is the recording as it was made; what is read from the cache has the size of the training.
    assert "40 frames of 64 x 96, fx 83.1" in lines[0] and sources[0].size == (32, 48)
    with pytest.raises(InputError, match="is a video, which has no camera 2 to choose; leave cameras out"):
        open_sources([whole], (32, 48), fov=60, cameras=["2"], cache_folder=tmp_path / "cache")
