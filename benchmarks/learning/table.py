"""The results as Markdown, from the file alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, median, stdev

from benchmarks.learning.measures import MEASURES
from benchmarks.learning.results import Result, by_row, known
from benchmarks.learning.rows import BASELINES, CLAIMS, ROWS
from benchmarks.learning.statistics import Verdict, verdict
from hybrid_encoder.writing import write_whole

BEGIN, END = "<!-- learning: made by python -m benchmarks.learning --into -->", "<!-- learning: end -->"
DEPTH = ("abs_rel", "a1", "rmse_log", "depth_order", "row_wrong", "kitti")
TAUGHT = ("taught", "taught_row_wrong", "handover", "handover_row_wrong")
WORDS = (*TAUGHT, "words", "words_row_wrong")
READ = ("spread", "apart", "explained", "abs_rel", "zeroed", "other_words")
BLIND = ("abs_rel", "textureless", "hidden", "moving")
Values = Mapping[str, Mapping[str, Mapping[int, float]]]


def markdown(results: list[Result]) -> str:
    """Return tables of every group of results that have the same settings, with what they say about the claims."""
    groups = Counter(json.dumps(result.settings, sort_keys=True) for result in results)
    return "\n".join(_of_settings(results, json.loads(settings)) for settings in groups)


def _of_settings(results: list[Result], settings: dict[str, object]) -> str:
    chosen = list(known(results, settings))
    values = by_row(iter(chosen))
    rows = [name for name in ROWS if name in values]
    trained = [name for name in rows if name not in BASELINES]
    said = [name for name in trained if values[name].keys() & set(WORDS)]
    verdicts = [
        verdict(claim, measure, values)
        for claim in CLAIMS
        if claim.better in values and claim.worse in values
        for measure in claim.measures
    ]
    parts = [about(chosen, settings), "", "**Depth**", "", *_table(rows, DEPTH, values)]
    if said:
        parts += ["", "**Words**", "", *_table(said, WORDS, values)]
        parts += ["", "**Whether the decoder reads words**", "", *_table(said, READ, values)]
    parts += ["", "**Error where views tell little**", "", *_table(rows, BLIND, values)]
    if verdicts:
        parts += ["", "**Claims**", "", *claims(verdicts)]
    return "\n".join([*parts, ""])


def about(results: list[Result], settings: dict[str, object]) -> str:
    """Return a paragraph on what the numbers were made with."""
    codes = len({result.code for result in results})
    seeds = sorted({result.seed for result in results})
    torches = sorted({result.versions.get("torch", "?") for result in results})
    minutes = [s / 60 for result in results if (s := result.numbers.get("seconds"))]
    took = f"{median(minutes):.1f} minutes a row and seed (median); " if minutes else ""
    listed = ", ".join(f"{name} {value}" for name, value in settings.items())
    return (
        f"Settings: {listed}. Seeds {', '.join(map(str, seeds))}; torch {', '.join(torches)}; {took}"
        f"{codes} state{'s' if codes > 1 else ''} of the code."
    )


def _table(rows: list[str], measures: tuple[str, ...], values: Values) -> list[str]:
    """Return the lines of a table: mean ± standard deviation over the seeds of every row."""
    shown = [name for name in measures if any(values[row].get(name) for row in rows)]
    lines = ["| row | seeds | " + " | ".join(MEASURES[name][0] for name in shown) + " |"]
    lines.append("| --- | --- |" + " --- |" * len(shown))
    for row in rows:
        seeds = len({seed for numbers in values[row].values() for seed in numbers})
        cells = [cell(list(values[row].get(name, {}).values())) for name in shown]
        lines.append(f"| {row} | {seeds} | " + " | ".join(cells) + " |")
    return lines


def cell(numbers: list[float]) -> str:
    """Return mean ± standard deviation, or what there is of it."""
    if not numbers:
        return "-"
    return f"{mean(numbers):.3f}" + (f" ± {stdev(numbers):.3f}" if len(numbers) > 1 else "")


def claims(verdicts: list[Verdict]) -> list[str]:
    """Return the lines of a table of verdicts."""
    lines = [
        "| claim | rows | measure | difference, 95 % interval | seeds | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in verdicts:
        found = one.difference
        interval = f" ({found.low:+.3f} to {found.high:+.3f})" if found.pairs > 1 else ""
        difference = f"{found.mean:+.3f}{interval}" if found.pairs else "-"
        rows = f"{one.claim.better} against {one.claim.worse}"
        measure = MEASURES[one.measure][0]
        lines.append(f"| {one.claim.says} | {rows} | {measure} | {difference} | {found.pairs} | {one.says} |")
    return lines


def write_into(page: Path, text: str) -> None:
    """Put a text between the two marks of a page, in the place of what stood there.

    Raises:
        SystemExit: a page without both marks.
    """
    content = page.read_text("utf-8")
    if content.count(BEGIN) != 1 or content.count(END) != 1:
        raise SystemExit(f"{page} has not both lines {BEGIN!r} and {END!r}, each once; add them where the tables go.")
    before, rest = content.split(BEGIN)
    write_whole(page, f"{before}{BEGIN}\n\n{text}\n{END}{rest.split(END)[1]}".encode())
