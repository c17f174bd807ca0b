"""What all rows of a table have in common, and what a result is known by."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import timm
import torch

import hybrid_encoder
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.towers.own_weights import SHIPPED, WEIGHTS

FRAMES = 5  # of a drive
HELD_OUT = 1_000_000  # the first seed of held-out drives
APART = 10_000  # between the first drives of two seeds: more than any row trains on
SEEDS = HELD_OUT // APART  # the drives of later ones would be held-out ones
LANGUAGE_LOSS = 0.003
BASELINE = 0.54  # metres between the two views, as in KITTI


@dataclass(frozen=True)
class Settings:
    """How all rows of a table are trained and measured.

    Args:
        world: which renderer.
        camera: of the street's drives; the plain ones have their own.
        views: what the fine stage compares a frame with: its neighbours in ``"video"``, whose motion is learned too, or
            the right view of a ``"stereo"`` pair, whose place is known.
        size: (H, W) of the frames.
        drives: to train on, where a row names no number.
        coarse_steps, steps: optimizer steps of both stages.
        coarse_lr, lr: their rates.
        lanes: groups of pixels that the coarse stage reads in a frame.
        batch_size: frames in a step of the fine stage.
        preset: of the encoder.
        held_out: drives that are measured on, one frame each.
        pairs: of pixels in each frame.
        device: that trains.
    """

    world: Literal["street", "plain"] = "street"
    camera: Literal["random", "kitti"] = "kitti"
    views: Literal["video", "stereo"] = "stereo"
    size: tuple[int, int] = (64, 208)
    drives: int = 64
    coarse_steps: int = 240
    steps: int = 300
    coarse_lr: float = 1e-3
    lr: float = 1e-3
    lanes: int = 32
    batch_size: int = 4
    preset: str = "tiny"
    held_out: int = 48
    pairs: int = 256
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        if not 1 <= self.drives <= APART:
            raise ConfigError(
                f"drives is {self.drives}; it must be 1 to {APART}, lest two seeds train on the same drives."
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON gives them back."""
        return {**asdict(self), "size": list(self.size)}


def weights_digests() -> dict[str, str]:
    """Return the digests of the small CLIP's and the small DINO's weights in the package, by their names in it."""
    return {name: _digest(WEIGHTS / name) for name in SHIPPED.values() if (WEIGHTS / name).is_file()}


@lru_cache
def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def versions(*weights: str | Path | None) -> dict[str, str]:
    """Return the versions of what a number depends on, and the digests of the pretrained weights that are there.

    Args:
        weights: files besides those of the package.
    """
    files = [Path(file) for file in weights if file and Path(file).is_file()]
    return {
        **weights_digests(),
        **{Path(*file.parts[-2:]).as_posix(): _digest(file) for file in files},
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "hybrid_encoder": hybrid_encoder.__version__,
    }


def code_digest() -> str:
    """Return a digest of the sources that numbers depend on: of the library's training and of this benchmark."""
    package, here = Path(hybrid_encoder.__file__).parent, Path(__file__).parent
    rooms = ("config", "data", "evaluation", "geometry", "language", "losses", "models", "towers", "training")
    files = [file for room in rooms for file in (package / room).rglob("*.py")]
    own = ("settings", "worlds", "training", "measures", "words")
    files += [here / f"{name}.py" for name in own] + [here.parent / "unet.py"]
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: (file.name, str(file))):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
