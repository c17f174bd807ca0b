"""What a visitor chose, as the page sends it, and what is made of it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hybrid_encoder.errors import InputError, shortened

if TYPE_CHECKING:
    from hybrid_encoder.models.sizes import WorkingSize

TOY = "tiny"
RIGHT, NATIVE = "right size", "picture's own"
COLORMAPS = ("magma", "inferno", "viridis", "turbo", "cividis", "gray")


@dataclass(frozen=True)
class Choices:
    """What can be chosen on the page, as it comes from there: nothing of it is checked yet.

    Attributes:
        weights: ``"tiny"``, a folder, or a Hub id.
        size: ``RIGHT``, ``NATIVE``, or ``HEIGHTxWIDTH``.
        colormap: one of ``COLORMAPS``.
        fov: horizontal field of view in degrees, as text; empty where nobody said it.
        source_above: whether a video shows its source above the depth.
    """

    weights: Any = TOY
    size: Any = RIGHT
    colormap: Any = COLORMAPS[0]
    fov: Any = ""
    source_above: Any = False

    def checked_size(self) -> WorkingSize:
        """Return the size to work at, or raise InputError."""
        text = self.size
        if text in (RIGHT, NATIVE):
            return None if text == RIGHT else "native"
        found = re.fullmatch(r"\s*([0-9]{2,5})\s*[xX\u00d7]\s*([0-9]{2,5})\s*", text) if isinstance(text, str) else None
        if not found:
            raise InputError(
                f"the working size is {shortened(repr(text), 40)}; choose one, or type HEIGHTxWIDTH, such as 192x640."
            )
        return int(found[1]), int(found[2])

    def checked_colormap(self) -> str:
        """Return the colour map, or raise InputError."""
        name = self.colormap
        if name not in COLORMAPS:
            raise InputError(f"the colours are {shortened(repr(name), 40)}; choose one of {', '.join(COLORMAPS)}.")
        return str(name)

    def checked_fov(self) -> float | None:
        """Return the degrees, None where nobody said them, or raise InputError."""
        text = self.fov
        text = "" if text is None else str(text).strip().removesuffix("°")
        try:
            degrees = float(text) if text else None
        except ValueError:
            degrees = math.nan
        if degrees is not None and not 1 <= degrees <= 170:
            raise InputError(
                f"the field of view is {shortened(repr(text), 40)}; give degrees from 1 to 170, or leave it empty."
            )
        return degrees
