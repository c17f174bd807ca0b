"""``python -m benchmarks.predict``: the command ``predict`` on a folder, against the network's own time.

Both see the same pictures, in turn: the network as batches that lie in memory at the size to work at, the command as
files, from its first import to its last result. The second is given as a whole and without its start (imports, a look
at every picture, loading the weights), which does not grow with the pictures. Tables give the median, the least and the
greatest ratio of all rounds. On the CPU, network, reading and writing share its cores, so that what is read and written
beside the network still costs time: the last column compares the work of all cores, which other programs on the machine
disturb least.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import measure
from hybrid_encoder import HybridDepthModel
from hybrid_encoder.data import SyntheticDrive

GOAL = 1.15
HEIGHT, WIDTH = 375, 1242
NOISE = 3.0  # of 255: a drawn street is compressed as well as a photograph then
DRAWN = 8  # different pictures; the rest are these in turn


@dataclass(frozen=True)
class Round:
    """Seconds of one round: the network's, the whole command's, and the command's without its start.

    ``network_cpu`` and ``whole_cpu`` are those that all cores have worked.
    """

    network: float
    network_cpu: float
    whole: float
    working: float
    whole_cpu: float


def write_pictures(folder: Path, number: int, source: Path | None = None) -> None:
    """Write pictures into a folder: those of another one in turn, else drawn streets of KITTI's size with noise."""
    if source is not None:
        found = sorted(file for file in source.iterdir() if file.suffix in (".png", ".jpg"))
        for index in range(number):
            file = found[index % len(found)]
            shutil.copyfile(file, folder / f"{index:04d}{file.suffix}")
        return
    rng = np.random.default_rng(0)
    drive = SyntheticDrive(seed=1, num_frames=DRAWN, height=HEIGHT, width=WIDTH)
    for index in range(DRAWN):
        pixels = drive[index].image.transpose(1, 2, 0) * 255 + rng.normal(0, NOISE, (HEIGHT, WIDTH, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index:04d}.png")
    for index in range(DRAWN, number):
        shutil.copyfile(folder / f"{index % DRAWN:04d}.png", folder / f"{index:04d}.png")


def batches(model: HybridDepthModel, folder: Path) -> list[Tensor]:
    """Return what the network sees of a folder, as the command puts it together."""
    ready = [model.prepare(file) for file in sorted(folder.iterdir())]
    size = ready[0].most_at_once
    return [torch.cat([one.pixels for one in ready[at : at + size]]) for at in range(0, len(ready), size)]


def network(model: HybridDepthModel, given: Sequence[Tensor]) -> None:
    """Let the network see all batches, and take the disparity to the CPU."""
    with torch.inference_mode():
        for images in given:
            model(images).cpu()


def command(weights: str, folder: Path, output: Path, device: str, more: Sequence[str]) -> tuple[float, float, float]:
    """Run the command in a process of its own; return its seconds as a whole, of its work, and of all cores."""
    line = [sys.executable, "-m", "hybrid_encoder", "predict", str(folder), "--output", str(output)]
    line += ["--weights", weights, "--device", device, "--json", *more]
    start, before = time.perf_counter(), _children()
    said = subprocess.run(line, check=True, capture_output=True, text=True)
    whole = time.perf_counter() - start
    return whole, float(json.loads(said.stdout)["seconds"]), _children() - before


def _children() -> float:
    """Return the seconds that cores have worked for processes started here that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def compare(weights: str, folder: Path, device: str, rounds: int, more: Sequence[str] = ()) -> list[Round]:
    """Time both in turn, after the network has been warmed up."""
    model = HybridDepthModel.from_pretrained(weights).to(device).eval()
    given = batches(model, folder)
    network(model, given[:1])
    found = []
    for _ in range(rounds):
        before = time.process_time()
        seconds = measure.seconds(lambda: network(model, given), device)
        cpu = time.process_time() - before
        with tempfile.TemporaryDirectory() as output:
            found.append(Round(seconds, cpu, *command(weights, folder, Path(output), device, more)))
    return found


def spread(values: Sequence[float]) -> str:
    """Return the median, the least and the greatest value."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description=__doc__)
    parser.add_argument("--weights", nargs="+", default=["tiny", "full"], help="full: the paper's size, random numbers")
    parser.add_argument("--number", type=int, default=200, help="of pictures")
    parser.add_argument("--pictures", type=Path, help="a folder to take them from, instead of drawing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="of predict")
    given = parser.parse_args()
    table = Table(
        *("weights", "network, s", "pictures a second", "predict / network", "without its start", "all cores"),
        title=f"predict on {given.number} pictures, {given.device}; goal at most {GOAL}",
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "pictures"
        folder.mkdir()
        write_pictures(folder, given.number, given.pictures)
        for name in given.weights:
            weights = name
            if name == "full":
                measure.rebuild(Path(temporary), tiny=False)
                weights = str(Path(temporary) / "ours")
            rounds = compare(weights, folder, given.device, given.rounds, given.options)
            table.add_row(
                name,
                f"{median(one.network for one in rounds):.1f}",
                f"{given.number / median(one.whole for one in rounds):.1f}",
                spread([one.whole / one.network for one in rounds]),
                spread([one.working / one.network for one in rounds]),
                spread([one.whole_cpu / one.network_cpu for one in rounds]),
            )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
