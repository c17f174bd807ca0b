"""The benchmarks run from end to end; their numbers are not checked."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("benchmarks", reason="benchmarks are in the repository, not in an installed package")


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


def test_weights_are_compared_with_what_sees_no_image() -> None:
    from benchmarks import transfer

    found = transfer.table(["tiny"], 2, None)
    rows = [tuple(map(str, column.cells)) for column in found.columns]
    assert rows[0] == ("constant", "plane", "tiny") and len(rows) == 1 + len(transfer.STREETS)
    assert all(cells[0].endswith("(0.500)") for cells in rows[1:])  # ties count one half
    errors = [[float(cell.split()[0]) for cell in cells] for cells in rows[1:]]
    assert all(tiny < constant for constant, _, tiny in errors)
    assert all(plane < constant for constant, plane, _ in errors[:2])  # level cameras, where depth goes by rows
