"""Which frames are trained on: what stands still is told from what moves slowly, and steps follow how far it moves."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hybrid_encoder import InputError
from hybrid_encoder.data import Item, KittiDrive, SourceSequences, SyntheticDrive
from hybrid_encoder.data.sources import FrameSource, KittiSource, RenderedSource, VideoSource, cached, choose_items
from hybrid_encoder.data.sources.apparent_motion import THUMBNAIL, Thumbnail, thumbnail
from hybrid_encoder.data.sources.motion import MOVED, STILL

from helpers.videos import write_video

SIZE = (96, 320)


class Pictures(FrameSource):
    def __init__(self, pictures: Sequence[np.ndarray[Any, Any]], frames: list[int] | None = None) -> None:
        self.pictures, self.own = pictures, frames or list(range(len(pictures)))
        self.name, self.size = "pictures", (pictures[0].shape[1], pictures[0].shape[2])

    @property
    def frames(self) -> list[int]:
        return self.own

    def image(self, frame: int) -> np.ndarray[Any, Any]:
        return self.pictures[self.own.index(frame)]


def driven(step: float, count: int = 6, seed: int = 1) -> list[np.ndarray[Any, Any]]:
    """A street, seen every so many metres."""
    drive = SyntheticDrive(seed, 8, *SIZE)
    drive.__dict__["_street"] = replace(drive._street, step=step)
    return [drive[index].image for index in range(count)]


def noisy(image: np.ndarray[Any, Any], levels: float, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    noised: np.ndarray[Any, Any] = np.clip(image + rng.normal(0, levels / 255, image.shape), 0, 1).astype(np.float32)
    return noised


def motions(pictures: Sequence[np.ndarray[Any, Any]]) -> list[float]:
    small = [Thumbnail(thumbnail(picture)) for picture in pictures]
    return [one.motion_to(other) for one, other in pairwise(small)]


@pytest.mark.parametrize("shift", [0.25, 0.5, 1.0])
def test_the_measure_is_the_shift_in_pixels_of_the_thumbnail(shift: float) -> None:
    """On waves that are longer than the shift, of which the right value is known."""
    y, x = np.mgrid[: THUMBNAIL[0], : THUMBNAIL[1]].astype(np.float64)

    def waves(at: float) -> Thumbnail:
        # Along x only, so that the mean over both axes counts half: shift |dI/dx| over (|dI/dx| + 0) / 2.
        return Thumbnail(100 + 40 * np.sin((x - at) / 5) + 0 * y)

    assert waves(0).motion_to(waves(shift)) == pytest.approx(2 * shift, rel=0.1)
    assert waves(0).motion_to(waves(0)) == 0


def test_flat_images_do_not_move() -> None:
    flat, other = (Thumbnail(np.full(THUMBNAIL, value, np.float16)) for value in (40, 90))
    textured = Thumbnail(thumbnail(driven(0.5, 1)[0]))
    assert flat.motion_to(other) == flat.motion_to(textured) == 0
    assert textured.motion_to(flat) >= 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_slow_driving_moves_and_a_standing_camera_does_not(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    assert min(motions(driven(0.1, 4, seed))) > STILL, "0.1 m for each frame"
    one = driven(0.5, 1, seed)[0]
    assert max(motions([noisy(one, 3, rng) for _ in range(4)])) < STILL
    assert max(motions([np.clip(one * gain, 0, 1) for gain in (1, 1.1, 0.9, 1.2)])) < STILL, "another exposure"
    passing, car = [], driven(0.5, 1, seed + 10)[0][:, 40:80, 100:200]
    for number in range(5):  # an eighth of the image
        image = noisy(one, 2, rng)
        image[:, 40:80, 20 + 40 * number : 120 + 40 * number] = car
        passing.append(image)
    assert max(motions(passing)) < STILL
    pixels = [(noisy(one, 3, rng) * 255).round().astype(np.uint8).transpose(1, 2, 0) for _ in range(8)]
    for quality in ("18", "35"):
        video = VideoSource(write_video(tmp_path / "x.mp4", pixels, crf=quality), SIZE, folder=tmp_path / "cache")
        assert max(motions([video.image(frame) for frame in video.frames])) < STILL


def test_kitti_moves_and_copies_of_its_frames_with_noise_do_not(data: Path) -> None:
    source = KittiSource(KittiDrive(data / "kitti_mini" / "2011_09_26" / "2011_09_26_drive_0001_sync"))
    images, rng = [source.image(frame) for frame in source.frames], np.random.default_rng(0)
    assert min(motions(images)) > 2 * MOVED
    assert max(motions([noisy(images[0], 8, rng) for _ in range(3)])) < STILL
    assert choose_items([source]).items == [Item(0, frame, (frame - 1, frame + 1)) for frame in range(1, 5)]
    assert choose_items([source], step="motion") == choose_items([source])


def test_still_stretches_are_dropped_and_counted() -> None:
    moving, rng = driven(0.4, 6), np.random.default_rng(0)
    order = [0, 1, 2, 2, 2, 2, 2, 3, 4, 5]
    pictures = [noisy(moving[number], 2, rng) for number in order]
    choice = choose_items([Pictures(pictures)])
    # Where it begins to stand and where it starts again, one of the two neighbours has moved.
    assert [item.frame for item in choice.items] == [1, 2, 6, 7, 8]
    assert str(choice.reports[0]) == "pictures: 5 of 10 frames are used; 3 stand still and 2 lack a neighbour."
    assert len(choose_items([Pictures(pictures)], drop_still=False).items) == 8
    with pytest.raises(
        InputError, match=r"no frame can be trained on: pictures: 0 of 4 frames are used; 2 stand still"
    ):
        choose_items([Pictures(pictures[2:6])])


def test_a_step_is_counted_in_frames_also_across_gaps() -> None:
    pictures = driven(0.5, 8)
    choice = choose_items([Pictures(pictures, [0, 1, 2, 3, 4, 9, 10, 11])], (-1, 1), 2)
    assert choice.items == [Item(0, 2, (0, 4))]
    assert choose_items([Pictures(pictures)], (-2, 1), 2).items == [Item(0, 4, (0, 6)), Item(0, 5, (1, 7))]
    assert choose_items([Pictures(pictures)], ()).items == [Item(0, frame, ()) for frame in range(8)]


def test_steps_follow_how_far_the_image_has_moved() -> None:
    fast, slow = (RenderedSource(_Drive(step), f"{step} m") for step in (0.5, 0.125))
    assert [item.neighbours for item in choose_items([fast], step="motion").items] == [
        (f - 1, f + 1) for f in range(1, 7)
    ]
    choice = choose_items([slow], step="motion")
    middle = next(item for item in choice.items if item.frame == 4)
    small = [Thumbnail(thumbnail(slow.image(frame))) for frame in slow.frames]
    for item in choice.items:
        for sign, neighbour in zip((-1, 1), item.neighbours, strict=True):
            size = abs(neighbour - item.frame)
            nearer = [small[item.frame].motion_to(small[item.frame + sign * n]) for n in range(1, size)]
            assert all(motion < MOVED for motion in nearer), "it is the nearest"
            reached = small[item.frame].motion_to(small[neighbour]) >= MOVED
            assert reached or neighbour in (0, 7), "or the end"
    assert max(abs(n - 4) for n in middle.neighbours) >= 2
    capped = choose_items([slow], step="motion", max_step=1).items
    assert [item.neighbours for item in capped] == [(f - 1, f + 1) for f in range(1, 7)]


class _Drive:
    """A rendered drive with another step."""

    def __init__(self, step: float) -> None:
        self.drive = SyntheticDrive(1, 8, *SIZE)
        self.drive.__dict__["_street"] = replace(self.drive._street, step=step)
        self.frames = [self.drive[index] for index in range(8)]

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int, /) -> Any:
        return self.frames[index]


def test_a_cached_recording_is_judged_as_it_was_before(tmp_path: Path) -> None:
    plain = RenderedSource(_Drive(0.2))
    kept = cached(plain, (48, 160), folder=tmp_path)
    assert np.array_equal(kept.thumbnail(3), thumbnail(plain.image(3)))
    for step in (1, "motion"):
        assert choose_items([kept], step=step) == choose_items([plain], step=step)
    told: list[tuple[str, int, int | None]] = []
    chosen = choose_items([kept], step="motion", progress=lambda *what: told.append(what))
    assert told == [("synthetic drive", done, 8) for done in range(1, 9)]
    items = SourceSequences([kept], (48, 160), items=chosen.items)
    assert torch.equal(items[0].images[1], torch.from_numpy(kept.image(chosen.items[0].neighbours[0])))


@pytest.mark.parametrize("step", [0, -1, True, 1.5, "fast"])
def test_a_step_that_is_none_is_refused(step: Any) -> None:
    with pytest.raises(InputError, match=r"step is .*; give a number of frames, 1 or more, or 'motion'"):
        choose_items([Pictures(driven(0.5, 3))], step=step)
    with pytest.raises(InputError, match="max_step is 0; it must be at least 1"):
        choose_items([Pictures(driven(0.5, 3))], max_step=0)


class Counted(Pictures):
    """Pictures, and how many of them were being read at the same time."""

    def __init__(self, pictures: Sequence[np.ndarray[Any, Any]], in_files: bool) -> None:
        super().__init__(pictures)
        self.in_files, self.reads, self.most, self.now = in_files, 0, 0, 0
        self.two = threading.Condition()

    def file(self, frame: int) -> Path | None:
        return Path(f"{frame}.png") if self.in_files else None

    def image(self, frame: int) -> np.ndarray[Any, Any]:
        with self.two:
            self.reads, self.now = self.reads + 1, self.now + 1
            self.most = max(self.most, self.now)
            self.two.notify_all()
            if self.in_files:
                self.two.wait_for(lambda: self.most > 1, timeout=10)
        image = super().image(frame)
        with self.two:
            self.now -= 1
        return image


@pytest.mark.parametrize("step", [1, 2, "motion"])
def test_pictures_in_files_are_read_several_at_once_and_each_once(step: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    pictures = [picture for picture in driven(0.2) for _ in range(2)]  # the camera stands still for two frames each
    alone, together = Counted(pictures, in_files=False), Counted(pictures, in_files=True)
    assert choose_items([together], step=step) == choose_items([alone], step=step)
    assert (alone.most, together.most > 1) == (1, True)
    assert together.reads <= len(pictures) and alone.reads <= len(pictures)


def test_a_picture_that_cannot_be_read_ends_it() -> None:
    class Damaged(Counted):
        def image(self, frame: int) -> np.ndarray[Any, Any]:
            if frame == 4:
                raise InputError("4.png is damaged; copy it again.")
            return Pictures.image(self, frame)

    with pytest.raises(InputError, match=r"4\.png is damaged"):
        choose_items([Damaged(driven(0.2), in_files=True)])
