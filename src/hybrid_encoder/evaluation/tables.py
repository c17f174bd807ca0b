"""The numbers of an evaluation as tables: in Markdown to read, as CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from hybrid_encoder.errors import visible
from hybrid_encoder.evaluation.metrics import METRICS, DepthMetrics
from hybrid_encoder.evaluation.ordering import WordOrder
from hybrid_encoder.evaluation.parts import mean_parts
from hybrid_encoder.evaluation.protocols import Protocol
from hybrid_encoder.evaluation.results import Evaluation, ImageResult

ROW_WRONG = "row wrong: the nearer pixel lies higher in the image"
ORDER_COLUMNS = ("words", "words, row wrong", "depth", "depth, row wrong")


def all_numbers(metrics: DepthMetrics) -> dict[str, float]:
    """Return the seven metrics and the numbers of pixels, by name."""
    return {**metrics.as_dict(), "num_valid": metrics.num_valid, "num_below": metrics.num_below,
            "num_above": metrics.num_above}  # fmt: skip


def images_csv(images: Sequence[ImageResult]) -> str:
    """Return the numbers of every image as CSV: names, the seven metrics, counts, scale, and the parts' main ones.

    A name that a spreadsheet would run as a formula has an apostrophe before it.
    """
    parts = list(mean_parts(images))
    ordered = any(image.order is not None for image in images)
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
            *((f.name for f in fields(WordOrder)) if ordered else ()),
        ]
    )
    for image in images:
        row: list[Any] = [_cell(image.name), *all_numbers(image.metrics).values(), image.scale]
        for name in parts:
            part = image.parts.get(name)
            row += ["" if part is None else getattr(part, number) for number in of_part]
        if ordered:
            numbers = dict.fromkeys(f.name for f in fields(WordOrder)) if image.order is None else image.order.as_dict()
            row += ["" if number is None else number for number in numbers.values()]
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
    if ordered := order_rows(evaluation, baselines):
        lines += ["", f"{order_title(evaluation)}; {ROW_WRONG}", ""]
        lines += _table(["", *ORDER_COLUMNS], [[_text(row[0]), *row[1:]] for row in ordered])
    return "\n".join(lines) + "\n"


def order_title(evaluation: Evaluation) -> str:
    """Return what :func:`order_rows` are about, in a line; of an evaluation that has them."""
    assert evaluation.order is not None
    pairs, wrong = evaluation.order.num_pairs, evaluation.order.num_row_wrong
    return f"pairs of pixels in the right order: {pairs:,}, row wrong {wrong:,}"


def order_rows(evaluation: Evaluation, baselines: Sequence[Evaluation]) -> list[list[str]]:
    """Return how often words and depth put random pairs in order, as text: what predicts, then ``ORDER_COLUMNS``.

    The last two rows are the controls: the image's row alone, and a guess. Without an order there are no rows.
    """
    if evaluation.order is None:
        return []
    rows = []
    for one in (evaluation, *baselines):
        if (order := one.order) is not None:
            words = [_share(order.words), _share(order.words_row_wrong)] if order.has_words else ["no words"] * 2
            rows.append([one.predictor, *words, _share(order.depth), _share(order.depth_row_wrong)])
    by_row = [_share(evaluation.order.row), _share(0.0 if evaluation.order.num_row_wrong else math.nan)]
    return [*rows, ["lower is nearer", *by_row * 2], ["a guess", *["50.0%"] * 4]]


def _share(share: float) -> str:
    return "no pairs" if math.isnan(share) else f"{share:.1%}"


def _shown(numbers: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return [f"{numbers[name]:.3f}" for name in names]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _text(text: str) -> str:
    """Return text for a cell of a table in Markdown: no character of it means anything."""
    return "".join(f"\\{sign}" if sign in "\\|`*_<>[]#&" else sign for sign in visible(text))
