"""What stands beside a street: buildings, walls, trees, poles, signs, made of solids."""

from __future__ import annotations

from collections.abc import Callable

from hybrid_encoder.data.street.palette import COLOURS, GLASS, STEEL, WALLS, named_colour
from hybrid_encoder.data.street.shapes import SUNK, Thing
from hybrid_encoder.data.synthetic.layout import Draws

BARK = (0.26, 0.19, 0.13)
LEAF = ((0.2, 0.36, 0.12), (0.13, 0.26, 0.08), (0.3, 0.42, 0.16), (0.48, 0.34, 0.1), (0.1, 0.22, 0.12))


def house(draws: Draws, length: float) -> tuple[Thing, float]:
    """Return a house with a pitched roof, and its depth away from the street."""
    name, wall = named_colour(draws, WALLS, 0.35)
    thing = Thing("house", name)
    deep, tall, rise = draws.between(6, 10), draws.between(2.8, 6.5), draws.between(1.6, 3.6)
    windows = (
        draws.between(1.9, 3.4),
        draws.between(0.3, 0.5),
        2.8,
        draws.between(0.35, 0.55),
        draws.between(0.1, 0.9),
    )
    thing.block((0, 0, -SUNK), (deep, tall + SUNK, length), wall, GLASS, windows)
    roof = named_colour(draws, ("red", "brown", "grey", "black", "orange"), 0.2)[1]
    tiles = (9, 1, 0.45, 0.75, draws.between(0.4, 1.0))
    dark = [c * 0.75 for c in roof]
    if draws.chance(0.5):  # the ridge along the street
        thing.block((0, 0, tall), (deep / 2 + 0.4, rise, length + 0.5), roof, dark, tiles, (deep / 2 / rise, 0))
    else:
        thing.block((0, 0, tall), (deep + 0.5, rise, length / 2 + 0.4), roof, dark, tiles, (0, length / 2 / rise))
    if draws.chance(0.5):
        thing.block((deep / 5, length / 4, tall), (0.6, rise + 0.7, 0.6), COLOURS["brown"], pattern=(9, 0, 9, 1, 0.8))
    return thing, deep


def tower(draws: Draws, length: float) -> tuple[Thing, float]:
    """Return a tower block, and its depth."""
    name, wall = named_colour(draws, WALLS, 0.4)
    thing = Thing("tower", name)
    deep, tall = draws.between(9, 16), draws.between(12, 40)
    windows = (draws.between(1.6, 4), draws.between(0.4, 0.85), draws.between(2.7, 3.4), draws.between(0.35, 0.6), 0.25)
    thing.block((0, 0, -SUNK), (deep, SUNK + 3.6, length), [c * 0.7 for c in wall], GLASS, (3.1, 0.6, 9, 0.34, 0.4))
    thing.block((0, 0, 3.6), (deep + draws.between(-0.5, 1.5), tall - 3.6, length), wall, GLASS, windows)
    return thing, deep


def shop(draws: Draws, length: float) -> tuple[Thing, float]:
    """Return a shop: a wide window, a band with its sign, perhaps an awning, dwellings above."""
    name, wall = named_colour(draws, WALLS, 0.3)
    thing = Thing("shop", name)
    deep, tall = draws.between(7, 11), draws.between(1.0, 8.0)
    band = named_colour(draws, tuple(COLOURS))[1]
    thing.block((0, 0, -SUNK), (deep, SUNK + 2.7, length), wall, GLASS, (draws.between(2.2, 5), 0.84, 9, 0.34, 0.2))
    thing.block(
        (0, 0, 2.7), (deep + 0.2, 0.7, length), band, COLOURS["white"], (draws.between(0.5, 1.2), 0.5, 0.7, 0.4, 0)
    )
    thing.block((0, 0, 3.4), (deep, tall, length), wall, GLASS, (draws.between(1.8, 3), 0.45, 2.8, 0.5, 0.5))
    if draws.chance(0.6):
        stripe = (draws.between(0.4, 1.0), 0.5, 9, 1, 0)
        thing.block((0, 0, 2.35), (deep + draws.between(1.6, 3.0), 0.14, length - 0.8), band, COLOURS["white"], stripe)
    return thing, deep


def hall(draws: Draws, length: float) -> tuple[Thing, float]:
    """Return a hall: wide, low and often without any texture."""
    name, wall = named_colour(draws, ("grey", "white", "blue", "green", "yellow"), 0.25)
    thing = Thing("hall", name)
    deep, tall = draws.between(12, 20), draws.between(4, 8)
    ribs = (draws.between(0.5, 1.5), 0.12, 9, 1, 0.05) if draws.chance(0.4) else (9, 0, 9, 1, 0.04)
    thing.block((0, 0, -SUNK), (deep, tall + SUNK, length), wall, [c * 0.8 for c in wall], ribs)
    thing.block((deep / 2 - 0.3, 0, -SUNK), (0.7, SUNK + 3.4, 4), STEEL, COLOURS["grey"], (9, 1, 0.5, 0.1, 0.05))
    thing.block((-deep / 2 + 0.3, 0, -SUNK), (0.7, SUNK + 3.4, 4), STEEL, COLOURS["grey"], (9, 1, 0.5, 0.1, 0.05))
    return thing, deep


def wall(draws: Draws, length: float) -> tuple[Thing, float]:
    """Return a wall, plain or of bricks, and its thickness."""
    name, face = named_colour(draws, WALLS, 0.3)
    thing = Thing("wall", name)
    pattern = (0.5, 0.92, 0.25, 0.85, 0.6) if draws.chance(0.5) else (9, 0, 9, 1, draws.between(0, 0.5))
    thing.block((0, 0, -SUNK), (0.35, SUNK + draws.between(1.0, 3.5), length), [c * 0.8 for c in face], face, pattern)
    return thing, 0.35


def fence(draws: Draws, length: float) -> tuple[Thing, float]:
    """Return a fence of posts and rails, and its thickness."""
    name, face = named_colour(draws, ("white", "brown", "grey", "green", "black"))
    thing = Thing("fence", name)
    tall, posts = draws.between(0.8, 1.4), max(2, int(length / 1.8) + 1)
    for up in (0.35, 0.9):
        thing.block((0, 0, tall * up - 0.06), (0.06, 0.12, length), face)
    for k in range(posts):
        at = (k / (posts - 1) - 0.5) * (length - 0.1)
        thing.block((0, at, -SUNK), (0.1, tall + SUNK, 0.1), face, casts=False)
    return thing, 0.1


def tree(draws: Draws, leaves: int) -> Thing:
    """Return a tree: a trunk and crowns, or a conifer."""
    thing = Thing("tree", "")
    shade = [c * draws.between(0.8, 1.2) for c in LEAF[leaves]]
    tall, rough = draws.between(3.5, 10), (9, 0, 9, 1, 1.5)
    trunk = tall * draws.between(0.25, 0.45)
    radius = 0.07 + 0.02 * tall
    thing.round((0, 0, trunk / 2), (radius, trunk / 2 + SUNK, radius), BARK, "up", (0.3, 0.3, 9, 1, 0.8))
    if draws.chance(0.25):
        wide = tall * draws.between(0.28, 0.4)
        for k in range(2):
            low, rise = trunk * 0.7 + k * tall * 0.32, tall * 0.48
            half = wide * (1 - 0.35 * k)
            thing.block((0, 0, low), (half, rise, half), shade, pattern=rough, taper=(half / rise * 0.95,) * 2)
        return thing
    spread = (tall - trunk) / 2
    thing.round((0, 0, trunk + spread), (spread * 0.85, spread, spread * 0.85), shade, pattern=rough)
    for _ in range(2 + draws.choice(3)):
        x, z, up = (draws.between(-0.6, 0.6) * spread for _ in range(3))
        size = spread * draws.between(0.45, 0.75)
        tint = [c * draws.between(0.85, 1.15) for c in shade]
        thing.round((x, z, trunk + spread + up), (size, size * 0.85, size), tint, pattern=rough)
    return thing


def bush(draws: Draws, leaves: int) -> Thing:
    """Return a bush, or a piece of a hedge."""
    thing = Thing("bush", "")
    shade, rough = [c * draws.between(0.8, 1.2) for c in LEAF[leaves]], (9, 0, 9, 1, 1.4)
    if draws.chance(0.4):
        hedge = draws.between(0.6, 1.2), SUNK + draws.between(0.7, 2.0), draws.between(2, 5)
        thing.block((0, 0, -SUNK), hedge, shade, pattern=rough)
        return thing
    for _ in range(1 + draws.choice(3)):
        size = draws.between(0.4, 1.0)
        x, z = draws.between(-0.6, 0.6), draws.between(-0.6, 0.6)
        thing.round((x, z, size * 0.6), (size, size * 0.9, size), shade, pattern=rough)
    return thing


def lamp(draws: Draws) -> Thing:
    """Return a street lamp; its arm reaches to the left."""
    thing = Thing("lamp", "")
    tall, reach = draws.between(4.5, 8), draws.between(0.6, 2.0)
    thing.round((0, 0, tall / 2), (0.08, tall / 2 + SUNK / 2, 0.08), STEEL, "up")
    thing.block((-reach / 2, 0, tall - 0.1), (reach, 0.08, 0.08), STEEL, casts=False)
    thing.block((-reach, 0, tall - 0.22), (0.6, 0.16, 0.25), COLOURS["white"], casts=False)
    return thing


def traffic_light(draws: Draws) -> Thing:
    """Return a traffic light that faces backwards, towards those who come along the street."""
    thing = Thing("traffic light", "")
    tall, lit = draws.between(2.4, 3.4), draws.choice(3)
    thing.round((0, 0, tall / 2), (0.07, tall / 2 + SUNK / 2, 0.07), STEEL, "up")
    thing.block((0, 0, tall), (0.34, 0.95, 0.28), COLOURS["black"])
    for k, colour in enumerate(((0.95, 0.1, 0.08), (0.98, 0.7, 0.1), (0.1, 0.9, 0.3))):
        dim = 1.0 if k == lit else 0.25
        middle = (0, -0.14, tall + 0.78 - 0.3 * k)
        thing.round(middle, (0.11, 0.11, 0.05), [c * dim for c in colour], "z", casts=False)
    return thing


def sign(draws: Draws) -> Thing:
    """Return a road sign that faces backwards: round or a plate."""
    name, face = named_colour(draws, ("red", "blue", "yellow", "white", "green"))
    thing = Thing("sign", name)
    tall, size = draws.between(1.8, 2.8), draws.between(0.28, 0.5)
    thing.round((0, 0, tall / 2), (0.04, tall / 2 + SUNK / 2, 0.04), STEEL, "up", casts=False)
    if draws.chance(0.5):
        thing.round((0, -0.06, tall + size * 0.6), (size, size, 0.03), face, "z")
        if name != "white":
            thing.round((0, -0.08, tall + size * 0.6), (size * 0.65, size * 0.65, 0.03), COLOURS["white"], "z")
    else:
        wide = size * draws.between(1.4, 3.0)
        marks = (wide / 2, 0.6, size / 2, 0.4, 0)
        other = COLOURS["white"] if name != "white" else COLOURS["black"]
        thing.block((0, -0.06, tall), (wide, size * 1.4, 0.05), face, other, marks)
    return thing


def bridge(draws: Draws, width: float) -> Thing:
    """Return a bridge across a street of this width."""
    name, face = named_colour(draws, ("grey", "white", "brown", "red"), 0.3)
    thing = Thing("bridge", name, overhead=True)
    up, tall, deep = draws.between(4.4, 6), draws.between(1.0, 2.2), draws.between(2, 9)
    thing.block((0, 0, up), (width + 16, tall, deep), face, [c * 0.8 for c in face], (3, 0.06, tall, 0.8, 0.5))
    for x in (-width / 2 - 1, width / 2 + 1):
        thing.block((x, 0, -SUNK), (1.2, up + SUNK, deep * 0.8), [c * 0.9 for c in face], pattern=(9, 0, 9, 1, 0.5))
    return thing


BUILDINGS: dict[str, Callable[[Draws, float], tuple[Thing, float]]] = {
    "house": house, "tower": tower, "shop": shop, "hall": hall, "wall": wall, "fence": fence,
}  # fmt: skip
