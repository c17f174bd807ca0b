"""Captions of streets: true to depth and colours, from the closed vocabulary."""

from __future__ import annotations

import re

import numpy as np
import pytest

from hybrid_encoder import InputError
from hybrid_encoder.config import DEPTH_WORDS
from hybrid_encoder.data import StreetDrive
from hybrid_encoder.data.street import (
    DEPTH_LIMITS,
    KINDS,
    VOCABULARY,
    distance_word,
    patch_caption,
    region_captions,
)

FRAMES = [StreetDrive(seed, num_frames=2)[1] for seed in range(24)]
DISTANCE = "|".join(sorted(DEPTH_WORDS, key=len, reverse=True))


def words(sentence: str) -> list[str]:
    return sentence.replace(",", "").split()


def test_limits_are_evenly_spaced_in_log_depth_and_words_go_from_near_to_far() -> None:
    assert np.ptp(np.diff(np.log(DEPTH_LIMITS))) < 1e-9 and len(DEPTH_LIMITS) == len(DEPTH_WORDS) - 1
    assert [distance_word(limit - 1e-6) for limit in (*DEPTH_LIMITS, np.inf)] == list(DEPTH_WORDS)
    assert [distance_word(limit) for limit in (0.0, *DEPTH_LIMITS)] == list(DEPTH_WORDS)


def test_every_word_is_in_the_vocabulary_and_most_of_it_is_used() -> None:
    used: set[str] = set()
    rng = np.random.default_rng(0)
    for frame in FRAMES:
        for caption in frame.captions:
            used.update(words(caption))
        for _ in range(20):
            left, top, wide, high = rng.integers((0, 0, 8, 8), (260, 60, 60, 36)).tolist()
            box = (left, top, left + wide, top + high)
            for caption in (*region_captions(frame, box), patch_caption(frame, box)):
                used.update(words(caption))
    assert used <= set(VOCABULARY) and len(used) > 0.75 * len(VOCABULARY)
    assert len(VOCABULARY) < 90 and list(VOCABULARY) == sorted(set(VOCABULARY))


def test_captions_name_objects_of_that_kind_colour_distance_and_side() -> None:
    told = 0
    for frame in FRAMES:
        assert len(frame.captions) == len(set(frame.captions)) >= 2
        for caption in frame.captions:
            match = re.fullmatch(rf"an? (moving )?(.+?) ({DISTANCE}) (on the left|ahead|on the right)", caption)
            if match is None or " and " in caption:
                continue
            moving, what, far, side = match.groups()
            fitting = [
                obj
                for obj in frame.objects
                if distance_word(obj.distance) == far
                and side.endswith(obj.side)
                and (obj.moving or not moving)
                and what in (f"{obj.colour} {obj.kind}".strip(), f"person in {obj.colour}", f"cyclist in {obj.colour}")
            ]
            assert fitting, caption
            told += 1
    assert told > 60


def test_the_patch_sentence_says_the_median_depth() -> None:
    rng = np.random.default_rng(1)
    said = set()
    for frame in FRAMES:
        for _ in range(10):
            left, top = rng.integers((0, 0), (304, 80)).tolist()
            depth = float(np.median(frame.depth[0, top : top + 16, left : left + 16]))
            caption = patch_caption(frame, (left, top, left + 16, top + 16))
            assert caption == f"This patch appears to be {distance_word(depth)}"
            said.add(caption)
    assert len(said) == len(DEPTH_WORDS)


def test_a_region_is_told_by_its_largest_part() -> None:
    for frame in FRAMES:
        obj = max(frame.objects, key=lambda o: o.pixels)
        number = 1 + frame.objects.index(obj)
        left, top, right, bottom = obj.box
        mask = frame.instance[0, top:bottom, left:right] == number
        if mask.mean() < 0.6:
            continue
        first = region_captions(frame, obj.box)[0]
        assert obj.colour in first and (obj.kind in first or obj.kind == "bicycle")
        assert f"{distance_word(obj.distance)} " in first and first.endswith(obj.side)
        assert not region_captions(frame, obj.box, where=False)[0].endswith(("left", "ahead", "right"))


def test_sky_and_ground_are_told_without_a_side() -> None:
    found: set[str] = set()
    for frame in FRAMES:
        for top in range(0, 96, 8):
            for left in range(0, 320, 16):
                part = frame.kind[0, top : top + 8, left : left + 16]
                if (part == part[0, 0]).all() and KINDS[part[0, 0]] in ("sky", "road", "grass", "pavement"):
                    kind = KINDS[part[0, 0]]
                    (caption,) = region_captions(frame, (left, top, left + 16, top + 8))
                    depth = float(np.median(frame.depth[0, top : top + 8, left : left + 16]))
                    assert caption == ("the sky" if kind == "sky" else f"the {kind}, {distance_word(depth)}")
                    found.add(kind)
    assert found == {"sky", "road", "grass", "pavement"}


@pytest.mark.parametrize("box", [(0, 0, 0, 10), (-1, 0, 5, 5), (300, 0, 321, 10), (5, 90, 10, 97)])
def test_boxes_outside_of_the_frame_are_named(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError, match=r"box is \(.*must lie in the 96 x 320 frame"):
        region_captions(FRAMES[0], box)
