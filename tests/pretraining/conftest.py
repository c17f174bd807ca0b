"""Frames of rendered streets, for the tests of both pretrainings."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hybrid_encoder.data.street import StreetFrame, render_streets

SIZE = (64, 128)


@pytest.fixture(scope="session")
def drives() -> Sequence[Sequence[StreetFrame]]:
    """Three drives of two frames, to train on."""
    return render_streets(range(3), 2, SIZE)


@pytest.fixture(scope="session")
def held_out() -> Sequence[Sequence[StreetFrame]]:
    """Two drives of one frame, not among them."""
    return render_streets(range(1_000_000, 1_000_002), 1, SIZE)
