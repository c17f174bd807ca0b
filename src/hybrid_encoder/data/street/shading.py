"""The colours of a street as one camera sees it, and which surfaces have no texture.

The colour of a point is a function of where it is on its thing, or on the ground; only haze and the fading of texture
finer than a pixel depend on the distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hybrid_encoder.data.street.casting import Solids
from hybrid_encoder.data.street.markings import paint
from hybrid_encoder.data.street.shapes import Column
from hybrid_encoder.data.street.world import World
from hybrid_encoder.data.synthetic.rendering import noise_at, stripes
from hybrid_encoder.data.synthetic.street import Array

ROAD, PAVEMENT, VERGE = 0, 1, 2  # what the ground is
FLAT = 0.12  # noise of a smaller amplitude is no texture
OCTAVES = ((0.12, 0.44), (0.45, 0.46), (1.9, 0.44), (8.5, 0.34))  # of noise: (cell in metres, amplitude)
CLOUDLESS = 0.1  # fewer clouds are not drawn
FAR = 1e3  # metres: the horizon, in finite numbers


@dataclass(frozen=True)
class View:
    """What the pixels of one camera see, flat: every array is (N,) or (3, N)."""

    rays: Array  # with z = 1 in the camera
    norm: Array  # length of the rays
    depth: Array  # along z, infinite for the sky
    hit: Array  # index of the solid, -1 for none
    dark: Array  # ground in a shadow
    points: Array  # in the world
    pixel: Array  # what one pixel spans, facing the camera, in metres


def shade(world: World, solids: Solids, view: View) -> tuple[Array, Array, Array]:
    """Return RGB in [0, 1], (3, N), which pixels show no texture, and what the ground is (-1 off the ground), (N,)."""
    light = world.light
    image = np.zeros((3, len(view.depth)), dtype=np.float32)
    blank, surface = np.zeros(len(view.depth), dtype=bool), np.full(len(view.depth), -1, dtype=np.int64)
    endless = view.depth == np.inf
    sky, ground, built = (np.flatnonzero(x) for x in (endless, (view.hit < 0) & ~endless, view.hit >= 0))
    if len(sky):
        image[:, sky], blank[sky] = _sky(world, view, sky)
    if len(ground):
        image[:, ground], blank[ground], surface[ground] = _ground(world, view, ground)
    if len(built):
        image[:, built], blank[built] = _solids(world, solids, view, built)
    far = np.where(endless, 0, np.minimum(view.depth, FAR)).astype(np.float32)
    haze = far * far / (far * far + np.float32(light.haze * light.haze))
    for plane, horizon in zip(image, light.horizon.astype(np.float32), strict=True):
        plane += (horizon - plane) * haze
    return np.clip(image, 0, 1, out=image), blank, surface


def _sky(world: World, view: View, which: Array) -> tuple[Array, bool]:
    """Return the colours of the sky at the pixels ``which``, (3, N), and whether it has no texture."""
    light = world.light
    rays, norm = view.rays[:, which], view.norm[which]
    climb = np.clip(-rays[1] / norm / 0.35, 0, 1).astype(np.float32)
    horizon, zenith = light.horizon.astype(np.float32)[:, None], light.zenith.astype(np.float32)[:, None]
    colour: Array = horizon + (zenith - horizon) * climb
    if light.clouds <= CLOUDLESS:
        return colour, True
    high = np.maximum(-rays[1], 0.02 * norm) + 0.12 * norm
    a, b = (np.float32(2) * (rays[k] / high).astype(np.float32) for k in (0, 2))
    grain = noise_at(world.noise, a, b, np.full_like(a, 0.5), OCTAVES[1:])
    cover = np.clip(grain + np.float32(light.clouds - 0.5), 0, 1) * np.minimum(climb * 6, 1)
    return colour + (np.float32(0.93) - colour) * cover, False


def _ground(world: World, view: View, which: Array) -> tuple[Array, Array, Array]:
    """Return colours, (3, N), which have no texture, and what the ground is, at the pixels ``which``."""
    roads, light = world.roads, world.light
    x, z = view.points[0, which], view.points[2, which]
    middle, _ = roads.centre(z)
    s, along = (x - middle).astype(np.float32), z.astype(np.float32)
    ray = view.rays[:, which].astype(np.float32)
    pixel = view.pixel[which]
    steep = np.maximum(np.abs(ray[1] + world.ground.slope(z).astype(np.float32) * ray[2]), 1e-3)
    slanted = pixel * view.norm[which].astype(np.float32) / steep
    wide, long = (pixel * np.maximum(np.abs(ray[k]) / steep, 1) for k in (0, 2))

    def share(distance: Array, width: Array) -> Array:  # of the pixel that lies beyond an edge
        covered: Array = np.clip(distance / width + np.float32(0.5), 0, 1)
        return covered

    beyond = [share(s - edge, wide) for edge in roads.edges.astype(np.float32)]
    asphalt, walk = beyond[1] - beyond[2], beyond[0] - beyond[3]
    if np.isfinite(roads.crossing):
        q = np.abs(z - roads.crossing).astype(np.float32)
        asphalt = np.maximum(asphalt, share(np.float32(roads.side_half) - q, long))
        walk = np.maximum(walk, share(np.float32(roads.side_half + roads.side_walk) - q, long))
    walk = np.maximum(walk - asphalt, 0)
    verge = 1 - asphalt - walk
    rough = world.rough.astype(np.float32)
    grain = noise_at(world.noise, s, along, slanted, OCTAVES)
    grain = 1 + grain * (asphalt * rough[0] + walk * rough[1] + verge * rough[2])
    cover, yellow = paint(roads, s, z, wide, long, asphalt)
    up = np.float32(-light.sun[1] * light.direct)
    bright = np.float32(light.ambient) + up * ~view.dark[which]
    colours, image = world.surfaces.astype(np.float32), np.empty((3, len(s)), dtype=np.float32)
    for k, faded in enumerate((0.0, 0.2, 0.7)):  # yellow paint has less green, and hardly any blue
        plane = (asphalt * colours[0, k] + walk * colours[1, k] + verge * colours[2, k]) * grain
        image[k] = (plane + cover * (colours[3, k] * (1 - np.float32(faded) * yellow) - plane)) * bright
    surface = np.where(asphalt >= 0.5, ROAD, np.where(walk > verge, PAVEMENT, VERGE))
    return image, (rough[surface] < FLAT) & (cover < 0.02), surface


def _solids(world: World, solids: Solids, view: View, which: Array) -> tuple[Array, Array]:
    """Return colours, (3, N), and which have no texture, at the pixels ``which``, which show solids."""
    light, n = world.light, view.hit[which]
    middle = np.take(solids.middle.T, n, axis=1)
    dx, dy, dz = (view.points[:, which] - middle).astype(np.float32)
    numbers = np.take(np.ascontiguousarray(solids.rows.T.astype(np.float32)), n, axis=1)
    cos, sin = solids.cos.astype(np.float32)[n], solids.sin.astype(np.float32)[n]
    x, up, z = cos * dx - sin * dz, -dy, sin * dx + cos * dz
    half, taper, weights = numbers[Column.HALF], numbers[Column.TAPER], numbers[Column.WEIGHTS]
    # The face that a point lies on is the one that it is the least inside of.
    to_side = np.abs(x) + taper[0] * up - half[0]
    to_top = np.abs(up) - half[1]
    to_end = np.abs(z) + taper[1] * up - half[2]
    outside = np.maximum(np.maximum(to_side, to_top), to_end)
    on_side, on_top = to_side == outside, to_top == outside
    wx, wu, wz = weights[0] * x, weights[1] * up, weights[2] * z
    bent = weights[0] + weights[1] > 0
    bent &= (wx * x + wu * up + wz * z - 1) * np.minimum(half[0], half[1]) > outside - np.float32(1e-3)
    on_top &= ~on_side & ~bent
    on_side &= ~bent
    on_end = ~(on_side | on_top | bent)
    nx = np.where(bent, wx, np.copysign(on_side.astype(np.float32), x))
    nu = np.where(bent, wu, np.where(on_top, np.copysign(np.float32(1), up), taper[0] * on_side + taper[1] * on_end))
    nz = np.where(bent, wz, np.copysign(on_end.astype(np.float32), z))
    length = np.sqrt(nx * nx + nu * nu + nz * nz)
    world_x, world_up, world_z = (cos * nx + sin * nz) / length, nu / length, (cos * nz - sin * nx) / length
    ray = view.rays[:, which].astype(np.float32)
    facing = np.abs(world_x * ray[0] - world_up * ray[1] + world_z * ray[2])
    slanted = view.pixel[which] * view.norm[which].astype(np.float32) / np.maximum(facing, np.float32(0.05))

    along = np.where(bent, x - z, np.where(on_side, z, x))
    across = np.where(on_top, z, up)
    period, share, rise, rise_share, rough = numbers[Column.PATTERN]
    grain = noise_at(world.noise, along + np.float32(7.3) * n.astype(np.float32), across, slanted, OCTAVES)
    upright = np.flatnonzero((on_side | on_end) & (share > 0))
    cover = np.zeros_like(along)
    period, share, rise, rise_share = (row[upright] for row in numbers[Column.PATTERN][:4])
    span, high, width = np.where(on_side, half[2], half[0])[upright], (half[1] - up)[upright], slanted[upright]
    part = stripes((along[upright] + span) / period - (1 - share) / 2, share, width / period)
    cover[upright] = part * stripes(high / rise - (1 - rise_share) / 2, rise_share, width / rise)
    sun_x, sun_y, sun_z = (np.float32(part) for part in light.sun)
    toward = np.maximum(world_x * sun_x - world_up * sun_y + world_z * sun_z, 0)
    bright = np.float32(light.ambient) * (np.float32(0.82) + np.float32(0.18) * world_up)
    bright = (bright + np.float32(light.direct) * toward) * (1 + rough * np.float32(0.45) * grain)
    face, mark = numbers[Column.FACE], numbers[Column.MARK]
    plain = (rough < FLAT) & ((numbers[Column.PATTERN.start + 1] == 0) | (numbers[Column.PATTERN.start + 3] == 0))
    return (face + (mark - face) * cover) * bright, plain
