"""``python -m benchmarks.data_waiting``: the share of a training step that waits for data.

The fine stage of a preset trains by its published recipe on PNG files of KITTI's size that are rendered first, with
noise as photographs have it, resized and augmented as in a training, and loaded by the trainer's own batches. Where
loading and training share the cores of a CPU, hardly anything is waited for and everything gets slower; so the step is
also compared with one on a batch that stays in memory, taken while nothing is loaded.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from numpy import uint8
from numpy.random import default_rng
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.measure import seconds
from hybrid_encoder.data.frames import Frames
from hybrid_encoder.data.images import read_image
from hybrid_encoder.data.sequences import SourceSequences
from hybrid_encoder.data.sources.base import Array, FrameSource
from hybrid_encoder.data.synthetic.drive import SyntheticDrive
from hybrid_encoder.training.batches import SeededBatches
from hybrid_encoder.training.fine import fine_model, fine_stage
from hybrid_encoder.training.optimizing import fused_adamw
from hybrid_encoder.training.recipes import FINE

KITTI = (375, 1242)
FILES = 12
NOISE = 4.0  # of 255: the files are then as large as KITTI's
WARM_UP = 2  # steps that are not counted
AHEAD = 2  # batches that each worker has ready before training begins: they say nothing about how fast it loads


@dataclasses.dataclass(frozen=True)
class Setting:
    """What trains, on what.

    Attributes:
        preset: of the model.
        size: (H, W) that the network sees.
        frame_size: (H, W) of the files.
        batch: items in a step.
        workers: processes that load.
        steps: that are counted, each way.
        pose: the pose network.
        bf16: train under bfloat16 autocast.
    """

    preset: str = "paper"
    size: tuple[int, int] = (224, 672)
    frame_size: tuple[int, int] = KITTI
    batch: int = 1
    workers: int = 4
    steps: int = 12
    device: str = "cpu"
    pose: str = "resnet18"
    bf16: bool = False


class Recording(FrameSource):
    """PNG files that take turns as the frames of one long recording."""

    def __init__(self, files: Sequence[Path], K: Array, size: tuple[int, int], length: int) -> None:
        self.files, self.K, self.size, self.length = list(files), K, size, length
        self.name = "recording"

    @property
    def frames(self) -> Sequence[int]:
        return range(self.length)

    def image(self, frame: int) -> Array:
        return read_image(self.files[frame % len(self.files)]).numpy()


def write_recording(folder: Path, size: tuple[int, int], length: int) -> Recording:
    """Render a few frames into PNG files."""
    generator, files = default_rng(0), []
    drive = SyntheticDrive(0, FILES, *size)
    for number, frame in enumerate(drive):
        pixels = frame.image.transpose(1, 2, 0) * 255 + generator.normal(0, NOISE, (*size, 3))
        files.append(folder / f"{number}.png")
        Image.fromarray(pixels.clip(0, 255).round().astype(uint8)).save(files[-1])
    return Recording(files, drive[0].K, size, length)


def measure(setting: Setting) -> dict[str, Any]:
    """Train on a batch in memory, then on loaded ones.

    Returns:
        ``item``, the seconds that one item takes a process; ``cached`` and ``loaded``, the seconds of every step;
        ``waited``, those of each that it waited for its batch; ``share`` of the time that was waited, and ``slower``,
        how many times as long a step takes as on a batch in memory.
    """
    recipe = dataclasses.replace(FINE["published"], size=setting.size, pose=setting.pose, pose_pretrained=False)
    skipped = WARM_UP + AHEAD * setting.workers
    with tempfile.TemporaryDirectory() as folder:
        recording = write_recording(Path(folder), setting.frame_size, (skipped + setting.steps) * setting.batch + 2)
        items = SourceSequences(
            [recording], setting.size, recipe.offsets, augment=True, jitter=recipe.jitter, resample=recipe.resample
        )
        item = median(seconds(functools.partial(items.__getitem__, number), "cpu") for number in range(len(items))[:6])
        step = training_step(setting)
        pinned = setting.device == "cuda"

        def batches(workers: int) -> SeededBatches:
            return SeededBatches(items, setting.batch, 0, workers=workers, pin_memory=pinned)

        (batch,) = next(iter(batches(0)))
        cached = [seconds(lambda: step(batch), setting.device) for _ in range(WARM_UP + setting.steps)][WARM_UP:]
        loader = batches(setting.workers)
        loaded, waited = [], []
        began = time.perf_counter()
        for (batch,) in itertools.islice(loader, skipped + setting.steps):
            step(batch)
            if pinned:
                torch.cuda.synchronize()
            now = time.perf_counter()
            loaded.append(now - began)
            waited.append(loader.waited)
            began = now
        loader.loader = None  # its workers end
        gc.collect()
    loaded, waited = loaded[skipped:], waited[skipped:]
    share, slower = sum(waited) / sum(loaded), median(loaded) / median(cached)
    return {"item": item, "cached": cached, "loaded": loaded, "waited": waited, "share": share, "slower": slower}


def training_step(setting: Setting) -> Callable[[Frames], None]:
    """Return a call that trains on a batch; a rate of 0 keeps all steps alike."""
    recipe = dataclasses.replace(FINE["published"], size=setting.size, pose=setting.pose, pose_pretrained=False)
    torch.manual_seed(0)
    stage = fine_stage(fine_model(setting.preset, recipe, pretrained=False), recipe).to(setting.device).train()
    optimizer = fused_adamw([{"params": [p for p in stage.parameters() if p.requires_grad]}], 0.0, 0.0)

    def step(batch: Frames) -> None:
        images, augmented, K = (x.to(setting.device, non_blocking=True) for x in batch[:3])
        there = batch._replace(images=images, augmented=augmented, K=K)
        with torch.autocast(setting.device, torch.bfloat16, enabled=setting.bf16):
            loss = stage(there)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def table(setting: Setting, found: dict[str, Any]) -> Table:
    """Make a table of what was measured."""
    what = f"{setting.preset}, {setting.size[0]} x {setting.size[1]}, batch {setting.batch}, {setting.device}"
    result = Table("what", "value", title=f"Waiting for data: {what}, {setting.workers} workers")
    result.add_row("one item, in one process", f"{found['item']:.3f} s")
    result.add_row("a step on a batch in memory", f"{median(found['cached']):.3f} s")
    result.add_row("a step with loading", f"{median(found['loaded']):.3f} s")
    result.add_row("share of the time that waits for data", f"{found['share']:.2%}")
    result.add_row("times as long as on a batch in memory", f"{found['slower']:.2f}")
    return result


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_waiting", description=__doc__)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--bf16", action="store_true", help="train under bfloat16 autocast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there, too")
    given = parser.parse_args(words)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here.")
    return given


def main(words: Sequence[str] | None = None) -> None:
    given = arguments(words)
    torch.set_num_threads(given.threads)
    setting = Setting(
        given.preset, batch=given.batch, workers=given.workers, steps=given.steps, device=given.device, bf16=given.bf16
    )
    found = measure(setting)
    Console(width=110).print(table(setting, found))
    if given.json is not None:
        given.json.write_text(json.dumps({**dataclasses.asdict(setting), **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
