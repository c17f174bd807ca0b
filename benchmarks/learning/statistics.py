"""Paired differences of rows over seeds, and whether what is claimed of them holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean, stdev

from scipy.stats import t as student

from benchmarks.learning.measures import MEASURES
from benchmarks.learning.rows import Claim

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, with the interval of Student's t.

    Args:
        mean, low, high: of the first minus the second; the interval is NaN for fewer than two pairs.
        pairs: how many.
    """

    mean: float
    low: float
    high: float
    pairs: int

    def favours_first(self, larger_is_better: bool) -> bool:
        """Return whether the interval excludes 0 on the side where the first is better."""
        return self.low > 0 if larger_is_better else self.high < 0

    def favours_second(self, larger_is_better: bool) -> bool:
        """Return whether the interval excludes 0 on the other side."""
        return self.favours_first(not larger_is_better)


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference:
    """Return the mean difference over the seeds that both have, and its 95 % interval.

    The interval is mean ± t(0.975, n - 1) s / sqrt(n), for differences that are normally distributed.

    Args:
        first, second: values by seed.

    Example:
        >>> found = paired_difference({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 0.0, 2: 0.0})
        >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3)
        (2.0, -0.484, 4.484)
    """
    differences = [first[seed] - second[seed] for seed in sorted(set(first) & set(second))]
    count = len(differences)
    if not count:
        return Difference(math.nan, math.nan, math.nan, 0)
    middle = mean(differences)
    if count == 1:
        return Difference(middle, math.nan, math.nan, 1)
    half = float(student.ppf((1 + CONFIDENCE) / 2, count - 1)) * stdev(differences) / math.sqrt(count)
    return Difference(middle, middle - half, middle + half, count)


@dataclass(frozen=True)
class Verdict:
    """What the results say about one claim by one measure.

    Args:
        claim: what is claimed.
        measure: by which.
        difference: of the row that is claimed to be better, minus the other.
        says: ``"holds"`` where the interval excludes 0 on the claimed side, ``"fails: the opposite"`` where it does on
            the other one, ``"fails: not shown"`` where it includes 0, ``"open"`` with fewer than two pairs.
    """

    claim: Claim
    measure: str
    difference: Difference
    says: str


def verdict(claim: Claim, measure: str, values: Mapping[str, Mapping[str, Mapping[int, float]]]) -> Verdict:
    """Judge one claim by one measure.

    Args:
        claim: what is claimed.
        measure: one of its measures.
        values: by row, measure and seed; what is not there is not known.
    """
    first, second = (values.get(row, {}).get(measure, {}) for row in (claim.better, claim.worse))
    difference = paired_difference(first, second)
    larger = MEASURES[measure][1]
    if difference.pairs < 2:
        says = "open"
    elif difference.favours_first(larger):
        says = "holds"
    elif difference.favours_second(larger):
        says = "fails: the opposite"
    else:
        says = "fails: not shown"
    return Verdict(claim, measure, difference, says)
