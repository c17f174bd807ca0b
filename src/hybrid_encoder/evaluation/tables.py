"""The numbers of an evaluation as tables: in Markdown to read, as CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from hybrid_encoder.errors import visible
from hybrid_encoder.evaluation.metrics import METRICS, DepthMetrics
from hybrid_encoder.evaluation.parts import mean_parts
from hybrid_encoder.evaluation.protocols import Protocol
from hybrid_encoder.evaluation.results import Evaluation, ImageResult


def all_numbers(metrics: DepthMetrics) -> dict[str, float]:
    """Return the seven metrics and the numbers of pixels, by name."""
    return {**metrics.as_dict(), "num_valid": metrics.num_valid, "num_below": metrics.num_below,
            "num_above": metrics.num_above}  # fmt: skip


def images_csv(images: Sequence[ImageResult]) -> str:
    """Return the numbers of every image as CSV: names, the seven metrics, counts, scale, and the parts' main ones.

    A name that a spreadsheet would run as a formula has an apostrophe before it.
    """
    parts = list(mean_parts(images))
    of_part = ("abs_rel", "rmse", "a1", "num_valid")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        [
            "name",
            *METRICS,
            "num_valid",
            "num_below",
            "num_above",
            "scale",
            *(f"{n} {p}" for p in parts for n in of_part),
        ]
    )
    for image in images:
        row: list[Any] = [_cell(image.name), *all_numbers(image.metrics).values(), image.scale]
        for name in parts:
            part = image.parts.get(name)
            row += ["" if part is None else getattr(part, number) for number in of_part]
        writer.writerow(row)
    return text.getvalue()


def _cell(text: str) -> str:
    shown = visible(text)
    return f"'{shown}" if shown.lstrip()[:1] in ("=", "+", "-", "@") else shown


def tables(evaluation: Evaluation, baselines: Sequence[Evaluation], protocol: Protocol) -> str:
    """Return the means as tables in Markdown: all pixels, then the parts by their relative error."""
    rows = [evaluation, *baselines]
    names = list(protocol.metrics)
    lines = [f"{len(evaluation.images)} images, protocol {evaluation.protocol}", ""]
    lines += _table(["", *names], [[_text(row.predictor), *_shown(protocol.numbers(row.mean), names)] for row in rows])
    found = [mean_parts(row.images) for row in rows]
    if parts := list(found[0]):
        lines += ["", "abs_rel by part, and how many images show it", ""]
        heads = [f"{_text(name)} ({found[0][name].num_images})" for name in parts]
        cells = [[f"{of[name].metrics.abs_rel:.3f}" if name in of else "" for name in parts] for of in found]
        lines += _table(["", *heads], [[_text(row.predictor), *cell] for row, cell in zip(rows, cells, strict=True)])
    return "\n".join(lines) + "\n"


def _shown(numbers: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return [f"{numbers[name]:.3f}" for name in names]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _text(text: str) -> str:
    """Return text for a cell of a table in Markdown: no character of it means anything."""
    return "".join(f"\\{sign}" if sign in "\\|`*_<>[]#&" else sign for sign in visible(text))
