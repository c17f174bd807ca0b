"""Colours that have a name, and those that need none."""

from __future__ import annotations

from collections.abc import Sequence

from hybrid_encoder.data.synthetic.layout import Draws

COLOURS = {
    "black": (0.05, 0.05, 0.06),
    "grey": (0.42, 0.42, 0.44),
    "white": (0.88, 0.88, 0.86),
    "red": (0.66, 0.08, 0.07),
    "orange": (0.86, 0.4, 0.06),
    "yellow": (0.87, 0.74, 0.14),
    "green": (0.1, 0.42, 0.14),
    "blue": (0.1, 0.2, 0.6),
    "brown": (0.36, 0.22, 0.12),
}
"""The colours that captions name, as RGB in full light."""

PAINTS = tuple(COLOURS)
WALLS = ("grey", "white", "red", "yellow", "brown", "orange", "white", "grey")
CLOTHES = PAINTS
GLASS, STEEL, RUBBER = (0.1, 0.13, 0.17), (0.35, 0.36, 0.38), (0.05, 0.05, 0.05)


def named_colour(draws: Draws, names: Sequence[str], soft: float = 0.0) -> tuple[str, list[float]]:
    """Draw a name, and an RGB colour that is near the one of that name.

    Args:
        soft: share of a light grey in it, as walls have.
    """
    name = names[draws.choice(len(names))]
    shade = draws.between(0.85, 1.12)
    pure = [c * (1 - soft) + 0.62 * soft for c in COLOURS[name]] if name not in ("white", "grey") else COLOURS[name]
    return name, [min(max(c * shade + draws.between(-0.02, 0.02), 0.02), 0.97) for c in pure]
