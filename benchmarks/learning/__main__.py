"""``python -m benchmarks.learning``: what each part adds to self-supervised depth, with controls.

Every row trains on the same rendered drives for the same number of steps, with the same seeds; what rows differ in is
in ``benchmarks/learning/rows.py``. Finished rows are added to a file of results and not trained again. The recipe was
tuned on the hybrid encoder.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from rich.console import Console

from benchmarks.learning.measures import finite
from benchmarks.learning.results import Result, Results
from benchmarks.learning.rows import ROWS
from benchmarks.learning.settings import SEEDS, Settings, code_digest, versions
from benchmarks.learning.table import markdown, write_into
from benchmarks.learning.training import run
from hybrid_encoder.errors import CheckpointError, ConfigError

RESULTS = Path(__file__).parent.parent / "results" / "learning.jsonl"


def main(arguments: list[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    results = Results(given.results)
    console = Console(width=160, highlight=False, markup=False)
    if given.table or given.into:
        if not (known := results.read()):
            raise SystemExit(f"{given.results} has no results; train some rows first.")
        if given.into:
            write_into(given.into, markdown(known))
        else:
            console.file.write(markdown(known))
        return
    chosen = {field.name: getattr(given, field.name) for field in fields(Settings)}
    try:
        settings = Settings(**{**chosen, "size": tuple(chosen["size"])})
    except ConfigError as error:
        raise SystemExit(str(error)) from None
    failed, code = False, code_digest()  # of the code that was loaded, whatever is edited meanwhile
    for seed in given.seeds:
        for row in (ROWS[name] for name in given.only or ROWS):
            if results.has(row, seed, settings):
                console.print(f"{row.name}, seed {seed}: known")
                continue
            try:
                numbers = run(row, seed, settings, given.kitti, given.shuffled_clip)
            except (CheckpointError, ConfigError) as error:  # the other rows can still be trained
                console.print(f"{row.name}, seed {seed}: not trained: {error}")
                failed = True
                continue
            found = (finite(numbers), versions(given.shuffled_clip), code)
            results.add(Result(row.name, seed, row.definition, settings.as_dict(), *found))
            console.print(f"{row.name}, seed {seed}: " + ", ".join(f"{k} {v:.3f}" for k, v in numbers.items()))
    if failed:
        raise SystemExit("some rows were not trained, for the reasons above; leave them out with --only.")


def parser() -> argparse.ArgumentParser:
    """Return the command's options; every field of ``Settings`` is one."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    made.add_argument("--only", action="append", metavar="ROW", type=_row, help="a row, several times for several")
    made.add_argument("--seeds", type=_seeds, default=_seeds("0-4"), metavar="0-4", help="or 0,2,5")
    made.add_argument(
        "--results", type=Path, default=RESULTS, metavar="FILE", help="JSON lines; finished rows are kept"
    )
    made.add_argument("--table", action="store_true", help="print the tables of the file, and train nothing")
    made.add_argument("--into", type=Path, metavar="PAGE", help="write these tables between the marks of a page")
    made.add_argument("--kitti", metavar="FOLDER", help="KITTI raw: real frames to check on; nothing trains on them")
    made.add_argument("--shuffled-clip", metavar="FILE", help="weights of a CLIP trained on shuffled captions")
    hints = get_type_hints(Settings)
    for field in fields(Settings):
        kind: Any = hints[field.name]
        option = f"--{field.name.replace('_', '-')}"
        if field.name == "size":
            made.add_argument(option, type=int, nargs=2, default=field.default, metavar=("HEIGHT", "WIDTH"))
        elif choices := get_args(kind):
            made.add_argument(option, choices=choices, default=field.default, help=" ")
        else:
            made.add_argument(option, type=kind, default=field.default, help=" ")
    return made


def _row(name: str) -> str:
    if name not in ROWS:
        raise argparse.ArgumentTypeError(f"there is no row {name!r}; the rows are {', '.join(map(repr, ROWS))}")
    return name


def _seeds(text: str) -> list[int]:
    """Return the seeds that ``0-4`` or ``0,2,5`` names."""
    try:
        found: list[int] = []
        for part in text.split(","):
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"seeds are {text!r}; give them as 0-4 or 0,2,5") from None
    if not found:
        raise argparse.ArgumentTypeError(f"seeds are {text!r}, which are none; give them as 0-4 or 0,2,5")
    if max(found) >= SEEDS:
        raise argparse.ArgumentTypeError(f"seeds are {text!r}; from {SEEDS} on they would train on held-out drives")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
