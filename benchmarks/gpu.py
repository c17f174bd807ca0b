"""``python -m benchmarks gpu``: everything that only a GPU can show, in one run, as JSON and as a page of Markdown.

The tests that need a GPU; the table of ``benchmarks.speed``; training steps of the fine stage with a batch of 16 at
224 x 672 in bfloat16, on a batch in memory and with data loaded; and what an epoch of KITTI's Eigen-Zhou split takes
at that rate.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import data_waiting, speed
from benchmarks.data_waiting import Setting
from benchmarks.measure import ROOT

EIGEN_ZHOU = 39_810  # items of the training split
BATCH = Setting(batch=16, workers=8, steps=50, device="cuda", bf16=True)


def marked_tests(marker: str = "gpu", where: Sequence[str] = ("tests",)) -> dict[str, Any]:
    """Run the tests with a marker, and return how they ended and the last lines that they printed."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", marker, *where]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {"passed": done.returncode == 0, "said": done.stdout.strip().splitlines()[-3:]}


def speed_table(folder: Path, device: str, quick: bool) -> dict[str, Any]:
    """Run ``benchmarks.speed``; return what it has written, and whether outputs agreed."""
    file = folder / "speed.json"
    words = ["--device", device, "--json", str(file), *(["--quick", "--only", "inference"] if quick else [])]
    try:
        speed.main(words)
        passed = True
    except SystemExit:  # after all results were written
        passed = False
    return {"passed": passed, **json.loads(file.read_text())}


def training(setting: Setting) -> dict[str, Any]:
    """Measure training steps, and estimate an epoch of Eigen-Zhou from them, in hours."""
    found = data_waiting.measure(setting)
    steps = EIGEN_ZHOU // setting.batch
    peak = torch.cuda.max_memory_allocated() / 2**30 if setting.device == "cuda" else None
    hours = {name: steps * median(found[name]) / 3600 for name in ("cached", "loaded")}
    return {**dataclasses.asdict(setting), **found, "steps_per_epoch": steps, "epoch_hours": hours, "peak_gib": peak}


def markdown(results: dict[str, Any]) -> str:
    """Return the page: what was run on, then a row for each number."""
    rows = [("what", "value"), ("---", "---")]
    if "tests" in results:
        rows.append(("tests that need a GPU", f"{results['tests']['said'][-1]}"))
    trained = results["training"]
    size = f"{trained['size'][0]} x {trained['size'][1]}, batch {trained['batch']}{', bf16' if trained['bf16'] else ''}"
    rows += [
        (f"training step, {size}, batch in memory", f"{median(trained['cached']):.3f} s"),
        (f"the same with {trained['workers']} workers loading", f"{median(trained['loaded']):.3f} s"),
        ("share of it that waits for data", f"{trained['share']:.2%}"),
        (f"an epoch of Eigen-Zhou ({EIGEN_ZHOU:,} items), estimated", f"{trained['epoch_hours']['loaded']:.2f} h"),
    ]
    if trained["peak_gib"] is not None:
        rows.append(("peak memory of that training", f"{trained['peak_gib']:.1f} GiB"))
    for record in results["speed"]["results"]:
        if "ratios" in record and "case" in record:
            case = record["case"]
            what = f"{record['part']}, {case['height']} x {case['width']}, batch {case['batch']}"
            times = f"{median(record['ratios']):.3g} times as long as {record['beside']}"
            rows.append((f"{what}{', bf16' if case['bf16'] else ''}: {record['name']}", times))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{results['device']}, torch {torch.__version__}\n\n{table}\n"


def run(folder: Path, setting: Setting, quick: bool) -> dict[str, Any]:
    """Measure everything on a device, and write ``gpu.json`` and ``gpu.md`` into a folder; the tests on a GPU only."""
    folder.mkdir(parents=True, exist_ok=True)
    on_gpu = setting.device == "cuda"
    results: dict[str, Any] = {"device": torch.cuda.get_device_name() if on_gpu else "CPU", "quick": quick}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "tests": marked_tests,
        "training": lambda: training(setting),
        "speed": lambda: speed_table(folder, setting.device, quick),
    }
    for name, part in parts.items():
        if name != "tests" or on_gpu:
            results[name] = part()
            (folder / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")  # hours of results are kept
    (folder / "gpu.md").write_text(markdown(results))
    return results


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("gpu-results"), help="folder of gpu.json and gpu.md")
    given = parser.parse_args(words)
    if not torch.cuda.is_available():
        print(
            "torch sees no CUDA device here, so nothing was measured; run this on a machine with one.", file=sys.stderr
        )
        raise SystemExit(2)
    results = run(given.output, BATCH, quick=False)
    print((given.output / "gpu.md").read_text())
    if not (results["tests"]["passed"] and results["speed"]["passed"]):
        raise SystemExit("a test failed, or outputs that should agree lie too far apart: see gpu.json.")


if __name__ == "__main__":
    main()
