"""``hybrid-encoder predict`` beside a person's own files, in other programs' pipes, and stopped half-way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybrid_encoder.data.point_clouds import PointCloud, write_cloud
from hybrid_encoder.data.results import is_result
from hybrid_encoder.writing import write_whole

from helpers.pictures import scene

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--size", "32x64", "--device", "cpu")


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(scene()).save("a.png")
    return Path("a.png")


def person_array(path: Path) -> None:
    np.save(path, np.ones((48, 64), np.float32))


def person_cloud(path: Path) -> None:
    write_cloud(path, PointCloud(np.ones((5, 3), np.float32), np.ones((5, 3), np.uint8)))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a_depth_m.npy", person_array),
        ("a_points.ply", person_cloud),
        ("a_points.glb", person_cloud),
        ("a_points.ply", lambda path: path.write_bytes(b"ply\n")),
        ("a_depth_m.npy", lambda path: path.mkdir()),
    ],
)
def test_what_a_person_put_beside_results_is_never_replaced(
    run: Run, picture: Path, name: str, write: Callable[[Path], None]
) -> None:
    """The map beside it is ours; the file is not."""
    if name.endswith(".glb"):
        pytest.importorskip("trimesh")
    assert run("predict", picture, "-o", "out", *QUICK)[0] == 0
    write(Path("out", name))
    code, _, err = run("predict", picture, "-o", "out", *QUICK)
    assert code == 2 and f"out/{name} would be replaced" in err and err.count("\n") == 1


def test_every_result_is_known_alone_and_read_by_others(run: Run, picture: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    for arguments in (
        ("--point-cloud", "ply", "--fov", 60),
        ("--point-cloud", "glb", "--fov", 60, "--numbers", "png16"),
    ):
        assert run("predict", picture, "-o", "out", *arguments, *QUICK)[0] == 0
    depth = np.load("out/a_relative_depth.npy")
    assert depth.dtype == np.float32 and depth.shape == (48, 64)
    assert np.array_equal(np.load("out/a_relative_depth.npy", mmap_mode="r"), depth)
    for kind in ("ply", "glb"):
        assert len(trimesh.load(f"out/a_points.{kind}", force="scene").geometry) == 1
    Path("alone").mkdir()
    results = sorted(Path("out").iterdir())
    assert len(results) == 5
    for number, path in enumerate(results):
        moved = path.rename(f"alone/{number}{path.suffix}")
        assert is_result(moved), path


def test_threads_that_write_at_once_keep_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask, before = os.umask, os.umask(0o027)

    def slow(mask: int) -> int:
        time.sleep(0.001)  # another thread's turn
        return ask(mask)

    monkeypatch.setattr(os, "umask", slow)
    try:
        threads = [threading.Thread(target=write_whole, args=(tmp_path / str(i), b"x")) for i in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        left = ask(before)
    assert left == 0o027
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


def program(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hybrid_encoder", "predict", *map(str, arguments), *QUICK]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, **options)


def test_streams_that_are_closed(picture: Path) -> None:
    done = program(picture, "-o", "out", "--json", preexec_fn=lambda: os.closerange(0, 2))
    assert (done.wait(100), done.stderr and done.stderr.read()) == (0, "")
    assert Path("out/a_depth.png").is_file()


NUM_PICTURES = 150  # the command is far from its end when this process, on a busy machine, gets to stop it


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_half_way_there_is_nothing_half(run: Run, picture: Path, number: int) -> None:
    Path("in").mkdir()
    for index in range(NUM_PICTURES):
        Image.fromarray(scene(200, 300)).save(f"in/{index:03d}.png")
    begun = program("in", "-o", "out", "--batch-size", 1, "--point-cloud", "ply", "--fov", 60)
    deadline = time.monotonic() + 100
    while not list(Path("out").glob("*.npy")) and time.monotonic() < deadline:
        time.sleep(0.02)
    begun.send_signal(number)
    _, err = begun.communicate(timeout=60)
    if number == signal.SIGINT:
        assert begun.returncode == 130 and err == "error: interrupted.\n" and not list(Path("out").glob(".*"))
    for path in Path("out").glob("*.npy"):
        assert np.load(path).shape == (200, 300)
    code, out, err = run("predict", "in", "out", "-o", "out", *QUICK)
    assert code == 0 and f"{NUM_PICTURES} images" in out, err
    assert len(list(Path("out").glob("*.npy"))) == NUM_PICTURES
