"""``python -m benchmarks.speed``: time and memory of the model, compared with other implementations and models.

Ratios are measured in pairs in one process: one call of the other, one call of ours, and so on. Tables give the median,
the least and the greatest of all rounds. Every implementation of the model has the same weights, and its outputs are
compared in the same run; all get the same images, threads and mode. Peak memory is measured in a separate process for
each way.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import measure
from benchmarks.ceiling import ceiling
from benchmarks.measure import LOW, TOLERANCE, WAYS, Case

PARTS = ("memory", "loading", "inference", "training", "growth", "utilisation")  # memory before anything is timed
SIZES = ((192, 640), (224, 672), (320, 1024))
BATCHES = (1, 2, 4, 8)
PROMPTS = (64, 128, 256, 512)
SLOW = ("reference", "published")
OURS = ("ours", "ours-compiled", "ours-bf16", "ours-bf16-weights")
GROWING = ("reference", "published", "dinov2-dpt")
IMPORTS = ("import torch", "import hybrid_encoder", "from hybrid_encoder import HybridDepthModel")
Record = dict[str, Any]


class Benchmark:
    """One run of some parts; ``records`` holds all results."""

    def __init__(self, given: argparse.Namespace, weights: str, console: Console) -> None:
        self.given, self.console = given, console
        self.base = Case(weights, device=given.device, tiny=given.quick)
        if given.quick:
            self.base = replace(self.base, height=64, width=96)
        self.records: list[Record] = []
        self.failed = False

    def case(self, **changes: Any) -> Case:
        return replace(self.base, **changes)

    def run(self) -> None:
        for part in PARTS:
            if part in self.given.only:
                getattr(self, part)()

    # -- the parts ---------------------------------------------------------------------------------------

    def memory(self) -> None:
        cases = [self.case(), *self._training_cases()]
        wanted = [(way, case) for case in cases for way in self.given.ways]
        if self.given.quick:  # each process imports all libraries, which takes long
            wanted = [("ours", cases[0])]
        self._memory("memory", wanted)
        self._megabytes("memory", "Peak memory of two calls, each way in a process of its own", "ours")

    def loading(self) -> None:
        table = Table("what", "files, MiB", "peak, MiB", "peak over files", "seconds", title="Loading a checkpoint")
        for layout in ("ours", "published"):
            folder = Path(self.base.weights) / layout
            if not folder.is_dir():
                continue
            found = measure.apart("loading", str(folder))
            over = found["extra"] / found["files"]
            self._add("loading", "ours", self.base, layout=layout, over_files=over, **found)
            numbers = (f"{found['files']:.0f}", f"{found['extra']:.0f}", f"{over:.2f}", f"{found['seconds']:.2f}")
            table.add_row(f"from_pretrained, {layout} layout", *numbers)
        times: dict[str, list[float]] = {statement: [] for statement in IMPORTS}
        for _ in range(self.given.rounds):
            for statement, own in times.items():
                own.append(measure.import_seconds(statement))
        imports = Table("statement", "seconds", "of importing torch", title="Importing, each time in a fresh process")
        for statement, own in times.items():
            ratios = [a / b for a, b in zip(own, times["import torch"], strict=True)]
            self.records.append({"part": "import", "statement": statement, "seconds": own, "ratios": ratios})
            imports.add_row(statement, spread(own), spread(ratios))
        self.console.print(table, imports)

    def inference(self) -> None:
        sizes = SIZES if not self.given.quick else ((self.base.height, self.base.width),)
        for height, width in sorted(sizes, key=lambda size: size != (224, 672)):
            for way in self.given.ways:
                self._pairs("inference", way, self.case(height=height, width=width))
        self._ratios("inference", "Inference, batch 1")

    def training(self) -> None:
        for case in self._training_cases():
            for way in self.given.ways:
                self._pairs("training", way, case)
        self._ratios("training", "A training step: forward, backward, AdamW")

    def growth(self) -> None:
        ways = [way for way in self.given.ways if way in GROWING]
        axes = {
            "size": [self.case(height=height, width=width) for height, width in SIZES],
            "batch": [self.case(batch=batch) for batch in BATCHES],
            "prompts": [self.case(prompts=count) for count in PROMPTS],
        }
        if self.given.quick:
            axes = {"size": [self.case(width=128)], "batch": [self.case(batch=2)], "prompts": [self.case(prompts=8)]}
        for axis, cases in axes.items():
            for case in cases:
                for way in ways:
                    if axis != "prompts" or way != "dinov2-dpt":  # which has no prompts
                        self._pairs(f"growth, {axis}", way, case)
            self._ratios(f"growth, {axis}", f"Growth with {axis}")
        if not self.given.quick:
            self._memory("growth, memory", [("ours", case) for cases in axes.values() for case in cases])
        self._megabytes("growth, memory", "Growth of our own peak memory, each in a process of its own")

    def utilisation(self) -> None:
        title = "Beside the best rate of products, convolutions and the network's own largest layers"
        table = Table("what", "way", "operations", "of them a second", "ceiling", "share of it", "time in", title=title)
        for way in self.given.ours:
            for case in (self.base, self.case(train=True)):
                record = self._add("utilisation", way, case)
                self._attempt(record, partial(self._utilisation, way, case), measure.why_not(way, case))
        for record in self._of("utilisation"):
            count, kinds = record["operations"], sorted(record["kinds"].items(), key=lambda item: -item[1])
            rates = (count, count / median(record["seconds"]), record["ceiling"])
            numbers = (*(f"{rate / 1e9:.1f} G" for rate in rates), spread(record["share"]))
            said = "\n".join(f"{kind} {share:.0%}" for kind, share in kinds if share >= 0.005)
            table.add_row(_what(record), record["name"], *numbers, said)
        self.console.print(table)

    def _utilisation(self, way: str, case: Case) -> Record:
        call = measure.Run(way, case)
        call()
        count = measure.operations(call)
        found = ceiling(call.module, call.images, call.low or call.images.dtype, case.tiny)
        times = []
        for _ in range(self.given.rounds):
            found.look()
            times.append(measure.seconds(call, case.device))
        best = {"ceiling": found.look(), "ceiling_of": found.best}
        shares = [count / spent / found.rate for spent in times]
        kinds = measure.shares(call, case.device)
        return {"operations": count, **best, "seconds": times, "share": shares, "kinds": kinds}

    # -- how they are made -------------------------------------------------------------------------------

    def _training_cases(self) -> list[Case]:
        cases = [self.case(train=True)]
        if self.given.device == "cuda":
            cases.append(self.case(train=True, batch=2 if self.given.quick else 16, bf16=True))
        return cases

    def _pairs(self, part: str, way: str, case: Case) -> None:
        rounds = self.given.long_rounds if case.train or way in SLOW else self.given.rounds
        for ours in self.given.ours:
            if way in (ours, "ours"):
                continue

            def pair(ours: str = ours) -> Record:
                found = measure.in_turn(way, ours, case, rounds)
                low = case.bf16 or way in LOW or ours in LOW
                agrees = None if low or found["difference"] is None else found["difference"] <= TOLERANCE
                self.failed |= agrees is False
                return {**found, "agrees": agrees}

            reason = measure.why_not(way, case) or measure.why_not(ours, case)
            self._attempt(self._add(part, way, case, beside=ours), pair, reason)

    def _memory(self, part: str, wanted: Sequence[tuple[str, Case]]) -> None:
        for way, case in wanted:
            record = self._add(part, way, case)
            self._attempt(record, partial(measure.apart, "memory", way, asdict(case)), measure.why_not(way, case))

    def _attempt(self, record: Record, call: Callable[[], Record], reason: str | None) -> None:
        """Measure and add the results to a record; report a case that is skipped or fails, and go on."""
        said = f"{record['part']}, {_what(record)}, {record['name']}"
        start = time.perf_counter()
        try:
            record.update({"skipped": reason} if reason else call())
        except RuntimeError as error:
            record["failed"] = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.failed = True
        told = next((f"{key}: {record[key]}" for key in ("skipped", "failed") if key in record), None)
        self.console.print(f"{said}: {told or f'{time.perf_counter() - start:.0f} s'}")

    def _add(self, part: str, way: str, case: Case, **values: Any) -> Record:
        setting = {key: value for key, value in asdict(case).items() if key != "weights"}
        record: Record = {"part": part, "way": way, "name": WAYS[way], "case": setting, **values}
        self.records.append(record)
        return record

    def _of(self, part: str) -> list[Record]:
        """Return the records of a part, without those that were skipped or failed."""
        return [r for r in self.records if r["part"] == part and "skipped" not in r and "failed" not in r]

    # -- how they are shown ------------------------------------------------------------------------------

    def _ratios(self, part: str, title: str) -> None:
        table = Table("what", "way", "seconds", "beside", "seconds", "times as long", "outputs apart", title=title)
        for record in self._of(part):
            mark = " (too far)" if record["agrees"] is False else ""
            apart = "-" if record["difference"] is None else f"{record['difference']:.0e}{mark}"
            own, ours = (f"{median(record[key]):.3g}" for key in ("seconds", "ours"))
            row = (record["name"], own, WAYS[record["beside"]], ours, spread(record["ratios"]), apart)
            table.add_row(_what(record), *row)
        if table.row_count:
            self.console.print(table)

    def _megabytes(self, part: str, title: str, beside: str | None = None) -> None:
        """Print a table of memory; with ``beside``, also the ratio of each sum to that way's in the same case."""
        table = Table("what", "way", "weights, MiB", "beyond them, MiB", "sum, MiB", "sum over ours", title=title)
        found = self._of(part)
        for record in found:
            whole = record["weights"] + record["extra"]
            sums = [r["weights"] + r["extra"] for r in found if r["way"] == beside and r["case"] == record["case"]]
            numbers = (f"{record['weights']:.0f}", f"{record['extra']:.0f}", f"{whole:.0f}")
            table.add_row(_what(record), record["name"], *numbers, f"{whole / sums[0]:.2f}" if sums else "-")
        if table.row_count:
            self.console.print(table)


def spread(values: Sequence[float]) -> str:
    """Format the median, the least and the greatest of some values."""
    return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def _what(record: Record) -> str:
    case = record["case"]
    said = f"{case['height']} x {case['width']}, batch {case['batch']}"
    said += "" if case["prompts"] is None else f", {case['prompts']} prompts"
    return said + (", training" if case["train"] else "") + (", bf16" if case["bf16"] else "")


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--only", type=_names(PARTS), default=PARTS, help=f"of {','.join(PARTS)}; all by default")
    parser.add_argument("--ways", type=_names(WAYS), help=f"of {','.join(WAYS)}; all by default")
    parser.add_argument("--ours", type=_names(OURS), default=("ours",), help=f"beside which of {','.join(OURS)}")
    parser.add_argument("--rounds", type=int, help="pairs (7; with --quick 2)")
    parser.add_argument("--long-rounds", type=int, help=f"pairs in training and with {', '.join(SLOW)} (3; quick 2)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--clock", choices=tuple(measure.CLOCKS), default="wall", help="processor: of this process")
    parser.add_argument("--quick", action="store_true", help="the tiny preset on small images: a smoke run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there, too")
    given = parser.parse_args(words)
    # Compiling takes longer than all the rest.
    quick = [way for way in WAYS if way not in ("ours-compiled", "published")]
    given.ways = given.ways or (quick if given.quick else list(WAYS))
    given.rounds = given.rounds or (2 if given.quick else 7)
    given.long_rounds = given.long_rounds or (2 if given.quick else 3)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here.")
    return given


def _names(known: Collection[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return chosen

    return parse


def main(words: Sequence[str] | None = None) -> None:
    given = arguments(words)
    torch.set_num_threads(given.threads)
    measure.use_clock(given.clock)
    console = Console(width=140, highlight=False)
    gpu = f", {torch.cuda.get_device_name()}" if given.device == "cuda" else ""
    about = {
        "machine": f"{platform.machine()} {platform.system()}{gpu}",
        "torch": torch.__version__,
        "threads": given.threads,
        "clock": given.clock,
        "quick": given.quick,
    }
    console.print(", ".join(f"{key} {value}" for key, value in about.items()))
    with tempfile.TemporaryDirectory() as folder:
        measure.rebuild(Path(folder), given.quick)
        benchmark = Benchmark(given, folder, console)
        try:
            benchmark.run()
        finally:  # results of hours are kept, however the run ends
            if given.json is not None:
                given.json.write_text(json.dumps({**about, "results": benchmark.records}, indent=1) + "\n")
    if benchmark.failed:
        raise SystemExit("something failed, or outputs that should agree lie too far apart: see above.")


if __name__ == "__main__":
    main()
