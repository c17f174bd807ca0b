"""Runs that are killed at random moments and resumed, until they are complete; as a script, many of them.

    python killed_runs.py FOLDER KIND COUNT SEED

KIND is coarse, fine, all (a fine run with steps of several batches, averaged weights, validation and learned
intrinsics) or two (two processes of a coarse run). Everything is imported once; each run is a fork. The last line of
the output is JSON: how many kills there were, and for each run whether its weights, the best ones, and what it learned
beside them are those of a run that was left alone, byte for byte.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # accelerate would take more in each of several processes

import torch
from accelerate.utils import set_seed

from hybrid_encoder.data import SyntheticDrive, SyntheticLanes, SyntheticSequences
from hybrid_encoder.training.checkpointing import list_checkpoints
from hybrid_encoder.training.coarse import coarse_encoder, train_coarse
from hybrid_encoder.training.fine import fine_model, train_fine
from hybrid_encoder.training.recipes import COARSE, FINE

STEPS, SAVE_EVERY, SIZE = 8, 2, (48, 96)


def run(kind: str, folder: Path, drives: list[list[object]], resume: bool) -> None:
    """Train, up to the weights in ``final``."""
    torch.set_num_threads(1)
    options: dict[str, Any] = {"resume": resume, "save_every": SAVE_EVERY, "cpu": True, "seed": 5}
    set_seed(3 + resume)  # weights that a resumed run starts from are replaced by those of its checkpoint
    if kind in ("fine", "all"):
        fine = dataclasses.replace(FINE["small"], size=SIZE, steps=STEPS, batch_size=2, levels=(0, 1), refine=1)
        if kind == "all":
            fine = dataclasses.replace(fine, batch_size=1, accumulate=2, ema=0.9, intrinsics="learn")
            options |= {"validate_every": 1, "validation": SyntheticSequences(drives)}  # type: ignore[arg-type]
        model = fine_model("tiny", fine, pretrained=False)
        train_fine(model, SyntheticSequences(drives, augment=True), folder, fine, 0.01, **options)  # type: ignore[arg-type]
    else:
        coarse = dataclasses.replace(COARSE["small"], size=SIZE, steps=STEPS, batch_size=2)
        encoder = coarse_encoder("tiny", coarse, pretrained=False)
        train_coarse(encoder, SyntheticLanes(drives, flip=True), folder, coarse, **options)  # type: ignore[arg-type]


def start(work: Callable[[], None], processes: int, said: Path) -> list[int]:
    """Fork the processes of a run, which join each other as those of a launcher do, and return their ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ids = []
    for rank in range(processes):
        if pid := os.fork():
            ids.append(pid)
            continue
        status = 1
        try:
            handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            if processes > 1:
                joined = {"WORLD_SIZE": processes, "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
                os.environ.update({name: str(value) for name, value in joined.items()})
                os.environ.update(MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="true")
            work()
            status = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status)
    return ids


def wait(ids: list[int], seconds: float) -> list[int] | None:
    """Return the exit statuses; None where the time is over, after which the processes are killed."""
    left, statuses, end = set(ids), [], time.monotonic() + seconds
    while left and time.monotonic() < end:
        for pid in list(left):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                left.discard(pid)
                statuses.append(os.waitstatus_to_exitcode(status))
        time.sleep(0.005)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return None if left else statuses


def result(folder: Path) -> dict[str, bytes]:
    """Return the weights of a complete run."""
    found = [path for kind in ("*.safetensors", "intrinsics.json") for path in (folder / "final").glob(kind)]
    found += [*folder.glob("*.safetensors"), *folder.glob("best/*.safetensors"), *folder.glob("best/validation.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def campaign(place: Path, kind: str, count: int, seed: int) -> dict[str, object]:
    """Kill and resume ``count`` runs; return what is printed."""
    rng, processes = random.Random(seed), 2 if kind == "two" else 1
    drives: list[list[object]] = [list(SyntheticDrive(seed=n, num_frames=5, height=48, width=96)) for n in range(2)]
    said, began = place / "said.txt", time.monotonic()
    assert wait(start(lambda: run(kind, place / "whole", drives, False), processes, said), 300) == [0] * processes, (
        said.read_text()
    )
    takes, whole = time.monotonic() - began, result(place / "whole")
    assert len(whole) == {"fine": 3, "all": 7}.get(kind, 1), list(whole)
    kills, equal = 0, []
    for index in range(count):
        folder = place / f"run{index}"
        for attempt in range(20):
            resume = bool(list_checkpoints(folder))
            ids = start(lambda folder=folder, resume=resume: run(kind, folder, drives, resume), processes, said)  # type: ignore[misc]
            # The third attempt and those after it are left alone, so that every run comes to its end.
            statuses = wait(ids, rng.uniform(0.1, 1) * takes if attempt < 2 else 300)
            kills += statuses is None
            if statuses == [0] * processes:
                break
            assert statuses is None, said.read_text()
        equal.append(result(folder) == whole)
        shutil.rmtree(folder)
    return {"kind": kind, "kills": kills, "equal": equal, "seconds": round(takes, 2)}


if __name__ == "__main__":
    print(json.dumps(campaign(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
