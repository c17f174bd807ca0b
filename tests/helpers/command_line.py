"""The ``hybrid-encoder`` program in this process, as tests of the command line run it, and files to give it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
from PIL import Image

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.cli import main
from hybrid_encoder.data import SyntheticDrive

from helpers.kitti_layout import write_drive

LONGEST = 200  # seconds; reading a pipe would take for ever


class Hung(BaseException):
    """The program did not end; no ``Exception``, so that nothing takes it for a failure of its own."""


class Ended(NamedTuple):
    """How the program ended."""

    status: int
    out: str
    err: str

    def fault(self) -> str | None:
        """Return what is wrong with it: success, or one sentence and status 2, and nothing that moves the cursor."""
        if self.status not in (0, 2):
            return f"exit status {self.status}"
        if "Traceback" in self.out + self.err:
            return "a traceback"
        strange = [sign for sign in self.out + self.err if not sign.isprintable() and sign != "\n"]
        if strange:
            return f"characters that do not show: {strange[:5]}"
        if self.status == 2 and not (self.err.startswith("error: ") and self.err.count("\n") == 1):
            return "more or less than one sentence"
        if self.status == 2 and len(self.err) > 1500:
            return "a very long sentence"
        return None


def call(*arguments: object) -> Ended:
    """Run the program with these arguments; what it raises is a bug of it, and is raised here."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    status = 0
    with (
        mock.patch.object(sys, "argv", ["hybrid-encoder", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _limited(),
    ):
        try:
            main()
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return Ended(status, *texts)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise Hung(f"the program did not end within {LONGEST} seconds")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


STRANGE_NAME = os.fsdecode(b"un\xffdecodable.png")


def lay_out(folder: Path) -> None:
    """Write what a person has in a folder: pictures, weights, data; and what a stranger may have put there."""
    picture = np.random.default_rng(0).integers(0, 255, (40, 64, 3), np.uint8)
    (folder / "pictures").mkdir()
    (folder / "empty").mkdir()
    (folder / "folder.onnx").mkdir()
    (folder / "[").mkdir()  # so that [/x].png is a path
    for name in ("a.png", "b.jpg", "pictures/c.png", "[/x].png", "[red]d.png", "\x1b[31me.png", STRANGE_NAME):
        Image.fromarray(picture).save(folder / name, format="JPEG" if name.endswith("jpg") else "PNG")
    (folder / "text.png").write_text("no picture")
    (folder / "split.txt").write_text("2011_01_01/2011_01_01_drive_0001_sync 1 l\n")
    (folder / "script.py").write_text("print('done')\n")
    (folder / "wrong.py").write_text("def :\n")
    (folder / "noise.ckpt").write_bytes(b"\x80\x04\x95" + bytes(range(256)))
    HybridDepthModel.from_pretrained("tiny").save_pretrained(folder / "weights")
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text('{"kind": "\\u001b[31m[/x]"}')
    (folder / "broken" / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{")
    frames = list(SyntheticDrive(3, num_frames=3, height=48, width=96))
    points = np.random.default_rng(0).uniform((-2, -1, 4), (2, 1, 30), (500, 3))
    write_drive(folder / "kitti", {2: [frame.image for frame in frames]}, frames[0].K, {1: points})


def add_pipe(folder: Path) -> None:
    """Put a pipe there that nobody writes to: whoever reads it waits for ever."""
    os.mkfifo(folder / "pipe")
