"""The numbers among the tensors of an ``encoder.pth``: the size of images, the range of depth bins."""

from __future__ import annotations

import reprlib
from typing import Any

from torch import Tensor

from hybrid_encoder.checkpoints.files import WeightFile
from hybrid_encoder.errors import CheckpointError

BIN_RANGE = ("min_depth_bin", "max_depth_bin")
MAX_SETTING = 100_000  # pixels or metres
SETTINGS: tuple[tuple[str, Any, str], ...] = (  # what stands among the tensors of an encoder.pth
    ("height", int, "a whole number of pixels, above 0 and below 100000"),
    ("width", int, "a whole number of pixels, above 0 and below 100000"),
    *((name, float, "a distance above 0 and below 100000") for name in BIN_RANGE),
)


def split_settings(content: WeightFile) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the settings of an encoder's file, checked, and its tensors without them.

    Raises:
        CheckpointError: a setting that cannot be.
    """
    tensors = dict(content.tensors)
    found: dict[str, Any] = {}
    for name, kind, rule in SETTINGS:
        value: Any = content.settings.get(name)
        if name in tensors:
            stored = tensors.pop(name)
            value = stored.item() if stored.numel() == 1 else tuple(stored.shape)
        if value is None:
            continue
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if not numeric or not 0 < value < MAX_SETTING or kind(value) != value:
            raise CheckpointError(f"{content.path}: {name!r} is {reprlib.repr(value)}; it must be {rule}.")
        found[name] = kind(value)
    return found, tensors
