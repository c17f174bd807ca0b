"""Resampling of position embeddings as products with small matrices, and the grid of patches of a size."""

from __future__ import annotations

import pytest
import torch

from hybrid_encoder.towers.base import patch_grid
from hybrid_encoder.towers.positions import bicubic_matrices, resample_positions


@pytest.mark.parametrize("rule", ["dinov2", "size"])
@pytest.mark.parametrize("new", [(5, 8), (16, 16), (16, 30), (40, 7), (33, 1)])
def test_positions_as_matrices_are_bicubic_resampling(rule: str, new: tuple[int, int]) -> None:
    table = torch.randn(1, 1 + 16 * 16, 8, generator=torch.Generator().manual_seed(0))
    expected = resample_positions(table, (16, 16), new, 1, rule)[0, 1:].view(*new, 8)
    rows, columns = bicubic_matrices((16, 16), new, rule, table.device)
    found = torch.einsum("hi,ijc,wj->hwc", rows, table[0, 1:].view(16, 16, 8), columns)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_cells_round_as_python_does() -> None:
    for patch in (7, 8, 14, 16):
        assert [patch_grid(n, n, patch)[0] for n in range(1, 700)] == [max(1, round(n / patch)) for n in range(1, 700)]
