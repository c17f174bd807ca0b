"""Numbers that a person gives, checked: their kind, and the range in which they can be right."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from hybrid_encoder.errors import ConfigError


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float | None = None,
    whole: bool = False,
) -> None:
    """Raise ConfigError unless a value is a finite number of a range.

    Args:
        name: of the setting.
        value: what was given for it.
        low, high: the least and the greatest that it may be.
        above: what it must exceed.
        whole: it must be a whole number.
    """
    kind = Integral if whole else Real
    fits = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not low <= value <= high or (above is not None and not value > above):
        if math.isfinite(low) and math.isfinite(high):
            rule = f"from {low:.12g} to {high:.12g}"
        else:
            least = f"above {above:g}" if above is not None else f"at least {low:.12g}" if math.isfinite(low) else ""
            most = f"at most {high:.12g}" if math.isfinite(high) else ""
            rule = " and ".join(filter(None, (least, most))) or "finite"
        if not isinstance(value, kind) or isinstance(value, bool):
            rule = f"a {'whole ' if whole else ''}number, {rule}"
        raise ConfigError(f"{name} is {value!r}; it must be {rule}.")
