"""Copies of other people's checkouts on real KITTI frames, for tests that are run on demand.

The licences of that code may forbid to keep it: it is read from the user's own checkout, never kept here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
IMAGES = Path(os.environ.get("HYBRID_ENCODER_DATA", REPO.parent / "shared" / "data"))
DATA = IMAGES / "kitti_mini"
DRIVE = "2011_09_26/2011_09_26_drive_0001_sync"
HEIGHT, WIDTH = 96, 320
BASE = ["--no_cuda", "--num_workers", "0", "--weights_init", "scratch", "--png", "--batch_size", "2"]
BASE += ["--height", str(HEIGHT), "--width", str(WIDTH), "--data_path", str(DATA)]
ITEMS = [f"{DRIVE} {frame} {side}" for frame in (1, 2, 3, 4) for side in "lr"]


class Checkout:
    """A copy of a checkout, with splits of the frames at hand."""

    def __init__(self, source: str, folder: Path) -> None:
        self.source, self.folder = Path(source), folder
        code = shutil.ignore_patterns(".git", "models", "assets", "*.pyc", "__pycache__", "*.ipynb")
        shutil.copytree(source, folder, ignore=code)
        self.split(ITEMS)

    def split(self, items: list[str]) -> None:
        """Train and validate on these items."""
        for name in ("train_files.txt", "val_files.txt"):
            (self.folder / "splits" / "eigen_zhou" / name).write_text("\n".join(items))

    def start(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run Python in the copy's folder."""
        command = (sys.executable, *command)
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=3600)

    def run(self, *command: str) -> str:
        """Do the same, which must not fail, and return what it printed."""
        done = self.start(*command)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    def assert_unmodified(self, changed: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        """Raise AssertionError unless every Python file is the checkout's, and the commit's in a git checkout."""
        committed = {}
        if (self.source / ".git").exists():
            command = ["git", "-c", "safe.directory=*", "-C", str(self.source), "ls-tree", "-r", "HEAD"]
            listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            committed = {line.split("\t")[1]: line.split()[2] for line in listing.splitlines()}
        files = {str(file.relative_to(self.folder)) for file in self.folder.rglob("*.py")}
        assert len(files) > 10
        for name in files - changed:
            content = (self.folder / name).read_bytes()
            assert content == (self.source / name).read_bytes(), name
            if committed:
                blob = b"blob %d\0" % len(content) + content
                assert hashlib.sha1(blob).hexdigest() == committed[name], f"{name} differs from the commit"
