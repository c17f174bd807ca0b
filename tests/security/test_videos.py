"""Videos from strangers: no other file is opened, nothing is decoded without bounds, and what is wrong is told."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hybrid_encoder import InputError
from hybrid_encoder.data.video import VideoFrames, VideoWriter, video_comment

from helpers.memory import peak, start_peak
from helpers.videos import SIZE, scenes, write_sound, write_video


def sentence(path: Path, max_pixels: int | None = None) -> str:
    """What a video is refused with, before the first frame or after some: one sentence that names the file."""
    limit = {} if max_pixels is None else {"max_pixels": max_pixels}
    with pytest.raises(InputError) as refusal, VideoFrames(path, **limit) as frames:
        for _ in frames:
            pass
    message = str(refusal.value)
    assert "\n" not in message and message.startswith(str(path)) and message.endswith(".")
    return message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.mp4", b""),
        ("text.mp4", b"some words " * 500),
        ("zeros.mp4", bytes(5000)),
        ("list.mp4", b"ffconcat version 1.0\nfile real.mp4\n"),
        ("playlist.ts", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nreal.ts\n#EXT-X-ENDLIST\n"),
        ("session.mp4", b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"),
        ("manifest.mp4", b'<?xml version="1.0"?><MPD><Period><BaseURL>real.mp4</BaseURL></Period></MPD>'),
    ],
)
def test_what_is_no_video_is_refused_and_opens_no_other(tmp_path: Path, name: str, content: bytes) -> None:
    write_video(tmp_path / "real.mp4", scenes(2))
    write_video(tmp_path / "real.ts", scenes(2))
    (tmp_path / name).write_bytes(content)
    assert "cannot be read as a video" in sentence(tmp_path / name)
    assert video_comment(tmp_path / name) is None


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF"])
def test_a_picture_is_no_video_whatever_its_name(tmp_path: Path, format: str) -> None:
    Image.fromarray(scenes(1)[0]).save(tmp_path / "x.mp4", format)
    assert "cannot be read as a video" in sentence(tmp_path / "x.mp4")


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "is not a regular file" in sentence(tmp_path / "pipe.mp4")
    assert "is not a regular file" in sentence(tmp_path)
    assert "does not exist" in sentence(tmp_path / "none.mp4")
    for name in ("http://127.0.0.1:9/x.mp4", "concat:a.mp4|b.mp4", "pipe:0", "x\0.mp4"):
        with pytest.raises(InputError, match=r"does not exist; check the path\."), VideoFrames(Path(name)):
            pass


def test_names_may_be_any(tmp_path: Path) -> None:
    for name in ("a b%d [1].mp4", "ü.mp4", os.fsdecode(b"\xff.mp4"), "-y.mp4", "http:x.mp4"):
        with VideoWriter(tmp_path / name, SIZE, 25, "ü") as out:
            out.write(scenes(1)[0])
        assert video_comment(tmp_path / name) == "ü"
        with VideoFrames(tmp_path / name) as frames:
            assert len(list(frames)) == 1


def test_a_file_of_music_has_no_pictures(tmp_path: Path) -> None:
    assert "holds no moving pictures" in sentence(write_sound(tmp_path / "x.mp4"))


def test_frames_have_a_limit(tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.mp4", scenes(2))
    assert "has frames of 64 x 96, 6,144 pixels; at most 6,143 are read" in sentence(path, 6143)
    with VideoFrames(path, max_pixels=6144) as frames:
        assert len(list(frames)) == 2
    assert "at least 32" in sentence(write_video(tmp_path / "y.mp4", scenes(2, (24, 96))))


@pytest.mark.parametrize(
    ("name", "codec", "mark"), [("x.avi", "png", b"IHDR"), ("y.avi", "mjpeg", b"\xff\xc0\x00\x11\x08")]
)
def test_a_claimed_size_takes_no_memory(tmp_path: Path, name: str, codec: str, mark: bytes) -> None:
    """A few kilobytes that say they were 16000 x 16000 pixels, three quarters of a gigabyte."""
    path = write_video(tmp_path / name, scenes(2), codec, "rgb24" if codec == "png" else "yuvj422p")
    content = path.read_bytes()
    size = 4 if codec == "png" else 2
    parts = content.split(mark)
    claimed = (16000).to_bytes(size, "big") * 2
    path.write_bytes(mark.join([parts[0], *(claimed + part[len(claimed) :] for part in parts[1:])]))
    before = start_peak()
    assert "decoded" in sentence(path) or "pixels" in sentence(path)
    assert peak() - before < 100e6


def noisy_scenes(num_frames: int, most: int, rng: np.random.Generator) -> list[NDArray[np.uint8]]:
    """Scenes that do not compress to almost nothing: every value is raised by less than ``most``."""
    return [np.clip(f + rng.integers(0, most, f.shape), 0, 255).astype(np.uint8) for f in scenes(num_frames)]


def overwritten(content: bytes, rng: np.random.Generator) -> bytes:
    """The same with 400 bytes replaced somewhere."""
    start = int(rng.integers(len(content) - 400))
    return content[:start] + rng.bytes(400) + content[start + 400 :]


def outcome(path: Path) -> bool:
    """Whether a video ended in a sentence; its frames until there are right in shape."""
    with contextlib.suppress(InputError), VideoFrames(path) as frames:
        assert all(frame.shape == (*frames.size, 3) for frame in frames)
        return False
    return True


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.ts", "x.avi"])
def test_damage_ends_in_a_sentence_or_in_frames(tmp_path: Path, name: str) -> None:
    """Whatever is cut or changed: frames until there, or a sentence, never a crash."""
    rng = np.random.default_rng(0)
    codec = "mjpeg" if name == "x.avi" else "libx264"
    content = write_video(tmp_path / name, noisy_scenes(20, 40, rng), codec, "yuvj420p").read_bytes()
    told = 0
    for number in range(24):
        changed = content[: int(rng.integers(len(content)))] if number % 2 else overwritten(content, rng)
        (tmp_path / name).write_bytes(changed)
        told += outcome(tmp_path / name)
    assert told or name != "x.mp4"  # its index stands at the end


LOGGED = """
import contextlib, logging, sys
from pathlib import Path

import av.logging

from hybrid_encoder import InputError
from hybrid_encoder.data.video import VideoFrames

av.logging.set_level(av.logging.ERROR)  # as torchvision 0.23 does when it is imported
logging.getLogger("libav").disabled = True
for path in sys.argv[1:]:
    with contextlib.suppress(InputError), VideoFrames(Path(path)) as frames:
        for _ in frames:
            pass
"""


def test_damage_ends_where_the_decoder_s_threads_log_what_they_find(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    content = write_video(tmp_path / "x.mp4", noisy_scenes(20, 40, rng), "libx264", "yuvj420p").read_bytes()
    paths = [tmp_path / f"{number}.mp4" for number in range(24)]
    for path in paths:
        path.write_bytes(overwritten(content, rng))
    subprocess.run([sys.executable, "-c", LOGGED, *map(str, paths)], check=True, timeout=120, capture_output=True)


def test_half_a_download_is_told_where_it_ends(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "x.mp4"
    with VideoWriter(path, SIZE, 25) as out:
        for frame in noisy_scenes(60, 60, rng):
            out.write(frame)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with VideoFrames(path) as frames:  # its index comes first, and is whole
        assert frames.num_frames == 60
    assert "cannot be decoded after" in sentence(path)


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from hybrid_encoder.cli.failures import sentence_of
from hybrid_encoder.data.video import VideoWriter
def write():
    rng = np.random.default_rng(0)
    with VideoWriter(path, (64, 96), 25, "second") as out:
        for _ in range(30):
            out.write(rng.integers(0, 255, (64, 96, 3), np.uint8))
path, part = Path(sys.argv[1]), float(sys.argv[2])
earlier = path.read_bytes()
write()
limit = int(part * path.stat().st_size)
path.write_bytes(earlier)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
try:
    write()
except OSError as error:
    print(sentence_of(error))
finally:  # coverage writes a file when the process ends
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
"""


@pytest.mark.parametrize("part", [0, 0.5, 0.999])
def test_a_disk_that_is_full_is_told_and_left_as_it_was(tmp_path: Path, part: float) -> None:
    """Full at once, while frames are written, or only when the file is finished."""
    path = tmp_path / "x.mp4"
    with VideoWriter(path, SIZE, 25, "first") as out:
        out.write(scenes(1)[0])
    said = subprocess.run(
        [sys.executable, "-c", FULL, str(path), str(part)], capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith(f"{path}: File too large; raise the limit of file sizes") and said.stderr == ""
    assert list(tmp_path.iterdir()) == [path] and video_comment(path) == "first"
