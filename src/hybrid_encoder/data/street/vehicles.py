"""Vehicles and people, made of solids."""

from __future__ import annotations

from collections.abc import Callable

from hybrid_encoder.data.street.palette import CLOTHES, GLASS, PAINTS, RUBBER, STEEL, named_colour
from hybrid_encoder.data.street.shapes import Thing
from hybrid_encoder.data.synthetic.layout import Draws

LAMP, TAIL = (0.92, 0.9, 0.8), (0.6, 0.04, 0.04)
SKIN = ((0.85, 0.66, 0.52), (0.55, 0.36, 0.24), (0.3, 0.2, 0.14))


def car(draws: Draws) -> Thing:
    """Return a car: an estate, a saloon or a small one, by its proportions."""
    name, paint = named_colour(draws, PAINTS)
    thing = Thing("car", name)
    length, width, tall = draws.between(3.5, 4.8), draws.between(1.65, 1.85), draws.between(0.5, 0.7)
    cabin, back = draws.between(0.45, 0.62) * length, draws.between(-0.25, 0.05) * length / 2
    _axles(thing, width, length, 0.31)
    thing.block((0, 0, 0.24), (width, 0.58, length), paint, RUBBER, (9, 0, 0.58, 0.25, 0.08), (0.06, 0.12))
    thing.block((0, back, 0.82), (width - 0.3, tall, cabin), paint, GLASS, (1.3, 0.9, tall, 0.72, 0.06), (0.22, 0.5))
    _lights(thing, width, length, 0.58)
    return thing


def van(draws: Draws) -> Thing:
    """Return a van."""
    name, paint = named_colour(draws, ("white", "white", "grey", "red", "blue", "yellow", "black", "green"))
    thing = Thing("van", name)
    length, width, tall = draws.between(4.6, 5.8), draws.between(1.85, 2.05), draws.between(1.5, 2.0)
    _axles(thing, width, length, 0.34)
    thing.block((0, -0.4, 0.3), (width, tall, length - 0.8), paint, GLASS, (9, 0, tall * 1.2, 0.3, 0.05), (0.05, 0.03))
    thing.block((0, length / 2 - 0.55, 0.3), (width, 0.95, 1.1), paint, RUBBER, (9, 0, 0.95, 0.2, 0.05), (0.03, 0.2))
    thing.block((0, length / 2 - 1.0, 1.2), (width - 0.1, 0.7, 1.0), GLASS, taper=(0.1, 0.5))
    _lights(thing, width, length - 0.2, 0.62)
    return thing


def truck(draws: Draws) -> Thing:
    """Return a truck: a cab and a box of another colour."""
    name, paint = named_colour(draws, PAINTS)
    cab = named_colour(draws, PAINTS)[1]
    thing = Thing("truck", name)
    length, width, tall = draws.between(6.0, 10.0), draws.between(2.3, 2.5), draws.between(2.1, 2.8)
    _axles(thing, width, length, 0.48)
    thing.block((0, 0, 0.55), (width - 0.5, 0.4, length - 0.4), STEEL)
    thing.block((0, -0.95, 0.95), (width, tall, length - 1.9), paint, STEEL, (draws.between(0.8, 3), 0.05, 9, 1, 0.1))
    thing.block((0, length / 2 - 0.85, 0.5), (width - 0.1, 1.1, 1.7), cab, RUBBER, (9, 0, 1.1, 0.3, 0.05))
    thing.block(
        (0, length / 2 - 0.9, 1.6), (width - 0.1, 0.9, 1.6), cab, GLASS, (2.3, 0.85, 0.9, 0.75, 0.05), (0.05, 0.2)
    )
    _lights(thing, width, length, 0.8)
    return thing


def bus(draws: Draws) -> Thing:
    """Return a bus."""
    name, paint = named_colour(draws, ("red", "yellow", "white", "blue", "green", "orange"))
    thing = Thing("bus", name)
    length, width, tall = draws.between(9.0, 12.0), 2.5, draws.between(2.6, 3.9)
    _axles(thing, width, length, 0.48)
    thing.block((0, 0, 0.35), (width, 1.0, length), paint, RUBBER, (9, 0, 1, 0.15, 0.06))
    thing.block((0, 0, 1.35), (width, tall - 1.0, length), paint, GLASS, (1.5, 0.86, 1.3, 0.66, 0.06))
    _lights(thing, width, length, 0.7)
    return thing


def bicycle(draws: Draws) -> Thing:
    """Return a bicycle with its rider, whose clothes give the colour."""
    name, cloth = named_colour(draws, CLOTHES)
    thing = Thing("bicycle", name)
    for z in (-0.52, 0.52):
        thing.round((0, z, 0.33), (0.025, 0.33, 0.33), RUBBER, "x")
    thing.block((0, 0, 0.4), (0.05, 0.4, 0.9), named_colour(draws, PAINTS)[1], taper=(0, 0.5))
    thing.block((0, 0.45, 0.95), (0.5, 0.06, 0.06), STEEL, casts=False)
    _rider(thing, draws, cloth, 0.55)
    return thing


def motorbike(draws: Draws) -> Thing:
    """Return a motorbike with its rider."""
    name, paint = named_colour(draws, PAINTS)
    thing = Thing("motorbike", name)
    for z in (-0.65, 0.65):
        thing.round((0, z, 0.31), (0.07, 0.31, 0.31), RUBBER, "x")
    thing.block((0, 0, 0.35), (0.4, 0.5, 1.3), paint, RUBBER, (9, 0, 0.5, 0.4, 0.05), (0.2, 0.4))
    _rider(thing, draws, paint, 0.6)
    return thing


def person(draws: Draws) -> Thing:
    """Return a person on foot, whose clothes give the colour."""
    name, cloth = named_colour(draws, CLOTHES)
    thing = Thing("person", name)
    scale, trousers = draws.between(0.82, 1.08), named_colour(draws, ("black", "blue", "grey", "brown"))[1]
    stride = draws.between(0.0, 0.3)
    for x, z in ((-0.1, stride), (0.1, -stride)):
        thing.block((x, z, 0), (0.16, 0.85 * scale, 0.18), trousers)
    thing.block((0, 0, 0.8 * scale), (0.46, 0.62 * scale, 0.26), cloth, pattern=(9, 0, 9, 1, 0.15), taper=(0.06, 0.03))
    thing.round((0, 0, 1.56 * scale), (0.11, 0.14, 0.12), SKIN[draws.choice(3)])
    return thing


def _rider(thing: Thing, draws: Draws, cloth: list[float], up: float) -> None:
    thing.block((0, -0.1, up - 0.2), (0.34, 0.6, 0.3), named_colour(draws, ("black", "blue", "grey"))[1], casts=False)
    thing.block((0, 0, up + 0.35), (0.44, 0.6, 0.34), cloth, taper=(0.05, 0))
    thing.round((0, 0.15, up + 1.1), (0.12, 0.15, 0.13), SKIN[draws.choice(3)])


def _axles(thing: Thing, width: float, length: float, radius: float) -> None:
    for z in (-0.31 * length, 0.31 * length):
        thing.round((0, z, radius), (width / 2 - 0.02, radius, radius), RUBBER, "x", casts=False)


def _lights(thing: Thing, width: float, length: float, up: float) -> None:
    """Add a strip of lights to either end: pale in front, red behind."""
    for z, colour in ((length / 2, LAMP), (-length / 2, TAIL)):
        pattern = (width - 0.16, 0.62, 9.0, 1.0, 0.0)
        thing.block((0, z, up), (width - 0.16, 0.14, 0.06), colour, thing.rows[-1][11:14], pattern, casts=False)


VEHICLES: dict[str, Callable[[Draws], Thing]] = {
    "car": car, "van": van, "truck": truck, "bus": bus, "bicycle": bicycle, "motorbike": motorbike,
}  # fmt: skip
