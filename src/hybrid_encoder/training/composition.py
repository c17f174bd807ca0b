"""Data sets that are made of others, by torch's ``Subset`` and ``ConcatDataset``: what of which one is in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch.utils.data import ConcatDataset, Dataset, Subset


class Part(NamedTuple):
    """What a data set takes from one that is made of no others.

    Args:
        items: that one.
        indices: of the items that are taken.
    """

    items: Any
    indices: Sequence[int]


def parts_of(items: Dataset[Any]) -> list[Part]:
    """Return what a data set takes from which ones; itself, in whole, where it is made of no others."""
    count = len(items)  # type: ignore[arg-type]  # torch promises none
    if not isinstance(items, ConcatDataset | Subset):
        return [Part(items, range(count))]
    found: dict[int, tuple[Any, list[int]]] = {}
    for index in range(count):
        inner, place = inner_item(items, index)
        found.setdefault(id(inner), (inner, []))[1].append(place)
    return [Part(inner, places) for inner, places in found.values()]


def inner_item(items: Dataset[Any], index: int) -> tuple[Any, int]:
    """Return the data set that an item is in, which is made of no others, and its place there."""
    if isinstance(items, Subset):
        return inner_item(items.dataset, items.indices[index])
    if isinstance(items, ConcatDataset):
        for part in items.datasets:
            if index < len(part):  # type: ignore[arg-type]
                return inner_item(part, index)
            index -= len(part)  # type: ignore[arg-type]
    return items, index
