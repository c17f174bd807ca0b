"""Videos: what is read is what was written, upright and in its colours, and long ones take no more memory."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from hybrid_encoder import InputError
from hybrid_encoder.data.video import VideoFrames, VideoWriter, is_video, video_comment

from helpers.videos import SIZE, Pixels, held, psnr, scenes, write_video


def read(path: Path, every: int = 1) -> list[Pixels]:
    with VideoFrames(path, every) as frames:
        return list(frames)


def written(path: Path, frames: list[Pixels], rate: Fraction | float = 25, comment: str = "") -> Path:
    with VideoWriter(path, (frames[0].shape[0], frames[0].shape[1]), rate, comment) as out:
        for frame in frames:
            out.write(frame)
    return path


@pytest.mark.parametrize("size", [(64, 96), (65, 96), (64, 97), (375, 621)])
def test_what_is_written_is_read_again(tmp_path: Path, size: tuple[int, int]) -> None:
    frames, rate = scenes(12, size), Fraction(30000, 1001)
    path = written(tmp_path / "x.mp4", frames, rate, "whose it is")
    with VideoFrames(path) as found:
        assert found.size == (size[0] + size[0] % 2, size[1] + size[1] % 2)
        assert found.rate == rate and found.num_frames == 12
        again = list(found)
    assert len(again) == 12
    for frame, other in zip(frames, again, strict=True):
        assert psnr(frame, other[: size[0], : size[1]]) > 38
        assert np.abs(other[-1].astype(float) - other[size[0] - 1]).mean() < 3  # an odd border is continued
    assert video_comment(path) == "whose it is"
    assert [file.name for file in tmp_path.iterdir()] == ["x.mp4"]


def test_browsers_play_it(tmp_path: Path) -> None:
    path = written(tmp_path / "x.mp4", scenes(3))
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # the index comes first, so that it plays while it loads
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_primaries, context.color_range) == (1, 1, 1)


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "least"),
    [
        ("ten_bits.mp4", "libx265", "yuv420p10le", 38),
        ("all_values.mp4", "libx264", "yuvj420p", 38),
        ("chroma.mkv", "libx264", "yuv444p", 36),
        ("x.webm", "libvpx-vp9", "yuv420p", 40),
        ("motion_jpeg.avi", "mjpeg", "yuvj422p", 30),
        ("camera.mov", "prores_ks", "yuv422p10le", 50),
        ("dashcam.ts", "libx264", "yuv420p", 38),
        ("old.mpg", "mpeg2video", "yuv420p", 28),
        ("bare.h264", "libx264", "yuv420p", 38),
        ("palette.avi", "png", "rgb24", 90),
    ],
)
def test_many_kinds_are_read(tmp_path: Path, name: str, codec: str, pixels: str, least: float) -> None:
    frames = scenes(6)
    options: dict[str, Any] = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = write_video(tmp_path / name, frames, codec, pixels, **options)
    again = read(path)
    assert len(again) == 6 and all(frame.shape == (*SIZE, 3) for frame in again)
    assert min(psnr(frame, other) for frame, other in zip(frames, again, strict=True)) > least


@pytest.mark.parametrize(("pixels", "values"), [("yuv420p", (16, 235)), ("yuvj420p", (0, 255))])
def test_black_and_white_are_those_of_the_file(tmp_path: Path, pixels: str, values: tuple[int, int]) -> None:
    """The two ends of brightness as a file has them become 0 and 255, whether it says 16 and 235 or uses all."""
    frames = [np.full((*SIZE, 3), value, np.uint8) for value in (0, 255)]
    path = write_video(tmp_path / "x.mp4", frames, pixels=pixels, crf="1")
    with av.open(str(path)) as container:
        stored = [int(np.frombuffer(bytes(f.planes[0]), np.uint8)[0]) for f in container.decode(video=0)]
    assert np.abs(np.array(stored) - values).max() <= 1
    assert np.abs(np.stack(read(path)).astype(int) - np.stack(frames)).max() <= 2


def test_a_file_that_does_not_say_its_colours_has_those_of_its_size(tmp_path: Path) -> None:
    """As players see it: BT.709 above 576 rows, BT.601 below."""
    red = np.zeros((720, 64, 3), np.uint8)
    red[:] = (200, 30, 30)
    large = write_video(tmp_path / "large.mp4", [red])  # written by swscale's default, BT.601, without saying so
    small = write_video(tmp_path / "small.mp4", [red[:64]])
    assert np.abs(read(small)[0].mean((0, 1)) - (200, 30, 30)).max() < 2
    assert np.abs(read(large)[0].mean((0, 1)) - (200, 30, 30)).max() > 10


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((1, 0, 0, 1), lambda frame: frame),
        ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),  # a phone held upright
        ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
        ((0, -1, 1, 0), lambda frame: np.rot90(frame, 1)),
        ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),  # a mirror, as some front cameras
        ((0, 1, 1, 0), lambda frame: frame.transpose(1, 0, 2)),
    ],
)
def test_frames_are_upright(tmp_path: Path, matrix: tuple[int, ...], turned: object) -> None:
    frames = scenes(3)
    path = held(write_video(tmp_path / "x.mp4", frames), matrix)
    with VideoFrames(path) as found:
        size, again = found.size, list(found)
    for frame, other in zip(frames, again, strict=True):
        expected = turned(frame)  # type: ignore[operator]  # one of the functions above
        assert other.shape[:2] == size == expected.shape[:2] and other.flags.c_contiguous
        assert psnr(expected, other) > 38


def test_pixels_become_square(tmp_path: Path) -> None:
    """A frame of DV is stored narrower than it is shown."""
    path = write_video(tmp_path / "x.mp4", scenes(2), aspect=Fraction(4, 3))
    frames = read(path)
    assert frames[0].shape == (64, 128, 3)
    assert psnr(scenes(2, (64, 128))[0], frames[0]) > 32


def test_only_every_nth_frame(tmp_path: Path) -> None:
    frames = scenes(11)
    path = written(tmp_path / "x.mp4", frames, 30)
    with VideoFrames(path, every=4) as found:
        assert found.rate == Fraction(30, 4) and found.num_frames == 3
        again = list(found)
    assert len(again) == 3
    for frame, other in zip(frames[::4], again, strict=True):
        assert psnr(frame, other) > 38
    with pytest.raises(InputError, match=r"every is 0; it must be at least 1\."):
        VideoFrames(path, every=0)


def test_a_variable_rate_becomes_the_average(tmp_path: Path) -> None:
    """So a video of as many frames takes as long as its source."""
    times = [0, 100, 200, 900, 1000, 1100, 1200, 1300, 2000, 2100, 2200, 2300]
    path = write_video(tmp_path / "x.mp4", scenes(12), times=times, rate=10)
    with VideoFrames(path) as found:
        assert float(found.rate) == pytest.approx(12 / 2.4, rel=0.05)


def test_the_number_of_frames_is_unknown_where_the_file_does_not_say_it(tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.mkv", scenes(7))
    with VideoFrames(path) as found:
        assert found.num_frames is None and len(list(found)) == 7


def test_a_recording_may_begin_between_two_key_frames(tmp_path: Path) -> None:
    """As the pieces do into which dashcams cut."""
    path = write_video(tmp_path / "x.ts", scenes(40), g="20", bf="0")
    content = path.read_bytes()
    path.write_bytes(content[188 * 12 :])  # packets of 188 bytes
    frames = read(path)
    assert 20 <= len(frames) < 40
    assert psnr(scenes(40)[-1], frames[-1]) > 38


def test_names_of_videos() -> None:
    assert all(is_video(Path(name)) for name in ("a.mp4", "b.MOV", "c.d.mkv", "e.webm"))
    assert not any(is_video(Path(name)) for name in ("a.png", "mp4", "a.mp4.txt", ".mp4"))


def test_nothing_is_left_of_a_video_that_fails(tmp_path: Path) -> None:
    path = written(tmp_path / "x.mp4", scenes(3), comment="first")
    with pytest.raises(KeyError), VideoWriter(path, SIZE, 25, "second") as out:
        out.write(scenes(1)[0])
        raise KeyError
    assert video_comment(path) == "first" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match=r"x\.mp4 would hold no frame"), VideoWriter(path, SIZE, 25):
        pass
    assert video_comment(path) == "first" and list(tmp_path.iterdir()) == [path]
    with VideoWriter(path, SIZE, 25) as out:
        out.write(scenes(1)[0])
        with pytest.raises(InputError, match=r"a frame is \(64, 95, 3\), uint8; \(64, 96, 3\), uint8 is needed"):
            out.write(scenes(1, (64, 95))[0])
        with pytest.raises(InputError, match="float64"):
            out.write(scenes(1)[0].astype(float))
    for rate in (0, -1, 1e9, float("nan")):
        with pytest.raises(InputError, match="frames per second"):
            VideoWriter(path, SIZE, rate)


FOR_MEMORY = """
import json, sys
from pathlib import Path
from typing import Any
sys.path[:0] = [sys.argv[1]]
from helpers.memory import peak, start_peak
from helpers.videos import scenes
from hybrid_encoder.data.video import VideoFrames, VideoWriter
source, target = Path(sys.argv[2]), Path(sys.argv[2] + ".mp4")
picture = scenes(1, (96, 320))[0]
def go(num_frames):
    with VideoWriter(source, (96, 320), 30) as out:
        for number in range(num_frames):
            picture[..., 2] = number % 251
            out.write(picture)
    start_peak()
    count = 0
    with VideoFrames(source) as frames, VideoWriter(target, frames.size, frames.rate) as out:
        for frame in frames:
            out.write(frame[:, ::-1])
            count += 1
    assert count == num_frames
    return peak()
go(30)
print(json.dumps([go(60), go(600)]))
"""


def test_a_long_video_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FOR_MEMORY, str(Path(__file__).parents[1]), str(tmp_path / "x.mp4")]
    short, long = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert long - short < 8e6  # bytes; the 540 frames themselves are 50 million
