"""Where nothing can be written, every command says so in one sentence, and leaves no half file."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybrid_encoder.training.checkpointing import list_checkpoints

from helpers.command_line import call

SMALL = ("--encoder", "tiny", "--recipe", "small", "--no-pretrained", "--cpu", "--drives", 1, "--size", "64x96")
TRAINING = ("synthetic", *SMALL, "--batch-size", 2, "--steps", 1)
DEMO = ("demo", "--coarse-steps", 1, "--fine-steps", 2, "--drives", 2, "--cpu")
# Every command that writes, given the folder that it shall write into.
WRITING: dict[str, Callable[[Path], list[object]]] = {
    "predict": lambda folder: ["predict", "picture.png", "--size", "64x96", "--output", folder],
    "convert": lambda folder: ["convert", "tiny", folder / "new"],
    "train-coarse": lambda folder: ["train-coarse", *TRAINING, "--output", folder / "run"],
    "train-fine": lambda folder: ["train-fine", *TRAINING, "--output", folder / "run"],
    "export-onnx": lambda folder: ["export", "tiny", folder / "x.onnx", "--size", "64x96"],
    "export-pt2": lambda folder: ["export", "tiny", folder / "x.pt2", "--size", "64x96", "--format", "pt2"],
    "demo": lambda folder: [*DEMO, "--output", folder / "demo.png"],
    "demo-save": lambda folder: [*DEMO, "--output", "demo.png", "--save", folder / "weights"],
}


def every_command(*quick: str) -> pytest.MarkDecorator:
    """Return a mark that tries all of them, those that are not named here as slow ones."""
    names = [pytest.param(name, marks=[] if name in quick else [pytest.mark.campaign]) for name in WRITING]
    return pytest.mark.parametrize("name", names)


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pictures, of which the second takes more room than there is."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0)
    for name, size in (("picture.png", (200, 300)), ("a.png", (32, 32)), ("b.png", (200, 300))):
        Image.fromarray(noise.integers(0, 255, (*size, 3), np.uint8)).save(name)


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small disk of its own in this folder, for as long as the block runs."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk can be mounted by root alone")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes: what a full disk does, without a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def left_in(folder: Path) -> list[str]:
    """Return the files that a person would take for results; of a run, its settings and log may be there."""
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    shown = [str(path) for path in found if not any(part.startswith(".") for part in path.parts)]
    return sorted(path for path in shown if not any(own in path for own in ("run.json", "log.jsonl", "tfevents")))


def check_refused(name: str, folder: Path) -> str:
    """Run a command whose output cannot be written to this folder, and return its sentence."""
    ended = call(*WRITING[name](folder))
    assert ended.fault() is None, ended
    assert ended.status == 2, ended
    assert left_in(folder) == []
    assert list_checkpoints(folder / "run") == []
    return ended.err


@every_command("predict", "convert", "train-coarse", "train-fine")
@pytest.mark.filterwarnings("ignore:no sheet of pictures", "ignore:the log for TensorBoard ends")
def test_a_file_that_may_not_grow(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with small_files(20_000):
        said = check_refused(name, folder)
    assert "File too large" in said or "No space left" in said


@every_command("predict", "convert", "train-coarse")
def test_a_full_disk(name: str, tmp_path: Path) -> None:
    with mounted(tmp_path / "full", "size=40k") as folder:
        assert "No space left" in check_refused(name, folder)


@pytest.mark.parametrize("name", WRITING)
def test_a_disk_that_cannot_be_written_is_refused_before_the_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybrid_encoder.training.demonstration.run_demo", lambda *args, **options: pytest.fail("late"))
    with mounted(tmp_path / "read-only", "size=1m") as folder:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        assert "Read-only file system" in check_refused(name, folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("name", WRITING)
def test_a_folder_without_permission_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    assert "Permission denied" in check_refused(name, folder)


@pytest.mark.parametrize("name", WRITING)
def test_an_output_that_is_a_file_is_refused_and_kept(name: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a person's")
    ended = call(*WRITING[name](file))
    assert (ended.status, ended.fault()) == (2, None), ended
    assert file.read_text() == "a person's"


def test_pictures_that_were_finished_stay(tmp_path: Path) -> None:
    with small_files(20_000):
        ended = call("predict", "a.png", "b.png", "--size", "64x96", "--output", "out")
    assert (ended.status, ended.fault()) == (2, None), ended
    assert left_in(tmp_path / "out") == ["a_depth.png", "a_relative_depth.npy"]
    assert np.load("out/a_relative_depth.npy").shape == (32, 32)
    assert Image.open("out/a_depth.png").size == (32, 32)


@pytest.mark.campaign
def test_what_stood_there_stays(tmp_path: Path) -> None:
    Path("x.onnx").write_bytes(b"an older model")
    with small_files(20_000):
        assert call("export", "tiny", "x.onnx", "--size", "64x96").status == 2
    assert Path("x.onnx").read_bytes() == b"an older model"
    assert not list(tmp_path.glob(".export*"))


def test_training_without_room_for_a_checkpoint_says_so(tmp_path: Path) -> None:
    with mounted(tmp_path / "full", "size=10m") as folder:  # the weights fit, and the optimizer's state does not
        ended = call("train-coarse", *TRAINING, "--output", folder / "run")
        assert (ended.status, ended.fault()) == (2, None), ended
        assert list_checkpoints(folder / "run") == []


def program(*arguments: object, stdout: str | None = None, handles: int | None = None) -> tuple[int, str]:
    """Run the program in a process of its own; return its exit status and what it wrote to standard error."""

    def limit() -> None:
        if handles is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (handles, handles))

    with contextlib.ExitStack() as stack:
        out = subprocess.DEVNULL if stdout is None else stack.enter_context(open(stdout, "w"))
        done = subprocess.run(
            [sys.executable, "-m", "hybrid_encoder", *map(str, arguments)],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=limit,
            check=False,
        )
    return done.returncode, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_standard_output_that_takes_nothing() -> None:
    status, err = program("info", "tiny", stdout="/dev/full")
    assert (status, err.count("\n")) == (2, 1), err
    assert err.startswith("error: No space left on device")


@pytest.mark.parametrize("handles", [5, pytest.param(12, marks=pytest.mark.campaign)])
def test_a_limit_of_open_files_is_named(handles: int) -> None:
    status, err = program("predict", "picture.png", "--size", "64x96", handles=handles)
    assert status in (0, 2), err
    if status == 2:
        assert err.startswith("error: ") and err.count("\n") == 1, err
        assert "Too many open files" in err
        assert not Path("predictions").exists()
    else:
        assert Path("predictions/picture_depth.png").is_file()
