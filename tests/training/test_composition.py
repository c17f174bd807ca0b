"""Data sets that are made of others: which items of which they have."""

from __future__ import annotations

from typing import Any

from torch.utils.data import ConcatDataset, Dataset, Subset

from hybrid_encoder.training.composition import inner_item, parts_of


class Letters(Dataset[str]):
    def __init__(self, letters: str) -> None:
        self.letters = letters

    def __len__(self) -> int:
        return len(self.letters)

    def __getitem__(self, index: int) -> str:
        return self.letters[index]


FIRST, SECOND = Letters("abcd"), Letters("efg")
BOTH: Dataset[str] = ConcatDataset([Subset(FIRST, [3, 1]), SECOND])


def taken(items: Any) -> list[str]:
    return ["".join(part.items[index] for index in part.indices) for part in parts_of(items)]


def test_what_is_taken_of_each() -> None:
    assert taken(FIRST) == ["abcd"] and parts_of(FIRST)[0].items is FIRST
    assert taken(BOTH) == ["db", "efg"]
    assert taken(Subset(BOTH, [4, 0, 2])) == ["ge", "d"]
    assert taken(Subset(Subset(BOTH, [4, 0, 2]), [0])) == ["g"]


def test_every_item_is_found_in_its_own() -> None:
    for items in (FIRST, BOTH, Subset(BOTH, [4, 0, 2])):
        for index in range(len(items)):  # type: ignore[arg-type]
            inner, place = inner_item(items, index)
            assert inner in (FIRST, SECOND) and inner[place] == items[index]
