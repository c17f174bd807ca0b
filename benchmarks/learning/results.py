"""The file of results: one line of JSON for every row and seed that was finished."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks.learning.rows import ROWS, Row
from benchmarks.learning.settings import Settings, weights_digests
from hybrid_encoder.towers.own_weights import SHIPPED
from hybrid_encoder.writing import write_whole


@dataclass(frozen=True)
class Result:
    """What one row gave with one seed.

    Args:
        row: its name.
        seed: of weights, drives and their order.
        definition: of the row when it was trained.
        settings: of the table.
        numbers: by measure; None where there is none. ``seconds`` and ``parameters`` are among them.
        versions: of what the numbers depend on.
        code: digest of the sources that they depend on.
    """

    row: str
    seed: int
    definition: dict[str, Any]
    settings: dict[str, Any]
    numbers: dict[str, float | None]
    versions: dict[str, str] = field(default_factory=dict)
    code: str = ""

    @property
    def line(self) -> str:
        """The result as a line of JSON."""
        return json.dumps(vars(self), sort_keys=True, allow_nan=False) + "\n"

    def is_of(self, row: Row, seed: int, settings: Settings) -> bool:
        """Return whether this is what training a row with a seed would give."""
        wanted = (row.name, seed, settings.as_dict())
        return (self.row, self.seed, self.settings) == wanted and self.still_is(row)

    def still_is(self, row: Row) -> bool:
        """Return whether a row is defined as it was then, and starts from the same weights of the package."""
        now = weights_digests()
        used = (SHIPPED[kind] for kind in row.starts_from)
        return self.definition == row.definition and all(self.versions.get(name) == now.get(name) for name in used)


class Results:
    """The results in a file, which several processes may add to.

    Args:
        file: of JSON lines; it need not exist.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)

    def read(self) -> list[Result]:
        """Return all results in the order of the file.

        Raises:
            SystemExit: a line that is not one result.
        """
        if not self.file.exists():
            return []
        lines = self.file.read_text("utf-8").splitlines()
        return [self._result(line, number) for number, line in enumerate(lines, 1)]

    @property
    def _lock(self) -> Path:
        """A file beside no results, as locks are not removed."""
        name = hashlib.sha256(str(self.file.resolve()).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"learning-{name}.lock"

    def _result(self, line: str, number: int) -> Result:
        try:
            return Result(**json.loads(line))
        except (TypeError, ValueError) as error:
            raise SystemExit(f"{self.file}, line {number} is not a result ({error}); remove that line.") from None

    def has(self, row: Row, seed: int, settings: Settings) -> bool:
        """Return whether a row was finished with a seed, as it is defined now and with these settings."""
        return any(result.is_of(row, seed, settings) for result in self.read())

    def add(self, result: Result) -> None:
        """Add a result; the file is written whole, or stays as it was."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._lock):
            before = self.file.read_bytes() if self.file.exists() else b""
            if before and not before.endswith(b"\n"):
                raise SystemExit(f"{self.file} does not end with a whole line; complete or remove its last line.")
            write_whole(self.file, before + result.line.encode())


def known(results: list[Result], settings: dict[str, Any]) -> Iterator[Result]:
    """Give the results of one table whose rows still are what they were then; of several alike, the last."""
    last: dict[tuple[str, int], Result] = {}
    for result in results:
        row = ROWS.get(result.row)
        if row is not None and result.still_is(row) and result.settings == settings:
            last[result.row, result.seed] = result
    yield from last.values()


def by_row(results: Iterator[Result]) -> dict[str, dict[str, dict[int, float]]]:
    """Return numbers by row, measure and seed; what is not finite is left out."""
    values: dict[str, dict[str, dict[int, float]]] = {}
    for result in results:
        for name, number in result.numbers.items():
            if number is not None and math.isfinite(number):
                values.setdefault(result.row, {}).setdefault(name, {})[result.seed] = number
    return values
