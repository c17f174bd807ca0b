"""What the tests of the page share."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from hybrid_encoder.data.synthetic import SyntheticDrive
from hybrid_encoder.data.video import VideoWriter


@pytest.fixture(scope="session")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of a drawn street: ten frames, ten a second."""
    path = tmp_path_factory.mktemp("drive") / "drive.mp4"
    frames = SyntheticDrive(3, 10, height=96, width=320)
    with VideoWriter(path, (96, 320), Fraction(10)) as video:
        for frame in (frames[index] for index in range(10)):
            video.write(np.ascontiguousarray((frame.image.transpose(1, 2, 0) * 255).round().astype(np.uint8)))
    return path
