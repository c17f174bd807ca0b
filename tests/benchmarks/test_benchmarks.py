"""The benchmarks run from end to end; their numbers are not checked."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("benchmarks", reason="benchmarks are in the repository, not in an installed package")


def test_learning_compares_every_way(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import learning
    from hybrid_encoder.training.recipes import COARSE, FINE

    monkeypatch.setattr(learning, "HELD_OUT", range(2))
    for recipes in (COARSE, FINE):  # small images and batches, as only the run matters here
        monkeypatch.setitem(recipes, "small", replace(recipes["small"], size=(64, 128), batch_size=2))
    monkeypatch.setattr(
        sys, "argv", ["learning", "--steps", "2", "--coarse-steps", "2", "--drives", "2", "--runs", "1"]
    )
    learning.main()
    said = capsys.readouterr().out
    assert all(f"{way}, seed 0: abs_rel" in said for way in learning.WAYS)
    rows = [line for line in said.splitlines() if line.startswith("│")]
    assert [row.split("│")[1].strip() for row in rows] == list(learning.WAYS)


def test_kept_values_are_timed_inside_of_the_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import kept_values
    from hybrid_encoder.caching import TensorCache

    get = TensorCache.get
    monkeypatch.setattr(kept_values, "CASES", [("tiny", (64, 96))])
    assert kept_values.table(2).row_count == 1
    assert all(0 < part < whole for part, whole in kept_values.shares("tiny", (64, 96), 2))
    assert TensorCache.get is get


@pytest.mark.slow
def test_predict_is_compared_with_its_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import predict

    for name, value in (("HEIGHT", 64), ("WIDTH", 96), ("DRAWN", 2)):
        monkeypatch.setattr(predict, name, value)
    folder = tmp_path / "pictures"
    folder.mkdir()
    predict.write_pictures(folder, 3)
    first, second, third = (file.read_bytes() for file in sorted(folder.iterdir()))
    assert first == third != second
    (found,) = predict.compare("tiny", folder, "cpu", 1)
    assert found.network > 0 and 0 < found.working < found.whole and 0 < found.network_cpu < found.whole_cpu


def test_pooling_is_compared_where_both_ways_agree() -> None:
    from benchmarks import bev

    name, (grid, channels) = next(iter(bev.GRIDS.items()))
    assert name == "BEVDet"
    for pools in bev.ways(grid).values():
        for trains in (False, True):  # raises where sums or gradients differ
            plain, ours = bev.seconds(pools, channels, 1, trains)
            assert len(plain) == len(ours) == 1 and min(*plain, *ours) > 0
