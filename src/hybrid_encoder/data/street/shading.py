"""The colours of a street as one camera sees it, and which surfaces have no texture.

The colour of a point is a function of where it is on its thing, or on the ground; only haze and the fading of texture
finer than a pixel depend on the distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hybrid_encoder.data.street.casting import Solids
from hybrid_encoder.data.street.shapes import Column
from hybrid_encoder.data.street.world import World
from hybrid_encoder.data.synthetic.rendering import DASH_PERIOD, noise_at, stripes
from hybrid_encoder.data.synthetic.street import Array

ROAD, PAVEMENT, VERGE = 0, 1, 2  # what the ground is
FLAT = 0.12  # noise of a smaller amplitude is no texture
FAR = 1e3  # metres: the horizon, in finite numbers


@dataclass(frozen=True)
class View:
    """What the pixels of one camera see, flat: every array is (N,) or (3, N)."""

    rays: Array  # with z = 1 in the camera
    norm: Array  # length of the rays
    depth: Array  # along z, infinite for the sky
    hit: Array  # index of the solid, -1 for none
    dark: Array  # in a shadow
    points: Array  # in the world
    pixel: Array  # what one pixel spans, facing the camera, in metres


def shade(world: World, solids: Solids, view: View) -> tuple[Array, Array, Array]:
    """Return RGB in [0, 1], (N, 3), which pixels show no texture, and what the ground is (-1 off the ground), (N,)."""
    light = world.light
    image, blank = _sky(world, view)
    surface = np.full(len(blank), -1, dtype=np.int64)
    ground = np.flatnonzero((view.hit < 0) & (view.depth < np.inf))
    built = np.flatnonzero(view.hit >= 0)
    if len(ground):
        image[ground], blank[ground], surface[ground] = _ground(world, view, ground)
    if len(built):
        image[built], blank[built] = _solids(world, solids, view, built)
    solid = np.concatenate([ground, built])
    far = np.minimum(view.depth[solid], FAR).astype(np.float32)
    haze = (far * far / (far * far + np.float32(light.haze**2)))[:, None]
    image[solid] += (light.horizon.astype(np.float32) - image[solid]) * haze
    return np.clip(image, 0, 1), blank, surface


def _sky(world: World, view: View) -> tuple[Array, Array]:
    light = world.light
    image = np.zeros((len(view.depth), 3), dtype=np.float32)
    sky = np.flatnonzero(view.depth == np.inf)
    climb = np.clip(-view.rays[1, sky] / view.norm[sky] / 0.35, 0, 1).astype(np.float32)
    colour = light.horizon + (light.zenith - light.horizon) * climb[:, None]
    if light.clouds > 0.1:
        high = np.maximum(-view.rays[1, sky], 0.02 * view.norm[sky]) + 0.12 * view.norm[sky]
        a, b = (np.float32(2) * (view.rays[k, sky] / high).astype(np.float32) for k in (0, 2))
        grain = noise_at(world.noise, a, b, np.float32(0.5) + 0 * a)
        cover = np.clip(grain + light.clouds - 0.5, 0, 1) * np.minimum(climb * 6, 1)
        colour = colour + (0.93 - colour) * cover[:, None]
    image[sky] = colour
    blank = np.zeros(len(image), dtype=bool)
    blank[sky] = light.clouds <= 0.1
    return image, blank


def _ground(world: World, view: View, which: Array) -> tuple[Array, Array, Array]:
    """Return colours, which have no texture, and what the ground is, at the pixels ``which``."""
    roads, light = world.roads, world.light
    x, z = view.points[0, which], view.points[2, which]
    middle, _ = roads.centre(z)
    # In float64 up to here: far away, float32 is coarser than a line on the road.
    s, along = (x - middle).astype(np.float32), z.astype(np.float32)
    ray = view.rays[:, which].astype(np.float32)
    pixel = view.pixel[which]
    steep = np.maximum(np.abs(ray[1] + world.ground.slope(z).astype(np.float32) * ray[2]), 1e-3)
    slanted = pixel * view.norm[which].astype(np.float32) / steep
    wide, long = (pixel * np.maximum(np.abs(ray[k]) / steep, 1) for k in (0, 2))
    edges = roads.edges.astype(np.float32)
    beyond = [np.clip((s - edge) / wide + np.float32(0.5), 0, 1) for edge in edges]
    asphalt, walk = beyond[1] - beyond[2], beyond[0] - beyond[3]
    crossed = np.isfinite(roads.crossing)
    if crossed:
        q = np.abs(z - roads.crossing).astype(np.float32)
        asphalt = np.maximum(asphalt, np.clip((np.float32(roads.side_half) - q) / long + np.float32(0.5), 0, 1))
        border = np.float32(roads.side_half + roads.side_walk)
        walk = np.maximum(walk, np.clip((border - q) / long + np.float32(0.5), 0, 1))
    walk = np.maximum(walk - asphalt, 0)
    verge = 1 - asphalt - walk
    grain = noise_at(world.noise, s.astype(np.float32), along, slanted)
    colours, rough = world.surfaces.astype(np.float32), world.rough.astype(np.float32)
    base: Array = asphalt[:, None] * colours[0] + walk[:, None] * colours[1] + verge[:, None] * colours[2]
    base *= (1 + grain * (asphalt * rough[0] + walk * rough[1] + verge * rough[2]))[:, None]
    cover, yellow = _paint(world, s, z, wide, long, asphalt)
    paint = np.stack(
        [colours[3, 0] + 0 * yellow, colours[3, 1] * (1 - 0.2 * yellow), colours[3, 2] * (1 - 0.7 * yellow)], 1
    )
    base += cover[:, None] * (paint - base)
    up = np.float32(-light.sun[1] * light.direct)
    base *= (np.float32(light.ambient) + up * ~view.dark[which])[:, None]
    surface = np.where(asphalt >= 0.5, ROAD, np.where(walk > verge, PAVEMENT, VERGE))
    blank = (rough[surface] < FLAT) & (cover < 0.02)
    return base, blank, surface


def _paint(world: World, s: Array, z: Array, wide: Array, long: Array, asphalt: Array) -> tuple[Array, Array]:
    """Return how much of each pixel is painted, and whether that paint is yellow, (N,)."""
    roads = world.roads
    cover, yellow = np.zeros_like(s), np.zeros_like(s)
    stripe = ((z / DASH_PERIOD) % 64.0).astype(np.float32)
    for position, half, share, tint in roads.lines.tolist():
        near = np.minimum(s + wide / 2, position + half) - np.maximum(s - wide / 2, position - half)
        part = np.maximum(near, 0) / wide
        if share < 1:
            part = part * stripes(stripe, np.float32(share), long / np.float32(DASH_PERIOD))
        cover = np.maximum(cover, part)
        if tint:
            yellow = np.maximum(yellow, (part > 0).astype(np.float32))
    if np.isfinite(roads.crossing):
        q = (z - roads.crossing).astype(np.float32)
        away = np.abs(q) - np.float32(roads.side_half + roads.side_walk)
        outside = np.clip((away - 4) / long + 0.5, 0, 1)
        inner = (s > roads.edges[1]) & (s < roads.edges[2])
        if roads.zebra:
            band = np.clip((away - 0.5) / long + 0.5, 0, 1) - np.clip((away - 3.5) / long + 0.5, 0, 1)
            at_crossing = band * stripes(s, np.float32(0.5), wide) * inner
        else:
            band = np.clip((away - 0.6) / long + 0.5, 0, 1) - np.clip((away - 1.1) / long + 0.5, 0, 1)
            at_crossing = band * inner * ((s > 0) == (q < 0))
        cover = np.maximum(cover * outside, at_crossing)
        yellow *= at_crossing == 0
        if roads.side_line:
            side = np.clip((np.float32(0.08) - np.abs(q)) / long + 0.5, 0, 1) * ~inner
            if roads.side_line < 1:
                side = side * stripes(s / np.float32(5), np.float32(roads.side_line), wide / np.float32(5))
            cover = np.maximum(cover, side)
    return (cover * asphalt).astype(np.float32), yellow


def _solids(world: World, solids: Solids, view: View, which: Array) -> tuple[Array, Array]:
    """Return colours, and which have no texture, at the pixels ``which``, which show solids."""
    light, n = world.light, view.hit[which]
    dx, dy, dz = ((view.points[k, which] - solids.middle[n, k]).astype(np.float32) for k in range(3))
    numbers = solids.rows.astype(np.float32)[n]
    cos, sin = solids.cos.astype(np.float32)[n], solids.sin.astype(np.float32)[n]
    x, up, z = cos * dx - sin * dz, -dy, sin * dx + cos * dz
    half, taper, weights = numbers[:, Column.HALF].T, numbers[:, Column.TAPER].T, numbers[:, Column.WEIGHTS].T
    # The face that a point lies on is the one that it is the least inside of.
    outside = np.stack([
        np.abs(x) + taper[0] * up - half[0], np.abs(up) - half[1], np.abs(z) + taper[1] * up - half[2]
    ])  # fmt: skip
    wx, wu, wz = weights[0] * x, weights[1] * up, weights[2] * z
    rounded = wx * x + wu * up + wz * z
    face = outside.argmax(0)
    round_face = (weights.any(0)) & ((rounded - 1) * half.min(0) > outside.max(0) - 1e-3)
    nx = np.where(round_face, wx, np.where(face == 0, np.copysign(1, x), 0))
    nu = np.where(round_face, wu, np.where(face == 1, np.copysign(1, up), np.where(face == 0, taper[0], taper[1])))
    nz = np.where(round_face, wz, np.where(face == 2, np.copysign(1, z), 0))
    length = np.sqrt(nx * nx + nu * nu + nz * nz)
    world_x, world_z = (cos * nx + sin * nz) / length, (cos * nz - sin * nx) / length
    world_up = nu / length
    ray = view.rays[:, which].astype(np.float32)
    facing = np.abs(world_x * ray[0] - world_up * ray[1] + world_z * ray[2])
    pixel = view.pixel[which]
    slanted = pixel * view.norm[which].astype(np.float32) / np.maximum(facing, 0.05)

    along = np.where(round_face, x - z, np.where(face == 0, z, x))
    across = np.where((face == 1) & ~round_face, z, up)
    period, share, rise, rise_share, rough = numbers[:, Column.PATTERN].T
    grain = noise_at(world.noise, along + np.float32(7.3) * n.astype(np.float32), across, slanted)
    span = np.where(face == 0, half[2], half[0])
    cover = stripes((along + span) / period - (1 - share) / 2, share, slanted / period)
    cover = cover * stripes((half[1] - up) / rise - (1 - rise_share) / 2, rise_share, slanted / rise)
    cover = np.where((face == 1) | round_face, 0, cover)
    base, mark = numbers[:, Column.FACE], numbers[:, Column.MARK]
    colour = (base + (mark - base) * cover[:, None]) * (1 + rough * np.float32(0.45) * grain)[:, None]
    toward = (
        world_x * np.float32(light.sun[0]) + world_up * np.float32(-light.sun[1]) + world_z * np.float32(light.sun[2])
    )
    sky = np.float32(light.ambient) * (np.float32(0.82) + np.float32(0.18) * world_up)
    bright = sky + np.float32(light.direct) * np.maximum(toward, 0) * ~view.dark[which]
    return colour * bright[:, None], (rough < FLAT) & ((share == 0) | (rise_share == 0))
