"""The world of a drive, laid out from a seed: roads, what stands and moves along them, light, and the camera.

All numbers come from one random stream: changing the order in which they are drawn changes every drive.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from hybrid_encoder.data.street.ground import draw_ground
from hybrid_encoder.data.street.roadside import Roadside
from hybrid_encoder.data.street.shapes import table
from hybrid_encoder.data.street.world import Camera, Light, Pose, Roads, World
from hybrid_encoder.data.synthetic.layout import Draws, Road, draw_road
from hybrid_encoder.data.synthetic.street import Array, turn, wave

CameraKind = Literal["kitti", "random"]
WEATHER = ("clear", "clear", "clear", "clear", "overcast", "overcast", "rain", "fog")


class Going(NamedTuple):
    """How the camera goes: along the road, or around the corner of a crossing."""

    step: float  # metres per frame
    stops: int  # the frame from which on it stands; the number of frames or more if it never does
    corner: int  # -1 turns to the left, 1 to the right, 0 goes on
    radius: float  # metres, around the corner
    before: float  # metres from the first frame to the corner


def build_world(seed: int, num_frames: int, max_depth: float, camera: CameraKind) -> World:
    """Lay out a world that is long enough for ``num_frames`` frames that see ``max_depth`` metres ahead."""
    draws = Draws(seed)
    plan, mounting = _draw_lanes(draws), draw_camera(draws, camera)
    going = _draw_going(draws, num_frames)
    length = going.step * min(going.stops, num_frames)
    roads = _draw_roads(draws, plan, going, length)
    level = going.corner != 0 or draws.chance(0.25)
    steepest = draws.between(0.02, 0.13)
    ground = draw_ground(draws, -15.0, length + max_depth, 0.0 if level else steepest)
    weave = draws.between(0.05, 0.25), draws.between(25, 60), draws.between(0, 1)
    path = _path(roads, plan, going, num_frames, weave)
    weather, light = _draw_light(draws)
    beside = Roadside(draws, plan, roads, length + max_depth + 15, path)
    beside.fill(going.corner)
    surfaces, rough, verge = _draw_surfaces(draws, weather == "rain")
    rows, owner = table(beside.things)
    return World(
        roads=roads,
        ground=ground,
        light=light,
        camera=mounting,
        weather=weather,
        surfaces=surfaces,
        verge=verge,
        rough=rough,
        noise=draws.noise(256 * 256),
        rows=rows,
        owner=owner,
        kinds=tuple(thing.kind for thing in beside.things),
        colours=tuple(thing.colour for thing in beside.things),
        courses=tuple(beside.courses),
        path=path,
    )


def draw_camera(draws: Draws, kind: CameraKind) -> Camera:
    """Draw a camera: about KITTI's, or any that vehicles have."""
    if kind == "kitti":
        return Camera(1.65, draws.between(-0.01, 0.03), 0.0, 0.58, (0.0, 0.0))
    height, roll, focal = draws.between(0.8, 2.5), draws.between(-0.08, 0.08), draws.between(0.45, 1.1)
    centre = draws.between(-0.06, 0.06), draws.between(-0.12, 0.12)
    horizon = draws.between(0.2, 0.85)  # as a share of the height of an image that is 0.3 x as high as wide
    return Camera(height, (0.5 + centre[1] - horizon) * 0.3 / focal, roll, focal, centre)


def _draw_lanes(draws: Draws) -> Road:
    """Draw the lanes of the main road: often a narrow street, whose houses stand close to the camera."""
    plan, narrow = draw_road(draws), draws.chance(0.45)
    width = draws.between(2.7, 3.1)
    kerbs, walks = ([draws.between(low, high) for _ in range(2)] for low, high in ((0.0, 1.2), (0.6, 1.6)))
    if not narrow:
        return plan
    left, right = -width - kerbs[0], width + kerbs[1]
    edges = np.array([left - walks[0], left, right, right + walks[1]])
    return replace(plan, num_lanes=2, lane_width=width, edges=edges, ego_lane=plan.ego_lane % 2)


def _draw_going(draws: Draws, num_frames: int) -> Going:
    step = draws.between(0.25, 1.3)
    stops = draws.choice(num_frames + 1) if draws.chance(0.05) else num_frames
    corner = (-1, 1)[draws.choice(2)] if draws.chance(0.22) else 0
    radius = draws.between(5, 8) if corner > 0 else draws.between(8, 12)
    return Going(min(step, 0.6) if corner else step, stops, corner, radius, draws.between(-0.8, 0.3) * radius)


def _draw_roads(draws: Draws, plan: Road, going: Going, length: float) -> Roads:
    side_half, side_walk = draws.between(2.8, 6.5), draws.between(0.0, 2.5)
    bend = draws.between(0.5, 11.0) * (2 * draws.choice(2) - 1), draws.between(110, 240), draws.between(0, 1)
    ahead = draws.between(6, 60) if draws.chance(0.55) else np.inf
    if going.corner:
        bend = 0.0, 100.0, 0.0
        ahead = going.radius + going.before + _side_lane(going, side_half)
    share = (0.0, 0.4, 1.0)[draws.choice(3)]
    crossing = ahead + (0 if going.corner else length)
    return Roads(bend, plan.edges, plan.lines(), crossing, side_half, side_walk, share, draws.chance(0.5))


def _side_lane(going: Going, side_half: float) -> float:
    """Return how far before the middle of the crossing road the lane lies that the camera turns into."""
    return side_half / 2 if going.corner > 0 else -side_half / 2


def _path(
    roads: Roads, plan: Road, going: Going, num_frames: int, weave: tuple[float, float, float]
) -> tuple[Pose, ...]:
    lateral, poses = plan.middle(plan.ego_lane), []
    for frame in range(num_frames):
        far = going.step * min(frame, going.stops)
        if not going.corner:
            middle, slope = roads.centre(far)
            aside, drift = wave(far, *weave)
            poses.append(Pose(float(middle) + lateral + aside, far, *turn(float(slope) + drift)))
            continue
        # Rotations by whole steps are composed: a sine of an angle is not the same on every machine.
        cos, sin, on_arc = 1.0, 0.0, far - going.before
        half = min(max(on_arc, 0.0), 1.6 * going.radius) / going.radius / 2
        parts = 8
        tangent = half / parts
        one_cos, one_sin = (1 - tangent * tangent) / (1 + tangent * tangent), 2 * tangent / (1 + tangent * tangent)
        for _ in range(parts):
            cos, sin = cos * one_cos - sin * one_sin, sin * one_cos + cos * one_sin
        straight, beyond = min(far, going.before), max(on_arc - 1.6 * going.radius, 0.0)
        x = going.radius * (1 - cos) + beyond * sin
        z = straight + going.radius * sin + beyond * cos
        poses.append(Pose(lateral + going.corner * x, z, cos, going.corner * sin))
    return tuple(poses)


def _draw_light(draws: Draws) -> tuple[str, Light]:
    weather = WEATHER[draws.choice(len(WEATHER))]
    x, z, up = draws.between(-1, 1), draws.between(-1, 1), draws.between(0.35, 1.3)
    warmth, blue = draws.between(-0.03, 0.07), draws.between(0.25, 0.6)
    grey, ambient, clouds = draws.between(0.5, 0.85), draws.between(0.38, 0.55), draws.between(0, 0.9)
    far = draws.between(120, 400)
    horizon, zenith = np.array([0.82 + warmth, 0.85, 0.88 - warmth]), np.array([blue, blue + 0.16, 0.9])
    direct = 1.08 - ambient
    if weather != "clear":  # light from all of the sky: shadows lie below things, and are faint
        x, z, up = 0.15 * x, 0.15 * z, 1.0
        ambient, direct = draws.between(0.55, 0.75), 0.22
        horizon, zenith = np.full(3, grey), np.array([grey - 0.06, grey - 0.04, grey])
        clouds *= 0.4
    if weather == "fog":
        far, direct, horizon = draws.between(28, 70), 0.12, np.full(3, draws.between(0.6, 0.85))
        zenith, clouds = horizon, 0.0
    if weather == "rain":
        far, ambient = draws.between(60, 140), ambient * draws.between(0.75, 1.0)
    norm = float(np.sqrt(x * x + up * up + z * z))
    sun = x / norm, -up / norm, z / norm
    return weather, Light(sun, ambient, direct, far, horizon, zenith, clouds)


def _draw_surfaces(draws: Draws, wet: bool) -> tuple[Array, Array, str]:
    asphalt, pavement = draws.colour(0.2, 0.48, 0.02), draws.colour(0.4, 0.68, 0.05)
    beside = (
        [draws.between(0.2, 0.42), draws.between(0.34, 0.48), draws.between(0.1, 0.22)],
        [draws.between(0.5, 0.6), draws.between(0.42, 0.5), draws.between(0.28, 0.36)],
        draws.colour(0.35, 0.6, 0.04),
    )
    which = max(0, draws.choice(5) - 2)
    rough = np.array([draws.between(0.1, 0.7), draws.between(0.2, 0.7), draws.between(0.4, 0.9)])
    surfaces = np.array([asphalt, pavement, beside[which], [0.9, 0.9, 0.88]])
    if wet:
        surfaces[0] *= 0.6
        surfaces[1] *= 0.8
        rough[0] = 0.06
    return surfaces, rough, "ground" if which else "grass"
